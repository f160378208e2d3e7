"""Plasma: images from three sine waves. The smallest family there is, and a whole plugin."""

from __future__ import annotations

import random
from math import pi, sin
from typing import TYPE_CHECKING

from PIL import Image

from mold_core import Frames, ModelDefaults, ModelFamily, ModelSpec, Parameter, Pipeline, SizeRules, hookimpl
from mold_core.families import required

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mold_core import GenerateRequest, LoadContext, LocalFiles, Run


class PlasmaPipeline(Pipeline):
    """A loaded model. There is nothing to load."""

    size_bytes = 0

    def generate(self, requests: Sequence[GenerateRequest], run: Run) -> list[Frames]:
        return [Frames(images=(self._draw(request, run),)) for request in requests]

    def _draw(self, request: GenerateRequest, run: Run) -> Image.Image:
        chance = random.Random(f"{request.seed} {request.prompt}")
        reach = float(request.options["waves"])
        waves = [[chance.uniform(-reach, reach) for _ in "abp"] for _ in "rgb"]
        size = (required(request.width), required(request.height))
        channels = [Image.new("L", size) for _ in waves]
        for channel, (a, b, phase) in zip(channels, waves, strict=True):
            points = ((x / size[0], y / size[1]) for y in range(size[1]) for x in range(size[0]))
            channel.putdata([int(127.5 + 127.5 * sin(pi * (a * x + b * y + phase))) for x, y in points])
        run.step(1, 1, elapsed_ms=0)
        return Image.merge("RGB", channels)

    def close(self) -> None:
        pass


class PlasmaFamily(ModelFamily):
    name = "plasma"
    title = "Plasma"
    capabilities = frozenset({"text-to-image"})
    sizes = SizeRules(multiple=2, max_pixels=512 * 512, min_side=16, recommended=((128, 128),))
    parameters = (
        Parameter(name="seed", doc="Seed of the waves."),
        Parameter(name="waves", type=float, default=9.0, minimum=0.5, maximum=40, doc="Waves across an image."),
    )

    def load(self, spec: ModelSpec, files: LocalFiles, context: LoadContext) -> Pipeline:
        return PlasmaPipeline()


@hookimpl
def mold_families() -> list[ModelFamily]:
    return [PlasmaFamily()]


@hookimpl
def mold_models() -> list[ModelSpec]:
    defaults = ModelDefaults(width=128, height=128, steps=1)
    return [ModelSpec(name="plasma:v1", family="plasma", description="Three sine waves", defaults=defaults)]
