"""Upscales local image files on a server: reads them, sends them, and writes the results."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from mold_core.errors import ValidationError
from mold_core.upscaling.requests import FileUpscaleRequest, is_video
from mold_core.wire import UpscaleRequest, UpscaleResponse

__all__ = ["upscale_file"]


def upscale_file(request: FileUpscaleRequest, run: Callable[[UpscaleRequest], UpscaleResponse]) -> UpscaleResponse:
    """Write the upscaled image to `request.target` atomically, and return the response without image data.

    Raises ValidationError for an unreadable file, and for a video, because servers upscale images only.
    """
    if is_video(request.source):
        raise ValidationError(
            f"{request.source} is a video, and a server upscales only images", hint="use --local to upscale it here"
        )
    try:
        image = request.source.read_bytes()
    except OSError as error:
        raise ValidationError(
            f"{str(request.source)!r} cannot be read: {error.strerror or error}", field="image"
        ) from None
    response = run(
        UpscaleRequest(
            image=image, model=request.model, output_format=request.output_format, tile_size=request.tile_size
        )
    )
    response.image.save(request.target)
    return attrs.evolve(response, image=attrs.evolve(response.image, data=b""))
