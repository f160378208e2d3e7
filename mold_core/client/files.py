"""Images on this machine's disk that a server enlarges: read here, sent, and written here."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from mold_core.errors import ValidationError
from mold_core.upscaling.requests import FileUpscaleRequest, is_video
from mold_core.wire import UpscaleRequest, UpscaleResponse

__all__ = ["upscale_file"]


def upscale_file(request: FileUpscaleRequest, run: Callable[[UpscaleRequest], UpscaleResponse]) -> UpscaleResponse:
    """Return the response of a request about files, without bytes, after `target` was written whole.

    Raises ValidationError for a file that cannot be read, and for a video, which no server takes.
    """
    if is_video(request.source):
        raise ValidationError(f"{request.source} is a video, and a server enlarges images", hint="say --local")
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
