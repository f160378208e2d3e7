"""Compute a batch of small images in parallel: each thread takes a share of the images, not of each operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Event
from typing import TypeVar

import torch
from torch import nn

from mold_core.weights import PackedLinear, check_before_block

__all__ = ["can_share", "shares", "thread_parallel"]

Result = TypeVar("Result")
Work = Callable[[slice, Callable[[], None]], Result]


def shares(count: int, threads: int) -> list[slice]:
    """Return the images of each thread, in shares as equal as possible; threads without images are left out."""
    number = max(1, min(count, threads))
    return [slice(*ends) for ends in pairwise(count * index // number for index in range(number + 1))]


def can_share(network: nn.Module) -> bool:
    """Return whether several threads may run a network at once: no layers share scratch memory, and there are no hooks.

    Hooks load the weights of streamed blocks, and may add a LoRA; the hook for cancelling is harmless.
    """
    return not any(
        isinstance(module, PackedLinear)
        or module._forward_hooks
        or any(hook is not check_before_block for hook in module._forward_pre_hooks.values())
        for module in network.modules()
    )


def thread_parallel(work: Work[Result], slices: Sequence[slice]) -> list[Result]:
    """Return the results of `work` for each slice: the first in this thread, each other in its own thread.

    With several slices, torch computes each with one thread. `work` gets a function to call from time to time, which
    raises when another slice has failed. The error of the failed slice is raised when all threads have ended.

    PERF: an operation on a few small images takes 10 to 1000 µs, which is too short to divide: each would wait for the
    slowest thread, which on a busy machine may not even be running. Separate threads wait once.
    """
    if len(slices) == 1:
        return [work(slices[0], lambda: None)]
    failed = Event()

    def check() -> None:
        if failed.is_set():
            raise _AbandonedError

    def run(share: slice) -> Result:
        torch.set_num_threads(1)  # applies to this thread
        try:
            with torch.inference_mode():
                return work(share, check)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(len(slices) - 1, "mold-share") as pool:
        others = [pool.submit(run, share) for share in slices[1:]]
        try:
            first = run(slices[0])
        except _AbandonedError:
            pass
        else:
            if not failed.is_set():
                return [first, *(other.result() for other in others)]
    errors = [error for other in others if (error := other.exception()) and not isinstance(error, _AbandonedError)]
    raise errors[0]


class _AbandonedError(Exception):
    """Another share of the batch has failed, so this one is abandoned."""
