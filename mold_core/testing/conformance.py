"""Conformance checks of families against the protocol in `mold_core.hookspecs`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import attrs
from PIL import Image, ImageChops

from mold_core.catalog import ModelSpec, ModelStore
from mold_core.errors import CancelledError
from mold_core.hookspecs import Frames, LoadContext, ModelFamily, Pipeline, SizeRules
from mold_core.plugin_members import completed, member_faults
from mold_core.requests.complete import adjust_size, complete
from mold_core.wire import DenoiseStep, GenerateRequest, ProgressEvent

__all__ = ["RecordedRun", "check_family", "check_import"]

# Modules that importing a plugin must not import.
HEAVY_MODULES = ("torch", "transformers", "diffusers", "av")


class RecordedRun:
    """A run that records the events of a pipeline. With `cancel_after` it cancels after that step."""

    def __init__(self, cancel_after: int | None = None) -> None:
        self.events: list[ProgressEvent] = []
        self.cancel_after = cancel_after

    @property
    def steps(self) -> list[tuple[int, int]]:
        """The reported steps, as (number, total)."""
        return [(event.step, event.total) for event in self.events if isinstance(event, DenoiseStep)]

    def report(self, event: ProgressEvent) -> None:
        """Record an event."""
        self.events.append(event)

    def step(self, step: int, total: int, elapsed_ms: int) -> None:
        """Record a step, then call `check()`."""
        self.report(DenoiseStep(step=step, total=total, elapsed_ms=elapsed_ms))
        self.check()

    def check(self) -> None:
        """Raise CancelledError after step `cancel_after`."""
        if self.cancel_after is not None and len(self.steps) >= self.cancel_after:
            raise CancelledError("the job was cancelled")


def check_family(
    family: ModelFamily,
    spec: ModelSpec,
    *,
    models_dir: Path | None = None,
    prompts: Sequence[str] = ("a red house", "three green trees", "a blue boat on the sea"),
    width: int | None = None,
    height: int | None = None,
    steps: int | None = None,
    tolerance: int = 2,
    device: str = "cpu",
    module: str | None = None,
) -> None:
    """Raise AssertionError with the problem if the family violates its protocol with this model.

    It checks that importing the module is cheap; that equal requests give equal pixels, also after reloading and after
    other requests; that a batch gives the same images as single requests, with differences of at most `tolerance` of
    256 levels per channel; that steps are reported as 1 … N; that cancellation stops it between steps, after which it
    still works; that images have the requested size; and that it reports its size in memory.

    Model files are in `models_dir`. Size and steps default to those of the model; small values save time. `module` is
    the module whose import is checked; default: that of the family.
    """
    _check_declaration(family)
    family = completed(family, ModelFamily)
    requests = [
        complete(GenerateRequest(prompt=prompt, seed=number, width=width, height=height, steps=steps), spec, family)[0]
        for number, prompt in enumerate(prompts)
    ]
    with tempfile.TemporaryDirectory(prefix="mold-check-") as folder:
        files = ModelStore(models_dir or Path(folder)).locate(spec)
        context = LoadContext(device=device, threads=None, cache_dir=Path(folder) / "cache", report=lambda event: None)
        first, second = (family.load(spec, files, context) for _ in "12")
        try:
            _check_pipeline(first, second, requests, tolerance)
            _check_sizes(first, requests[0], _rules(family, spec))
        finally:
            first.close()
            second.close()
    check_import(module or type(family).__module__)


def _check_declaration(family: ModelFamily) -> None:
    faults = member_faults(family, ModelFamily)
    assert not faults, "; ".join(faults)
    known = {attribute.name for attribute in attrs.fields(GenerateRequest)}
    for parameter in family.parameters:
        assert parameter.type is not None or parameter.name in known, (
            f"parameter {parameter.name!r} is not a field of GenerateRequest"
        )


def check_import(module: str) -> None:
    """Raise AssertionError if importing a module imports torch or another large package."""
    code = f"""
import sys
sys.path[:] = {sys.path!r}
import {module}
print(*(name for name in {HEAVY_MODULES!r} if name in sys.modules))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{module} cannot be imported by itself:\n{ran.stderr}"
    heavy = ", ".join(ran.stdout.split())
    assert not heavy, f"importing {module} imports {heavy}; import such modules where they are used"


def _check_pipeline(first: Pipeline, second: Pipeline, requests: Sequence[GenerateRequest], tolerance: int) -> None:
    assert isinstance(first.size_bytes, int) and first.size_bytes >= 0, "size_bytes must be a number of bytes"
    run = RecordedRun()
    alone = [_one(first, request, run) for request in requests]
    steps = requests[0].steps or 0
    assert run.steps[:steps] == [(number, steps) for number in range(1, steps + 1)], (
        f"a request of {steps} steps must report steps 1 to {steps}, not {run.steps[:steps]}"
    )
    for request, before in zip(requests, alone, strict=True):
        assert _difference(_one(first, request), before) == 0, "equal requests gave different images"
        assert _difference(_one(second, request), before) == 0, "equal requests gave different images after reloading"
    together = first.generate(requests, RecordedRun())
    assert len(together) == len(requests), f"{len(requests)} requests gave {len(together)} results"
    for result, before in zip(together, alone, strict=True):
        off = _difference(result, before)
        assert off <= tolerance, f"in a batch the image differs by {off} levels, more than the tolerance {tolerance}"
    _check_cancelling(first, requests[0], alone[0])


def _check_cancelling(pipeline: Pipeline, request: GenerateRequest, before: Frames) -> None:
    run = RecordedRun(cancel_after=1)
    try:
        pipeline.generate([request], run)
    except CancelledError:
        pass
    else:
        raise AssertionError("the pipeline continued after run.step() raised CancelledError")
    assert len(run.steps) == 1, f"the pipeline took {len(run.steps)} steps though it was cancelled after the first"
    assert _difference(_one(pipeline, request), before) == 0, "after a cancelled request the images are different"


def _check_sizes(pipeline: Pipeline, request: GenerateRequest, rules: SizeRules) -> None:
    for size in rules.recommended:
        assert adjust_size(*size, rules) == size, f"the recommended size {size} violates the family's size rules"
    assert request.width is not None and request.height is not None  # the request is completed
    requested = [(request.width, request.height), (request.height + rules.multiple, request.width)]
    for size in (adjust_size(*size, rules) for size in requested):
        for image in _one(pipeline, attrs.evolve(request, width=size[0], height=size[1])).images:
            assert image.size == size, f"the image has size {image.size} instead of {size}"


def _rules(family: ModelFamily, spec: ModelSpec) -> SizeRules:
    rules: SizeRules = family.sizes_of(spec)
    return rules


def _one(pipeline: Pipeline, request: GenerateRequest, run: RecordedRun | None = None) -> Frames:
    results = pipeline.generate([request], run or RecordedRun())
    assert len(results) == 1, f"one request gave {len(results)} results"
    return results[0]


def _difference(one: Frames, other: Frames) -> int:
    """Return the maximum difference of two results, in levels of 256."""
    if len(one.images) != len(other.images):
        return 255
    return max(map(_image_difference, one.images, other.images))


def _image_difference(one: Image.Image, other: Image.Image) -> int:
    if one.size != other.size or one.mode != other.mode:
        return 255
    extrema = ImageChops.difference(one, other).getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return int(max(high for _low, high in bands))
