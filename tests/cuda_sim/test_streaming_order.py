"""Streaming on a pretend GPU: uses of slots and pinned memory are ordered, and failed pinning costs only speed."""

from __future__ import annotations

import gc

import pytest
import torch
from pretend_cuda import PretendGpu, Stream, pretend_cuda
from torch import Tensor, nn

from mold_core.weights import BlockStream
from mold_core.weights import streaming as module_of_streaming

WIDTH, DEPTH = 16, 5
UNIT_BYTES = WIDTH * WIDTH * 4 + 256


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = torch.relu(block(x))
        return x


def network() -> Network:
    torch.manual_seed(1)
    return Network().eval().requires_grad_(False)


X = torch.linspace(-1, 1, 4 * WIDTH).view(4, WIDTH)


def streamed_twice(gpu: PretendGpu, within: int | None = 10**6) -> Tensor:
    """Run a streamed network twice on a GPU that is at work already, close it, and let its memory go."""
    X.to("cuda:0").mul(2)
    one = network()
    stream = BlockStream(one, list(one.blocks), device="cuda:0", dtype=torch.float32, pin=True, pin_within_bytes=within)
    with torch.inference_mode():
        for _ in range(2):
            out = one(X.to("cuda:0"))
    stream.close()
    del stream, one
    gc.collect()
    return out


def test_nothing_that_streaming_does_is_a_race() -> None:
    with pretend_cuda() as gpu:
        out = streamed_twice(gpu)
    assert gpu.races == []
    assert (gpu.pins, gpu.pinned) == (DEPTH, 0)
    assert torch.equal(out, network()(X))


@pytest.mark.parametrize(
    ("where", "what", "race"),
    [
        (module_of_streaming._Slot, "wait_for_copy", "may run before"),
        (module_of_streaming._Slot, "done", "may run before"),
        (Stream, "synchronize", "given back"),
        (Stream, "wait_stream", "may run before"),
    ],
)
def test_each_wait_is_needed(where: type, what: str, race: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(where, what, lambda *arguments: None)
    with pretend_cuda() as gpu:
        streamed_twice(gpu)
    assert any(race in found for found in gpu.races)


def test_pinning_that_fails_is_tried_once_and_no_later_work_is_blamed_for_it() -> None:
    with pretend_cuda(pin_bytes=0) as gpu:
        out = streamed_twice(gpu)
    assert gpu.pins == 1
    assert torch.equal(out, network()(X))


@pytest.mark.parametrize(
    ("within", "can", "pinned"),
    [(3 * UNIT_BYTES, None, 3), (UNIT_BYTES - 1, None, 0), (10**6, 2 * UNIT_BYTES, 2), (10**6, None, DEPTH)],
)
def test_as_many_blocks_are_pinned_as_there_is_memory_for(within: int, can: int | None, pinned: int) -> None:
    one = network()
    with pretend_cuda(pin_bytes=can) as gpu:
        stream = BlockStream(
            one, list(one.blocks), device="cuda:0", dtype=torch.float32, pin=True, pin_within_bytes=within
        )
        assert (gpu.pinned, stream.pinned_bytes) == (pinned, pinned * UNIT_BYTES)
        with torch.inference_mode():
            assert torch.equal(one(X), network()(X))
        stream.close()


def test_half_of_the_memory_is_pinned_where_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_of_streaming, "available_bytes", lambda: 4 * UNIT_BYTES)
    one = network()
    with pretend_cuda() as gpu:
        BlockStream(one, list(one.blocks), device="cuda:0", dtype=torch.float32, pin=True)
    assert gpu.pinned == 2


def test_closing_on_a_device_that_has_failed_frees_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(stream: Stream) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    one = network()
    homes = [tensor.data_ptr() for tensor in one.blocks.parameters()]
    with pretend_cuda() as gpu:
        stream = BlockStream(one, list(one.blocks), device="cuda:0", dtype=torch.float32)
        one(X)
        monkeypatch.setattr(Stream, "synchronize", fail)
        stream.close()
    assert (stream.size_bytes, gpu.pinned) == (0, 0)
    assert [tensor.data_ptr() for tensor in one.blocks.parameters()] == homes


def test_the_first_block_of_every_pass_is_on_its_way_before_it_is_used() -> None:
    with pretend_cuda():
        one = network()
        units = list(one.blocks)
        stream = BlockStream(one, units, device="cuda:0", dtype=torch.float32)
        first = stream._units[0]
        for _ in range(2):
            assert stream._slot_of(first) is not None
            with torch.inference_mode():
                out = one(X.to("cuda:0"))
        assert torch.equal(out, network()(X))
        stream.close()
