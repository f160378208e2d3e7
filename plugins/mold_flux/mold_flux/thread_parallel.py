"""A batch of small images on several threads: a share of it on each, instead of every operation on all."""

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
    """Return which of `count` images each thread takes, as equal as can be; threads without any are left out."""
    parts = max(1, min(count, threads))
    return [slice(*ends) for ends in pairwise(count * part // parts for part in range(parts + 1))]


def can_share(network: nn.Module) -> bool:
    """Say whether several threads may run a network at once: no layers that expand into one memory, no hooks.

    Hooks bring the weights of streamed blocks, and may add a LoRA's; the one of cancelling is harmless.
    """
    return not any(
        isinstance(module, PackedLinear)
        or module._forward_hooks
        or any(hook is not check_before_block for hook in module._forward_pre_hooks.values())
        for module in network.modules()
    )


def thread_parallel(work: Work[Result], parts: Sequence[slice]) -> list[Result]:
    """Return what `work` makes of each part: of the first in this thread, of each other in a thread of its own.

    With several parts, each computes with one thread of torch's. `work` is given a function to call now and then, which
    ends it when another part has failed. The error of the part that failed is raised when all have ended.

    PERF: an operation on a few small images takes 10 to 1000 µs, too little to divide: each would end in waiting for
    the slowest thread, which on a busy machine may not even be running. Apart, threads wait once.
    """
    if len(parts) == 1:
        return [work(parts[0], lambda: None)]
    failed = Event()

    def check() -> None:
        if failed.is_set():
            raise _AbandonedError

    def run(part: slice) -> Result:
        torch.set_num_threads(1)  # it holds for the thread that says so
        try:
            with torch.inference_mode():
                return work(part, check)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(len(parts) - 1, "mold-share") as pool:
        others = [pool.submit(run, part) for part in parts[1:]]
        try:
            first = run(parts[0])
        except _AbandonedError:
            pass
        else:
            if not failed.is_set():
                return [first, *(other.result() for other in others)]
    errors = [error for other in others if (error := other.exception()) and not isinstance(error, _AbandonedError)]
    raise errors[0]


class _AbandonedError(Exception):
    """Another share of the batch has failed, so this one is of no use."""
