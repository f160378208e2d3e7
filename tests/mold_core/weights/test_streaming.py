"""Blocks that are brought when they are used give what they give in memory, and take what is said."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn

from mold_core import ModelComponent, plan_memory
from mold_core.weights import BlockStream, LoadedComponents, load_weights
from mold_core.weights.streaming import tensors_of


class Block(nn.Module):
    """Two layers, the second of which is used by itself as well."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mod = nn.Linear(width, width)
        self.rest = nn.Linear(width, width)
        self.register_buffer("table", torch.arange(3))

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        return torch.relu(self.rest(x)) + shift + self.table.sum()


class Network(nn.Module):
    def __init__(self, width: int = 16, depth: int = 5) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        shifts = [block.mod(x) for block in self.blocks]
        for block, shift in zip(self.blocks, shifts, strict=True):
            x = block(x, shift)
        return x

    def units(self) -> list[nn.Module]:
        return [*(block.mod for block in self.blocks), *self.blocks]


def network(dtype: torch.dtype = torch.float32) -> Network:
    torch.manual_seed(1)
    return Network().to(dtype)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_a_streamed_network_gives_the_same_bits(stored: torch.dtype) -> None:
    x = torch.randn(4, 16)
    expected = network(stored).float()(x)
    streamed = network(stored)
    stream = BlockStream(streamed, streamed.units(), device="cpu", dtype=torch.float32)
    with torch.inference_mode():
        assert torch.equal(streamed(x), expected)
    assert torch.equal(streamed(x), expected)
    # A slot holds the larger of both units: a layer of 17x16 numbers, and the buffer, each from a multiple of 256 on.
    assert stream.size_bytes == 17 * 16 * 4 + 1024 + 256 + 256


class Rotary(nn.Module):
    """Frequencies that are computed, and whose angles need all bits of fp32, as in rotary embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", 1.1 ** -torch.arange(16.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.frequencies * 1000).cos().to(x.dtype)


@pytest.mark.parametrize("inside", [True, False], ids=["in a streamed block", "in what stays"])
def test_streaming_rounds_no_buffer(inside: bool) -> None:
    def build() -> nn.Sequential:
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(16, 16), nn.Sequential(nn.Linear(16, 16), Rotary()))

    whole, streamed = build(), build()
    for parameter in whole.parameters():
        parameter.data = parameter.data.bfloat16()
    stream = BlockStream(streamed, [streamed[1] if inside else streamed[0]], device="cpu", dtype=torch.bfloat16)
    x = torch.randn(4, 16, dtype=torch.bfloat16)
    assert torch.equal(streamed(x), whole(x))
    stream.close()
    assert streamed[1][1].frequencies.dtype == torch.float32


def test_what_is_not_in_the_slot_stays_where_it_was() -> None:
    one = network()
    homes = [tensor.data_ptr() for tensor in tensors_of(one)]
    stream = BlockStream(one, one.units(), device="cpu", dtype=torch.float32)
    one(torch.zeros(1, 16))
    moved = sum(tensor.data_ptr() != home for tensor, home in zip(tensors_of(one), homes, strict=True))
    assert moved == 3
    stream.close()
    assert [tensor.data_ptr() for tensor in tensors_of(one)] == homes
    assert stream.size_bytes == 0


# --- parts -------------------------------------------------------------------------------------------------------


class DiskInventory:
    """Three parts of 100 bytes that note when they are loaded."""

    def __init__(self, room: int | None = None, strategy: str | None = None, streamed: bool = False) -> None:
        parts = [
            ModelComponent(name=name, size_bytes=100, device="cpu", streamed_bytes=50 if streamed else None)
            for name in "abc"
        ]
        self.loads: list[str] = []
        plan = plan_memory(parts, {} if room is None else {"cpu": room}, strategy)  # type: ignore[arg-type]
        self.parts = LoadedComponents(plan, {name: self._loader(name) for name in "abc"})

    def _loader(self, name: str):  # type: ignore[no-untyped-def]
        def load(report: object) -> tuple[nn.Module, None]:
            self.loads.append(name)
            with torch.device("meta"):
                module = nn.Linear(25, 1, bias=False)
            load_weights(module, {"weight": torch.zeros(1, 25)}, "here")
            return module, None

        return load

    def use(self, *names: str) -> list[tuple[str, ...]]:
        """Use parts in turn; return what was in memory during each use."""
        seen = []
        for name in names:
            with self.parts.use(name, print):
                seen.append(self.parts.names)
        return seen


def test_a_sequential_plan_that_is_asked_for_holds_one_part_and_then_none() -> None:
    shelf = DiskInventory(strategy="sequential")
    assert shelf.use("a", "b", "c") == [("a",), ("b",), ("c",)]
    assert (shelf.parts.names, shelf.parts.size_bytes()) == ((), 0)


def test_a_sequential_plan_that_was_chosen_keeps_what_there_is_room_for() -> None:
    shelf = DiskInventory(room=200)
    assert shelf.use("a", "b", "c", "b") == [("a",), ("a", "b"), ("b", "c"), ("c", "b")]
    assert shelf.loads == ["a", "b", "c"]
    assert shelf.parts.size_bytes("cpu") == 200
    assert shelf.parts.size_bytes("cuda") == 0


def test_an_eager_plan_keeps_all() -> None:
    shelf = DiskInventory()
    shelf.parts.load_all(print)
    assert shelf.use("a", "c") == [("b", "c", "a"), ("b", "a", "c")]
    assert shelf.loads == ["a", "b", "c"]


def test_a_part_in_use_is_not_dropped_for_another() -> None:
    shelf = DiskInventory(strategy="sequential")
    with shelf.parts.use("a", print):
        assert shelf.use("b") == [("a", "b")]
        assert shelf.parts.names == ("a",)


def test_closing_frees_everything() -> None:
    shelf = DiskInventory()
    shelf.parts.load_all(print)
    shelf.parts.close()
    assert (shelf.parts.names, shelf.parts.size_bytes()) == ((), 0)


def test_a_thread_waits_for_room_that_another_one_takes() -> None:
    plan = plan_memory(
        [ModelComponent(name=name, size_bytes=1024, device="cpu") for name in "ab"], {"cpu": 1500}, "sequential"
    )
    parts = LoadedComponents(plan, {name: lambda report: (nn.Linear(16, 16, bias=False), None) for name in "ab"})
    held: list[tuple[str, ...]] = []
    used = threading.Event()

    def use_b() -> None:
        with parts.use("b", lambda event: None):
            held.append(parts.names)
        used.set()

    with parts.use("a", lambda event: None):
        other = threading.Thread(target=use_b)
        other.start()
        assert not used.wait(0.2)
        held.append(parts.names)
    other.join()
    assert held == [("a",), ("b",)]
