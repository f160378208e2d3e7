"""What differs between requests for images and for videos: file formats, frames and sound."""

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
    """Return the file formats that results of a family can have, the default first."""
    return _VIDEOS if "text-to-video" in family.capabilities else _IMAGES


def with_format(request: GenerateRequest, spec: ModelSpec, family: ModelFamily) -> GenerateRequest:
    """Return the request with its file format and, for a video, frames, rate and sound. Raises ValidationError."""
    makes_videos = "text-to-video" in family.capabilities
    possible = possible_formats(family)
    format = request.output_format or possible[0]
    if format not in possible:
        raise ValidationError(
            f"output_format {format!r} is for {'images' if makes_videos else 'videos'}; {spec.name} makes "
            f"{'videos' if makes_videos else 'images'}",
            field="output_format",
            value=format,
            hint=f"use one of {', '.join(possible)}",
        )
    request = attrs.evolve(request, output_format=format)
    return _as_video(request, spec) if makes_videos else request


def _as_video(request: GenerateRequest, spec: ModelSpec) -> GenerateRequest:
    if request.batch_size != 1:
        raise ValidationError(
            f"batch_size {request.batch_size}: videos are made one at a time",
            field="batch_size",
            value=request.batch_size,
            hint="ask several times, with other seeds",
        )
    if request.enable_audio and request.output_format != "mp4":
        raise ValidationError(
            f"a {request.output_format} has no sound", field="enable_audio", value=True, hint="use output_format mp4"
        )
    audible = request.output_format == "mp4" if request.enable_audio is None else request.enable_audio
    return attrs.evolve(
        request,
        frames=request.frames or spec.defaults.frames or _DEFAULT_FRAMES,
        fps=request.fps or spec.defaults.fps or _DEFAULT_FPS,
        enable_audio=audible,
    )
