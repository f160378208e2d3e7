"""Completes the file format of a request, and for videos frames, frame rate and sound."""

from __future__ import annotations

import attrs

from mold_core.catalog import ModelSpec
from mold_core.errors import ValidationError
from mold_core.hookspecs import ModelFamily
from mold_core.wire import GenerateRequest
from mold_core.wire.generate import OutputFormat

__all__ = ["possible_formats", "with_format"]

_IMAGES: tuple[OutputFormat, ...] = ("png", "jpeg", "webp")
_VIDEOS: tuple[OutputFormat, ...] = ("mp4", "gif", "apng", "webp")

_DEFAULT_FRAMES = 25
_DEFAULT_FPS = 24


def possible_formats(family: ModelFamily) -> tuple[OutputFormat, ...]:
    """Return the file formats of a family's results, the default first."""
    return _VIDEOS if "text-to-video" in family.capabilities else _IMAGES


def with_format(request: GenerateRequest, spec: ModelSpec, family: ModelFamily) -> GenerateRequest:
    """Return the request with its file format and, for a video, frames, rate and sound. Raises ValidationError."""
    is_video = "text-to-video" in family.capabilities
    possible = possible_formats(family)
    format = request.output_format or possible[0]
    if format not in possible:
        raise ValidationError(
            f"output_format {format!r} is for {'images' if is_video else 'videos'}; {spec.name} generates "
            f"{'videos' if is_video else 'images'}",
            field="output_format",
            value=format,
            hint=f"use one of {', '.join(possible)}",
        )
    request = attrs.evolve(request, output_format=format)
    return _as_video(request, spec) if is_video else request


def _as_video(request: GenerateRequest, spec: ModelSpec) -> GenerateRequest:
    if request.batch_size != 1:
        raise ValidationError(
            f"batch_size {request.batch_size}: a request for videos generates one video",
            field="batch_size",
            value=request.batch_size,
            hint="send several requests with different seeds",
        )
    if request.enable_audio and request.output_format != "mp4":
        raise ValidationError(
            f"{request.output_format} files have no sound",
            field="enable_audio",
            value=True,
            hint="use output_format mp4",
        )
    audible = request.output_format == "mp4" if request.enable_audio is None else request.enable_audio
    return attrs.evolve(
        request,
        frames=request.frames or spec.defaults.frames or _DEFAULT_FRAMES,
        fps=request.fps or spec.defaults.fps or _DEFAULT_FPS,
        enable_audio=audible,
    )
