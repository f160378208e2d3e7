"""Request and response of upscaling an image."""

from __future__ import annotations

from typing import Literal

import attrs

from mold_core.wire.fields import wire_field
from mold_core.wire.generate import ImageData
from mold_core.wire.media_file import html_of
from mold_core.wire.request import Request

__all__ = ["UpscaleRequest", "UpscaleResponse"]


@attrs.frozen(kw_only=True)
class UpscaleRequest(Request["UpscaleResponse"]):
    """An image and the upscaler to run on it. Only `image` is required; None lets mold choose.

    A `tile_size` of 0 processes the image as a whole. The engine refuses other values below 64.
    """

    image: bytes = wire_field("PNG, JPEG, WebP, AVIF or HEIC file to upscale.", min_length=1)
    model: str | None = wire_field(
        "Upscaler model, with or without its tag.", default=None, not_blank=True, max_length=200
    )
    output_format: Literal["png", "jpeg", "webp"] = wire_field("File format of the result.", default="png")
    tile_size: int | None = wire_field(
        "Tile size in pixels of the input: 64 or more, or 0 for no tiling; default: chosen by mold.",
        default=None,
        minimum=0,
        maximum=16_384,
    )


@attrs.frozen(kw_only=True)
class UpscaleResponse:
    """The upscaled image."""

    image: ImageData = wire_field("The upscaled image.")
    upscale_time_ms: int = wire_field("Time from the start of the job to the encoded file, in milliseconds.")
    model: str = wire_field("Full name of the upscaler model.")
    scale_factor: int = wire_field("Factor by which width and height were multiplied.")
    original_width: int = wire_field("Width of the input in pixels.")
    original_height: int = wire_field("Height of the input in pixels.")
    warnings: tuple[str, ...] | None = wire_field(
        "Problems that did not affect the image, one sentence each.", default=None
    )

    def _repr_html_(self) -> str:
        return html_of([self.image])
