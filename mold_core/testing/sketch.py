"""An image family without weights, for tests: it draws rectangles, and can be made to be slow or to fail."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import attrs
from PIL import Image, ImageDraw

from mold_core.catalog import LocalFiles, ModelDefaults, ModelFile, ModelSpec
from mold_core.hookspecs import Capability, Frames, LoadContext, ModelFamily, Parameter, Pipeline, Run, SizeRules
from mold_core.wire import GenerateRequest

__all__ = ["Gate", "SketchFamily", "SketchPipeline", "sketch_model"]

_PATIENCE_S = 120.0


class Gate:
    """Stops a pipeline after each step until the test allows the next one, so that tests need not sleep.

    Every wait raises TimeoutError after two minutes.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._arrived = 0
        self._allowed = 0
        self._seen = 0
        self._open = False

    def pass_through(self) -> None:
        """Arrive at the gate and wait for permission. The pipeline calls this."""
        with self._changed:
            self._arrived += 1
            mine = self._arrived
            self._changed.notify_all()
            self._wait(lambda: self._open or self._allowed >= mine, "the test to open the gate")

    def wait_for_arrival(self) -> None:
        """Wait until the pipeline arrives at the gate, at a later step than in the last call."""
        with self._changed:
            self._wait(lambda: self._arrived > self._seen, "the pipeline to come to the gate")
            self._seen += 1

    def let(self, steps: int = 1) -> None:
        """Allow this number of further steps."""
        with self._changed:
            self._allowed += steps
            self._changed.notify_all()

    def open(self) -> None:
        """Allow all steps from now on."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        if not self._changed.wait_for(condition, _PATIENCE_S):
            raise TimeoutError(f"waited {_PATIENCE_S:.0f} s for {what}")


@attrs.define(kw_only=True, eq=False)
class SketchFamily(ModelFamily):
    """A family for tests. It records its calls in `batches`, `loads` and `closes`.

    `step_s`: duration of a step in seconds. `gate`: every step waits for it. `error`: raised at step `error_at` of a
    batch with `error_for` in a prompt. `load_error`: raised by loading. `size_bytes`: memory of a loaded model; the
    option `size_bytes` of its spec overrides it. `batched=False`: requests do not run as batches.
    """

    name: str = "sketch"
    title: str = "Sketch"
    capabilities: frozenset[Capability] = frozenset({"text-to-image"})
    sizes: SizeRules = SizeRules(multiple=8, max_pixels=256 * 256, min_side=8, recommended=((32, 32), (64, 32)))
    parameters: tuple[Parameter, ...] = (
        Parameter(name="steps", doc="Rectangles to draw."),
        Parameter(name="seed", doc="Seed of the rectangles."),
    )
    step_s: float = 0.0
    gate: Gate | None = None
    error: BaseException | None = None
    error_at: int = 1
    error_for: str = ""
    load_error: BaseException | None = None
    size_bytes: int = 1000
    batched: bool = True
    batches: list[tuple[GenerateRequest, ...]] = attrs.Factory(list)
    loads: list[str] = attrs.Factory(list)
    closes: list[str] = attrs.Factory(list)

    def load(self, spec: ModelSpec, files: LocalFiles, context: LoadContext) -> SketchPipeline:
        """Return a pipeline that draws."""
        self.loads.append(spec.name)
        if self.load_error is not None:
            raise self.load_error
        return SketchPipeline(self, spec.name, int(spec.options.get("size_bytes", self.size_bytes)))

    def batch_key(self, spec: ModelSpec, request: GenerateRequest) -> Hashable:
        """Return a key for requests with equal size and steps."""
        return (request.width, request.height, request.steps) if self.batched else None


@attrs.define
class SketchPipeline(Pipeline):
    """A loaded sketch model, which draws one rectangle per step."""

    family: SketchFamily
    name: str
    size_bytes: int

    def generate(self, requests: Sequence[GenerateRequest], run: Run) -> list[Frames]:
        """Return one image per request. Rectangles depend only on prompt, guidance and seed."""
        self.family.batches.append(tuple(requests))
        chances = [random.Random(f"{request.prompt}|{request.guidance}|{request.seed}") for request in requests]
        images = [Image.new("RGB", _size(request), "white") for request in requests]
        steps = requests[0].steps or 1
        for step in range(1, steps + 1):
            self._be_difficult(step, requests)
            for image, chance in zip(images, chances, strict=True):
                _draw_rectangle(image, chance)
            run.step(step, steps, elapsed_ms=int(self.family.step_s * 1000))
            if self.family.gate is not None:
                self.family.gate.pass_through()
                run.check()
        return [Frames(images=(image,)) for image in images]

    def close(self) -> None:
        """Record the end of this pipeline."""
        self.family.closes.append(self.name)

    def _be_difficult(self, step: int, requests: Sequence[GenerateRequest]) -> None:
        family = self.family
        if family.step_s:
            time.sleep(family.step_s)
        culprits = any(family.error_for in request.prompt for request in requests)
        if family.error is not None and step == family.error_at and culprits:
            raise family.error


def _size(request: GenerateRequest) -> tuple[int, int]:
    assert request.width is not None and request.height is not None  # the request is complete
    return request.width, request.height


def _draw_rectangle(image: Image.Image, chance: random.Random) -> None:
    across, down = (sorted(chance.randrange(side + 1) for _ in "ab") for side in image.size)
    color = (chance.randrange(256), chance.randrange(256), chance.randrange(256))
    ImageDraw.Draw(image).rectangle((across[0], down[0], across[1], down[1]), fill=color)


def sketch_model(
    name: str = "sketch:v1", *, family: str = "sketch", files: Sequence[str] = (), **options: Any
) -> ModelSpec:
    """Return a catalog entry for a sketch family: 32x32 in 2 steps. `files` are paths in the models folder."""
    return ModelSpec(
        name=name,
        family=family,
        description="Rectangles for tests",
        defaults=ModelDefaults(width=32, height=32, steps=2, guidance=1.0),
        files=tuple(ModelFile(component="weights", path=path) for path in files),
        options=options,
    )
