"""Networks stop between two blocks, compiled or not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mold_core import CancelledError
from mold_core.cancelling import cancelled_by, check_cancelled, current_check
from mold_core.weights import check_between_blocks, empty_modules, load_weights


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Sequential(nn.Linear(4, 4), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(x)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(5))
        self.ran = 0

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
            self.ran += 1
        return x


class Countdown:
    """Cancels at the call of a number."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self) -> None:
        self.left -= 1
        if not self.left:
            raise CancelledError("the job was cancelled")


def network() -> Network:
    torch.manual_seed(0)
    made = Network()
    with empty_modules():
        empty = Network()
    load_weights(empty, made.state_dict(), "a test")
    return empty


def test_a_filled_network_stops_before_its_next_block() -> None:
    module = network()
    with cancelled_by(Countdown(3)), pytest.raises(CancelledError):
        module(torch.zeros(1, 4))
    assert module.ran == 2


def test_blocks_that_are_compiled_one_by_one_stop_the_same_way() -> None:
    module = network()
    for block in module.blocks:
        block.forward = torch.compile(block.forward, backend="eager", fullgraph=True)  # type: ignore[method-assign]
    with torch.inference_mode():
        expected = network()(torch.ones(1, 4))
        assert torch.equal(module(torch.ones(1, 4)), expected)
        module.ran = 0
        with cancelled_by(Countdown(3)), pytest.raises(CancelledError):
            module(torch.ones(1, 4))
        assert module.ran == 2


def test_a_network_that_is_compiled_as_a_whole_computes_the_same() -> None:
    module = network()
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    with torch.inference_mode(), cancelled_by(lambda: None):
        assert torch.equal(compiled(torch.ones(1, 4)), network()(torch.ones(1, 4)))


def test_a_network_that_is_filled_twice_asks_once() -> None:
    module, asked = network(), []
    check_between_blocks(module)
    with cancelled_by(lambda: asked.append(1)):
        module(torch.zeros(1, 4))
    assert len(asked) == 5


def test_filling_stops_between_two_tensors() -> None:
    weights = Network().state_dict()
    with empty_modules():
        empty = Network()
    with cancelled_by(Countdown(3)), pytest.raises(CancelledError):
        load_weights(empty, weights, "a test")
    assert all(tensor.is_meta for tensor in empty.parameters())


def test_nobody_is_asked_where_nobody_has_said_whom_to_ask() -> None:
    check_cancelled()
    with cancelled_by(Countdown(1)):
        with pytest.raises(CancelledError):
            check_cancelled()
        check = current_check()
    check_cancelled()
    check()
