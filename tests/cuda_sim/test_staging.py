"""Weights on their way to a pretend GPU: right, overlapped, and without a race for the pinned buffers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pretend_cuda import Event, pretend_cuda
from torch import Tensor, nn

from mold_core.weights import PackedTensor, load_weights, staging, type_named


@pytest.fixture(autouse=True)
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "_BUFFER_BYTES", 4096)


def network() -> nn.Module:
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(64, 200), nn.Linear(200, 3), nn.Linear(64, 96, bias=False))


def weights() -> dict[str, Tensor | PackedTensor]:
    plain = {
        name: torch.randn(parameter.shape).to(torch.float16 if name == "0.weight" else torch.float32)
        for name, parameter in network().named_parameters()
        if name != "2.weight"
    }
    blocks = torch.zeros(96, 68, dtype=torch.uint8)  # Q8_0: two blocks of 32 numbers a row, each after its fp16 scale
    for first in (0, 34):
        blocks[:, first : first + 2] = torch.tensor([0.25], dtype=torch.float16).view(torch.uint8)
        blocks[:, first + 2 : first + 34] = torch.randint(0, 256, (96, 32), dtype=torch.uint8)
    return {**plain, "2.weight": PackedTensor(data=blocks, type=type_named("Q8_0"), shape=(96, 64))}


def loaded(device: str | None, given: dict[str, Tensor | PackedTensor]) -> list[Tensor]:
    module = network()
    load_weights(module, given, Path("w.safetensors"), dtype=torch.float32, device=device, compile="off")
    x = torch.ones(2, 64)
    x = x if device is None else x.to(device)
    return [module[0](x), module[1].weight, module[1].bias, module[2](x)]


def test_every_number_arrives_and_no_buffer_is_written_while_it_is_read() -> None:
    given = weights()
    expected = loaded(None, given)
    with pretend_cuda() as gpu, torch.inference_mode():
        found = loaded("cuda:0", given)
    assert gpu.races == []
    assert gpu.pins == 3
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_the_wait_for_a_buffer_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Event, "synchronize", lambda event: None)
    with pretend_cuda() as gpu, torch.inference_mode():
        loaded("cuda:0", weights())
    assert any("the host may write" in race for race in gpu.races)
    assert any("given back" in race for race in gpu.races)


def test_weights_arrive_where_nothing_can_be_pinned() -> None:
    given = weights()
    with pretend_cuda(pin_bytes=0) as gpu, torch.inference_mode():
        found = loaded("cuda:0", given)
    assert (gpu.pinned, gpu.last_error) == (0, None)
    for one, other in zip(found, loaded(None, given), strict=True):
        assert torch.equal(one, other)
