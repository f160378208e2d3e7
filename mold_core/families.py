"""What model families share: stages that are reported, the number of threads, size rules of a model.

What computes with weights is in `mold_core.weights`: the dtype of a device (`fast_dtype`), components that are loaded
as planned (`LoadedComponents`), checks for numbers that are not finite (`check_finite`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

from mold_core.wire import StageDone, StageStart

if TYPE_CHECKING:
    from mold_core.catalog import ModelSpec
    from mold_core.hookspecs import Run, SizeRules

__all__ = ["compute_threads", "sizes_from_options", "stage"]


@contextmanager
def stage(run: Run, name: str) -> Iterator[None]:
    """Report the begin of a stage of the work, and its end with the time that it took. An error reports no end."""
    run.report(StageStart(name=name))
    started = perf_counter()
    yield
    run.report(StageDone(name=name, elapsed_ms=round((perf_counter() - started) * 1000)))


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


def sizes_from_options(spec: ModelSpec, rules: SizeRules) -> SizeRules:
    """Return the size rules of a model: those in its ``options.sizes``, else the family's `rules`."""
    from mold_core.hookspecs import SizeRules

    own: dict[str, Any] | None = spec.options.get("sizes")
    if own is None:
        return rules
    return SizeRules(**{**own, "recommended": tuple((width, height) for width, height in own["recommended"])})
