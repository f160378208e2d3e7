"""Which parts of a model are in memory when: three strategies, what each needs, and the first that fits.

- ``eager``: all parts stay in memory.
- ``sequential``: a part is loaded when it is used, and dropped before the next one is loaded.
- ``offload``: as sequential, and of the parts that can be streamed only a few blocks are on the device at a time.

Nothing here knows a model family or imports torch: families say what their parts take (`ModelComponent`), measured from
the headers of the files, the engine says what room there is, and `plan_memory` compares.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import attrs

from mold_core.errors import InsufficientMemoryError

__all__ = ["STRATEGIES", "MemoryPlan", "MemoryPolicy", "ModelComponent", "Strategy", "needed_bytes", "plan_memory"]

Strategy = Literal["eager", "sequential", "offload"]

# From the fastest, which needs most, to the slowest.
STRATEGIES: tuple[Strategy, ...] = ("eager", "sequential", "offload")


@attrs.frozen(kw_only=True)
class ModelComponent:
    """A part of a model that is loaded as a whole: a text encoder, a transformer, an autoencoder.

    `size_bytes`: its weights in memory on `device` (a torch device name), as they will be held there. `working_bytes`:
    what computing with it takes besides, for one request of the size that is planned for. `together`: how many of the
    requests of a batch it computes at once at most; None means all of them. `streamed_bytes`: what its weights take on
    the device when they are streamed block by block; None where they cannot be. `files`: what it is loaded from.
    """

    name: str
    size_bytes: int
    device: str
    working_bytes: int = 0
    streamed_bytes: int | None = None
    files: tuple[Path, ...] = ()
    together: int | None = None

    def working_bytes_for(self, requests: int) -> int:
        """Return what computing with it takes besides its weights, for a batch."""
        return self.working_bytes * (requests if self.together is None else min(requests, self.together))


@attrs.frozen(kw_only=True)
class MemoryPolicy:
    """What a person asked for; what is not here is decided by what fits.

    `devices` maps names of parts, or of groups of them, to torch device names; a family says which names it knows.
    `variants` maps names of parts to the tag of the file to use where there are several (``{"t5": "q8"}``).
    """

    strategy: Strategy | None = None
    devices: Mapping[str, str] = attrs.Factory(dict)
    variants: Mapping[str, str] = attrs.Factory(dict)

    def device_of(self, *names: str, default: str) -> str:
        """Return the device asked for under the first of the names that has one, else `default`."""
        return next((self.devices[name] for name in names if name in self.devices), default)


@attrs.frozen(kw_only=True)
class MemoryPlan:
    """How a model is held in memory. `room` is what it may take, in bytes by device.

    `asked` says that the strategy was asked for rather than chosen, so that it is kept to to the letter: without it
    the parts of a sequential plan stay in memory for as long as there is room.
    """

    strategy: Strategy
    parts: tuple[ModelComponent, ...]
    room: Mapping[str, int]
    asked: bool = False

    def part(self, name: str) -> ModelComponent:
        """Return one part. Raises KeyError."""
        for part in self.parts:
            if part.name == name:
                return part
        raise KeyError(name)

    def streams(self, name: str) -> bool:
        """Say whether the blocks of a part are streamed to its device."""
        return self.strategy == "offload" and self.part(name).streamed_bytes is not None

    def held_bytes(self, name: str) -> int:
        """Return what the weights of a part take on its device while it is used."""
        part = self.part(name)
        return part.streamed_bytes or 0 if self.streams(name) else part.size_bytes

    def keep_bytes(self, device: str) -> int:
        """Return how many bytes of parts may stay on a device after they were used."""
        if self.strategy == "eager":
            return sys.maxsize
        if self.asked:
            return 0
        working = max((part.working_bytes for part in self.parts if part.device == device), default=0)
        return max(0, self.room.get(device, 0) - working)

    def spare_bytes(self, device: str) -> int:
        """Return what is left of the room of a device when everything is in memory; 0 where not all may be at once."""
        if self.strategy != "eager" or device not in self.room:
            return 0
        return max(0, self.room[device] - self.peak_bytes(device))

    def peak_bytes(self, device: str) -> int:
        """Return the most that the plan takes on a device, weights and working memory."""
        return needed_bytes(self.parts, self.strategy).get(device, 0)

    def most_together(self, requests: int) -> int:
        """Return how many of so many requests fit into memory in one batch; at least one."""
        fitting = (
            count
            for count in range(requests, 1, -1)
            if _fits(needed_bytes(self.parts, self.strategy, requests=count), self.room)
        )
        return next(fitting, 1)

    def fits_two(self) -> bool:
        """Say whether two parts may compute at the same time: the decoder, say, beside the transformer."""
        return _fits(needed_bytes(self.parts, self.strategy, at_once=2), self.room)


def needed_bytes(
    parts: Sequence[ModelComponent], strategy: Strategy, *, requests: int = 1, at_once: int = 1
) -> dict[str, int]:
    """Return the most that a model takes under a strategy, in bytes by device.

    `requests` is how many are computed in a batch, `at_once` how many parts compute at the same time.
    """
    needed: dict[str, int] = {}
    for device in dict.fromkeys(part.device for part in parts):
        here = [part for part in parts if part.device == device]
        working = [part.working_bytes_for(requests) for part in here]
        if strategy == "eager":
            needed[device] = sum(part.size_bytes for part in here) + _largest(working, at_once)
        else:
            alone = [_held(part, strategy) + bytes_ for part, bytes_ in zip(here, working, strict=True)]
            needed[device] = _largest(alone, at_once)
    return needed


def plan_memory(
    parts: Sequence[ModelComponent],
    room: Mapping[str, int],
    wanted: Strategy | None = None,
    *,
    model: str = "the model",
) -> MemoryPlan:
    """Return the fastest plan that fits into `room` (bytes by device; a device that is not there has no limit).

    With `wanted` only that strategy is looked at. Raises InsufficientMemoryError that says what would be needed.
    """
    for strategy in STRATEGIES if wanted is None else (wanted,):
        needed = needed_bytes(parts, strategy)
        if _fits(needed, room):
            return MemoryPlan(strategy=strategy, parts=tuple(parts), room=dict(room), asked=wanted is not None)
    raise _too_large(parts, room, wanted, model)


def _held(part: ModelComponent, strategy: Strategy) -> int:
    streamed = strategy == "offload" and part.streamed_bytes is not None
    return part.streamed_bytes or 0 if streamed else part.size_bytes


def _largest(sizes: Sequence[int], count: int) -> int:
    """Return the sum of the largest numbers, `count` of them."""
    return sum(sorted(sizes, reverse=True)[:count])


def _fits(needed: Mapping[str, int], room: Mapping[str, int]) -> bool:
    """Say whether bytes by device fit; a device without an entry in `room` has no limit."""
    return all(size_bytes <= room.get(device, size_bytes) for device, size_bytes in needed.items())


def _too_large(
    parts: Sequence[ModelComponent], room: Mapping[str, int], wanted: Strategy | None, model: str
) -> InsufficientMemoryError:
    strategy = wanted or STRATEGIES[-1]
    over = {
        device: size_bytes
        for device, size_bytes in needed_bytes(parts, strategy).items()
        if size_bytes > room.get(device, size_bytes)
    }
    needs = " and ".join(
        f"{size_bytes / 1e9:.1f} GB on {device}, where the budget is {room[device] / 1e9:.1f} GB"
        for device, size_bytes in over.items()
    )
    way_out = (
        "let mold choose how it is held in memory (leave the strategy out)"
        if wanted is not None and wanted != STRATEGIES[-1]
        else "use a smaller tag (mold list) or a smaller size, or raise MOLD_MEMORY_BUDGET_GB"
    )
    return InsufficientMemoryError(
        f"model {model!r} needs {needs}, even with strategy {strategy}"
        if wanted is None
        else f"model {model!r} with strategy {strategy} needs {needs}",
        field="model",
        value=model,
        hint=way_out,
    )
