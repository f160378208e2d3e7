"""Shared by the benchmarks: paired measurements and the final line of JSON."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Literal

__all__ = ["NANO", "Comparison", "compare", "compare_commands", "report"]

MetricSample = Callable[[], float]

# The model most benchmarks run: the one that ships.
NANO = Path(__file__).parent.parent / "plugins/mold_nano/mold_nano/models/flux-nano"


class Comparison:
    """Times of two alternatives, measured in turn, so that a change of the machine's speed affects both."""

    def __init__(self, ours: list[float], theirs: list[float]) -> None:
        self.ours = ours
        self.theirs = theirs

    @property
    def ratio(self) -> float:
        """Median of the ratios ours ÷ theirs, pair by pair."""
        return statistics.median(a / b for a, b in zip(self.ours, self.theirs, strict=True))

    def describe(self, ours: str, theirs: str) -> str:
        """Return the medians and the ratio in words, times in milliseconds."""
        a, b = (1000 * statistics.median(times) for times in (self.ours, self.theirs))
        return f"{ours}: {a:.1f} ms   {theirs}: {b:.1f} ms   ratio {self.ratio:.2f}   ({len(self.ours)} pairs, medians)"


def compare(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    pairs: int,
    warmup: int = 1,
    clock: Callable[[], float] = perf_counter,
) -> Comparison:
    """Time two functions in turn by a clock, after `warmup` calls of each.

    `time.thread_time` as the clock leaves out what other processes take, for functions that keep to one thread.
    """
    return _in_turn(lambda: _seconds(ours, clock), lambda: _seconds(theirs, clock), pairs, warmup)


def compare_commands(ours: Sequence[str], theirs: Sequence[str], *, pairs: int, warmup: int = 1) -> Comparison:
    """Time two commands in turn by the processor time (user and system) they take, start to end."""
    return _in_turn(lambda: _processor_seconds(ours), lambda: _processor_seconds(theirs), pairs, warmup)


def report(name: str, value: float, aim: float, unit: str, *, better: Literal["lower", "higher"]) -> None:
    """Print the final line: the measurement, its aim, and whether it is reached."""
    holds = value <= aim if better == "lower" else value >= aim
    print(
        json.dumps(
            {"name": name, "value": round(value, 4), "aim": aim, "unit": unit, "holds": holds}, ensure_ascii=False
        )
    )


def _in_turn(ours: MetricSample, theirs: MetricSample, pairs: int, warmup: int) -> Comparison:
    for _ in range(warmup):
        ours()
        theirs()
    times = [(ours(), theirs()) for _ in range(pairs)]
    return Comparison([a for a, _ in times], [b for _, b in times])


def _seconds(function: Callable[[], object], clock: Callable[[], float]) -> float:
    started = clock()
    function()
    return clock() - started


def _processor_seconds(command: Sequence[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
