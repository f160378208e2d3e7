"""The results as a page of markdown, for docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
from results import Results
from stages import STAGES

__all__ = ["AIMS", "Aim", "page"]


@attrs.frozen(kw_only=True)
class Aim:
    """A figure of one stage, divided by another stage's where there is one, and what it should be at most."""

    title: str
    stage: str
    by: str | None
    at_most: float | None
    figure: str = "step s"

    def value(self, results: Results) -> float | None:
        """Return what was measured; None where a stage has no figure."""
        ours = results.outcome(self.stage).figures.get(self.figure)
        theirs = 1.0 if self.by is None else results.outcome(self.by).figures.get(self.figure)
        return None if ours is None or not theirs else float(ours) / float(theirs)


# The aims are those of an H200.
AIMS = (
    Aim(title="FLUX.1 bf16 ÷ diffusers eager", stage="flux bf16", by="diffusers eager", at_most=0.63),
    Aim(title="FLUX.1 bf16 ÷ diffusers compiled", stage="flux bf16", by="diffusers compiled", at_most=None),
    Aim(title="FLUX.1 fp8 ÷ bf16", stage="flux fp8", by="flux bf16", at_most=0.75),
    Aim(title="FLUX.1 fp8 ÷ diffusers eager", stage="flux fp8", by="diffusers eager", at_most=None),
    Aim(title="FLUX.1 fp8 ÷ diffusers compiled", stage="flux fp8", by="diffusers compiled", at_most=None),
    Aim(title="FLUX.1 int8 ConvRot ÷ bf16", stage="flux int8", by="flux bf16", at_most=None),
    Aim(title="FLUX.1 int8 ConvRot ÷ diffusers eager", stage="flux int8", by="diffusers eager", at_most=None),
    Aim(title="FLUX.1 int8 ConvRot ÷ diffusers compiled", stage="flux int8", by="diffusers compiled", at_most=None),
    Aim(title="FLUX.1 Q8_0 ÷ bf16", stage="flux Q8_0", by="flux bf16", at_most=1.03),
    Aim(title="FLUX.1 Q8_0 ÷ diffusers eager", stage="flux Q8_0", by="diffusers eager", at_most=None),
    Aim(title="FLUX.1 Q8_0 ÷ diffusers compiled", stage="flux Q8_0", by="diffusers compiled", at_most=None),
    Aim(title="FLUX.1 Q4_K ÷ bf16", stage="flux Q4_K", by="flux bf16", at_most=1.08),
    Aim(title="FLUX.1 Q4_K ÷ diffusers eager", stage="flux Q4_K", by="diffusers eager", at_most=None),
    Aim(title="FLUX.1 Q4_K ÷ diffusers compiled", stage="flux Q4_K", by="diffusers compiled", at_most=None),
    Aim(title="LTX-2, 8 steps, seconds", stage="ltx2 bf16", by=None, at_most=7.0, figure="loop s"),
)


def page(results: Results) -> str:
    """Return the page: the device, what holds, how fast it is, and memory against the plan."""
    return "\n".join([*_heading(results), *_checks(results), *_speed(results), *_aims(results)]) + "\n"


def _heading(results: Results) -> Iterator[str]:
    machine = results.outcome("machine").figures
    yield f"### {machine.get('device', results.device)}"
    yield ""
    if results.tiny:
        yield "Tiny networks: these figures prove that the benchmark runs, and nothing else."
        yield ""
    else:
        yield "Random weights of full size; FLUX.1 at 1024x1024, LTX-2 19B at 768x512 with 121 frames and sound."
        yield ""
    about = [f"{name} {_shown(value)}" for name, value in machine.items() if name != "device"]
    yield ", ".join(about) + "."
    yield ""


def _checks(results: Results) -> Iterator[str]:
    yield "| what must hold | |"
    yield "|---|---|"
    for stage in STAGES:
        if stage.name.startswith("check "):
            yield f"| {stage.title} | {_state(results, stage.name)} |"
    yield ""


def _speed(results: Results) -> Iterator[str]:
    yield "| what is timed | | figures |"
    yield "|---|---|---|"
    for stage in STAGES:
        if not stage.name.startswith("check ") and stage.name != "machine":
            figures = results.outcome(stage.name).figures
            shown = ", ".join(f"{name} {_shown(value)}" for name, value in figures.items())
            yield f"| {stage.title} | {_state(results, stage.name)} | {shown} |"
    yield ""


def _aims(results: Results) -> Iterator[str]:
    yield "| compared | figure | aim on an H200 |"
    yield "|---|--:|--:|"
    for aim in AIMS:
        value = aim.value(results)
        shown = "not measured" if value is None else f"{value:.3f}"
        yield f"| {aim.title} | {shown} | {'' if aim.at_most is None else f'at most {aim.at_most}'} |"


def _state(results: Results, name: str) -> str:
    outcome = results.outcome(name)
    return f"{outcome.status}: {outcome.reason}".replace("|", "/") if outcome.reason else outcome.status


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
