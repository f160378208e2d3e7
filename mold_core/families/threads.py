"""The number of threads that torch computes with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["compute_threads"]


@contextmanager
def compute_threads(count: int | None) -> Iterator[None]:
    """Compute with `count` threads inside; None leaves their number as it is.

    torch has one setting for the whole process, so the previous one is restored at the end.
    """
    import torch

    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
