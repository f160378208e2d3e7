"""What every stage of the GPU benchmark is given, and how it says that it cannot run."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

__all__ = ["Figures", "Setup", "Skipped", "agree", "attribute", "forget", "peak_bytes", "reset_peak", "synchronize"]

Figures = dict[str, Any]


class Skipped(Exception):
    """A stage that this machine cannot run; the message says why."""


@attrs.frozen(kw_only=True)
class Setup:
    """Where to run, and whether networks are tiny ones that prove the code only. `folder` is for files of a stage."""

    device: str
    tiny: bool
    folder: Path

    @property
    def cuda(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def backend(self) -> str:
        """The compiler of compiled networks. Tiny runs trace only, which leaves out the minutes that inductor takes."""
        return "eager" if self.tiny else "inductor"


def synchronize(setup: Setup) -> None:
    """Wait for the device."""
    import torch

    if setup.cuda:
        torch.cuda.synchronize()


def reset_peak(setup: Setup) -> None:
    """Begin to measure the most memory that is used from now on."""
    import torch

    if setup.cuda:
        torch.cuda.reset_peak_memory_stats()


def peak_bytes(setup: Setup) -> int:
    """Return the most device memory that tensors took since `reset_peak`; 0 on a CPU, which is not measured."""
    import torch

    return torch.cuda.max_memory_allocated() if setup.cuda else 0


def forget(setup: Setup) -> None:
    """Free what nothing refers to, compiled code too."""
    import torch

    torch._dynamo.reset()
    gc.collect()
    if setup.cuda:
        torch.cuda.empty_cache()


def agree(what: str, made: Any, expected: Any, most: float) -> float:
    """Return how far a tensor is off, relative to the norm of what is expected. Raise AssertionError beyond `most`."""
    made, expected = made.detach().cpu().double(), expected.detach().cpu().double()
    off = float((made - expected).norm() / expected.norm().clamp(min=1e-30))
    if not off <= most:  # also for what is not a number
        raise AssertionError(f"{what} is {off:.2%} off, and at most {most:.2%} are allowed")
    return off


@contextmanager
def attribute(owner: Any, name: str, value: object) -> Iterator[None]:
    """Set an attribute for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
