"""A video family without weights, for tests: a flying ball with sound, in single clips and in chains."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from PIL import Image, ImageDraw

from mold_core.catalog import LocalFiles, ModelDefaults, ModelSpec
from mold_core.errors import ValidationError
from mold_core.hookspecs import (
    Capability,
    ChainRenderer,
    DecodedClip,
    Frames,
    LoadContext,
    ModelFamily,
    Parameter,
    Pipeline,
    Run,
    SizeRules,
    Sound,
)
from mold_core.testing.sketch import Gate
from mold_core.wire import GenerateRequest

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FlipbookFamily", "FlipbookRenderer", "ball_at", "flipbook_model"]

_SAMPLE_RATE = 8_000
_RADIUS = 5
_COLOURS = ("red", "green", "blue", "yellow")
_RGB = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 230), "yellow": (240, 220, 40)}


@attrs.define(kw_only=True, eq=False)
class FlipbookFamily(ModelFamily):
    """A family for tests: the prompt names the colour of the ball, the seed determines its path.

    `gate`: every step waits for it. `error`: raised in a clip whose prompt contains `error_for`. `clips` records the
    requests.
    """

    name: str = "flipbook"
    title: str = "Flipbook"
    capabilities: frozenset[Capability] = frozenset({"text-to-video"})
    sizes: SizeRules = SizeRules(multiple=8, max_pixels=256 * 256, min_side=32, recommended=((64, 48),))
    parameters: tuple[Parameter, ...] = (Parameter(name="seed", doc="Seed of the way."),)
    gate: Gate | None = None
    error: Exception | None = None
    error_for: str = "broken"
    clips: list[GenerateRequest] = attrs.Factory(list)

    def load(self, spec: ModelSpec, files: LocalFiles, context: LoadContext) -> FlipbookPipeline:
        """Return a pipeline that draws."""
        return FlipbookPipeline(self)


@attrs.define
class FlipbookPipeline(Pipeline):
    """A loaded flipbook."""

    family: FlipbookFamily
    size_bytes: int = 1000

    def generate(self, requests: Sequence[GenerateRequest], run: Run) -> list[Frames]:
        """Return one clip per request."""
        results = []
        for request in requests:
            video = _video(*self.path(request, None, 0, run), request.frames or 1, 0)
            results.append(Frames(images=tuple(video.images), fps=request.fps, sound=video.sound))
        return results

    def path(
        self, request: GenerateRequest, before: Mapping[str, Tensor] | None, overlap: int, run: Run
    ) -> tuple[list[float], list[float], list[float]]:
        """Return start, velocity (pixels a frame) and [width, height, fps, colour] of the ball of a clip."""
        family = self.family
        family.clips.append(request)
        for step in range(1, (request.steps or 1) + 1):
            if family.error is not None and family.error_for in request.prompt:
                raise family.error
            run.step(step, request.steps or 1, elapsed_ms=1)
            if family.gate is not None:
                family.gate.pass_through()
                run.check()
        chance = random.Random(f"{request.prompt}|{request.seed}")
        width, height = request.width or 64, request.height or 48
        colour = next((index for index, name in enumerate(_COLOURS) if name in request.prompt), 0)
        start = [chance.uniform(0, width), chance.uniform(0, height)]
        velocity = [chance.choice((-1, 1)) * chance.uniform(0.5, 2), chance.choice((-1, 1)) * chance.uniform(0.2, 1)]
        if before is not None:
            frames = int(before["frames"]) - overlap
            velocity = before["velocity"].tolist()
            start = [x + frames * speed for x, speed in zip(before["start"].tolist(), velocity, strict=True)]
        return start, velocity, [float(width), float(height), float(request.fps or 24), float(colour)]

    def close(self) -> None:
        """Do nothing."""


class FlipbookRenderer(ChainRenderer):
    """Renders chains of flipbook clips. A subclass may have another frame stride."""

    family = "flipbook"
    frame_stride = 8
    default_clip_frames = 97
    max_clip_frames = 97

    def check(self, spec: ModelSpec) -> None:
        """Refuse a model with the option `chains = false`."""
        if not spec.options.get("chains", True):
            raise ValidationError(f"{spec.name} generates single clips only", field="model", value=spec.name)

    def render(
        self,
        pipeline: FlipbookPipeline,
        request: GenerateRequest,
        before: Mapping[str, Tensor] | None,
        overlap: int,
        run: Run,
    ) -> Mapping[str, Tensor]:
        """Return the start and the velocity of the ball as latents."""
        import torch

        names = ("start", "velocity", "look")
        path = pipeline.path(request, before, overlap, run)
        latents = {name: torch.tensor(values, dtype=torch.float64) for name, values in zip(names, path, strict=True)}
        return {**latents, "frames": torch.tensor(request.frames)}

    def decode(
        self,
        pipeline: FlipbookPipeline,
        clip: Mapping[str, Tensor],
        before: Mapping[str, Tensor] | None,
        overlap: int,
        after: Mapping[str, Tensor] | None,
    ) -> DecodedClip:
        """Return the frames after the overlap."""
        start, velocity, look = (clip[name].tolist() for name in ("start", "velocity", "look"))
        return _video(start, velocity, look, int(clip["frames"]), overlap)


def ball_at(image: Image.Image) -> tuple[float, float]:
    """Return the position of the ball in a frame, in pixels: the mean of all pixels that are not background."""
    pixels = [
        (x, y)
        for y in range(image.height)
        for x in range(image.width)
        if sum(image.getpixel((x, y))) < 600  # type: ignore[arg-type]
    ]
    return sum(x for x, _ in pixels) / len(pixels), sum(y for _, y in pixels) / len(pixels)


def flipbook_model(name: str = "flipbook:v1", family: str = "flipbook", **options: Any) -> ModelSpec:
    """Return a catalog entry with defaults of 17 frames of 64x48 pixels, 24 frames per second, 2 steps."""
    return ModelSpec(
        name=name,
        family=family,
        description="A flying ball for tests",
        defaults=ModelDefaults(width=64, height=48, steps=2, guidance=1.0, frames=17, fps=24),
        files=(),
        options=options,
    )


def _video(start: list[float], velocity: list[float], look: list[float], frames: int, skip: int) -> DecodedClip:
    import numpy as np

    width, height, fps, colour = look
    rgb = _RGB[_COLOURS[int(colour)]]

    def images() -> Iterator[Image.Image]:
        for frame in range(skip, frames):
            image = Image.new("RGB", (int(width), int(height)), "white")
            x, y = (
                _bounce(position + frame * speed, side)
                for position, speed, side in zip(start, velocity, (width, height), strict=True)
            )
            ImageDraw.Draw(image).ellipse((x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS), fill=rgb)
            yield image

    count = round((frames - skip) * _SAMPLE_RATE / fps)
    hum = 0.3 * np.sin(np.arange(count, dtype=np.float32) * (0.2 + 0.05 * colour))
    return DecodedClip(
        images=images(), sound=Sound(samples=np.stack([hum, hum]).astype(np.float32), sample_rate=_SAMPLE_RATE)
    )


def _bounce(position: float, side: float) -> float:
    """Return a position reflected at the walls, so that it stays between them."""
    width = side - 2 * _RADIUS
    folded = (position - _RADIUS) % (2 * width)
    return _RADIUS + min(folded, 2 * width - folded)
