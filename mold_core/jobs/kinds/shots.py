"""Splits a request for several images into single images, and encodes those to files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import attrs

from mold_core.hookspecs import Frames
from mold_core.jobs.job import Job
from mold_core.jobs.kinds.videos import encode_video
from mold_core.media.images import encode_image
from mold_core.media.output_metadata import metadata_of
from mold_core.wire import GenerateRequest, GenerateResponse, ImageData, VideoData
from mold_core.wire.generate import MAX_SEED

if TYPE_CHECKING:
    from mold_core.media.formats import ImageFormat

__all__ = ["Shot", "encode", "response_of", "shots_of"]


@attrs.frozen
class Shot:
    """One image of one job: `request` asks for this image alone."""

    job: Job
    index: int
    request: GenerateRequest


def shots_of(job: Job, prompts: Sequence[str] = ()) -> list[Shot]:
    """Return the images of a job with increasing seeds; `prompts` are the expanded prompts, if any."""
    request = job.request
    assert request.seed is not None  # the request is complete
    shots = []
    for index in range(request.batch_size):
        one = attrs.evolve(request, batch_size=1, seed=(request.seed + index) % (MAX_SEED + 1))
        if prompts:
            one = attrs.evolve(one, prompt=prompts[index], original_prompt=request.prompt)
        shots.append(Shot(job, index, one))
    return shots


def encode(shot: Shot, frames: Frames) -> ImageData | VideoData:
    """Return the encoded file of an image or a video, with embedded metadata and the color profile of the image."""
    if frames.fps is not None:
        return encode_video(shot.request, frames, metadata_of(shot.request) if shot.request.embed_metadata else None)
    image = frames.images[0]
    metadata = metadata_of(shot.request) if shot.request.embed_metadata else None
    return ImageData(
        data=encode_image(
            image, cast("ImageFormat", shot.request.output_format), metadata, icc=image.info.get("icc_profile")
        ),
        format=cast("ImageFormat", shot.request.output_format),
        width=image.width,
        height=image.height,
        index=shot.index,
    )


def response_of(
    job: Job, outputs: Sequence[ImageData | VideoData], elapsed_ms: int, prompts: Sequence[str] = ()
) -> GenerateResponse:
    """Return the response to a job's request; `prompts` are the expanded prompts, if any."""
    assert job.request.model is not None and job.request.seed is not None  # the request is complete
    return GenerateResponse(
        images=tuple(file for file in outputs if isinstance(file, ImageData)),
        video=next((file for file in outputs if isinstance(file, VideoData)), None),
        generation_time_ms=elapsed_ms,
        model=job.request.model,
        seed_used=job.request.seed,
        expanded=tuple(prompts),
        warnings=job.warnings,
    )
