"""Plasma: images from three sine waves. The smallest family there is, and a whole plugin."""

from __future__ import annotations

import random
from math import pi, sin

from PIL import Image

from mold_core import Frames, ModelDefaults, ModelSpec, Parameter, SizeRules, hookimpl


class PlasmaPipeline:
    """A loaded model. There is nothing to load."""

    size_bytes = 0

    def generate(self, requests, run):
        return [Frames(images=(self._draw(request, run),)) for request in requests]

    def _draw(self, request, run):
        chance = random.Random(f"{request.seed} {request.prompt}")
        reach = request.options["waves"]
        waves = [[chance.uniform(-reach, reach) for _ in "abp"] for _ in "rgb"]
        size = (request.width, request.height)
        channels = [Image.new("L", size) for _ in waves]
        for channel, (a, b, phase) in zip(channels, waves, strict=True):
            points = ((x / size[0], y / size[1]) for y in range(size[1]) for x in range(size[0]))
            channel.putdata([int(127.5 + 127.5 * sin(pi * (a * x + b * y + phase))) for x, y in points])
        run.step(1, 1, elapsed_ms=0)
        return Image.merge("RGB", channels)

    def close(self):
        pass


class PlasmaFamily:
    name = "plasma"
    title = "Plasma"
    capabilities = frozenset({"text-to-image"})
    sizes = SizeRules(multiple=2, max_pixels=512 * 512, min_side=16, recommended=((128, 128),))
    parameters = (
        Parameter(name="seed", doc="Seed of the waves."),
        Parameter(name="waves", type=float, default=9.0, minimum=0.5, maximum=40, doc="Waves across an image."),
    )

    def load(self, spec, files, context):
        return PlasmaPipeline()


@hookimpl
def mold_families():
    return [PlasmaFamily()]


@hookimpl
def mold_models():
    defaults = ModelDefaults(width=128, height=128, steps=1)
    return [ModelSpec(name="plasma:v1", family="plasma", description="Three sine waves", defaults=defaults)]
