"""The request for a larger image, and its answer."""

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
    """An image and the network that enlarges it. Only `image` is required; None means mold's own choice.

    A `tile_size` of 0 takes the image whole; other values are checked by the engine, which takes no tile under 64.
    """

    image: bytes = wire_field("PNG, JPEG, WebP, AVIF or HEIC file to enlarge.", min_length=1)
    model: str | None = wire_field("Upscaler, with or without its tag.", default=None, not_blank=True, max_length=200)
    output_format: Literal["png", "jpeg", "webp"] = wire_field("File format of the result.", default="png")
    tile_size: int | None = wire_field(
        "Side of a tile in pixels of the input; 0 means no tiles.", default=None, minimum=0, maximum=16_384
    )


@attrs.frozen(kw_only=True)
class UpscaleResponse:
    """The larger image."""

    image: ImageData = wire_field("The image.")
    upscale_time_ms: int = wire_field("From the start of the work to the last byte, in milliseconds.")
    model: str = wire_field("Full name of the upscaler that made it.")
    scale_factor: int = wire_field("How many times wider and higher it is.")
    original_width: int = wire_field("Width before, in pixels.")
    original_height: int = wire_field("Height before, in pixels.")
    warnings: tuple[str, ...] | None = wire_field("What went wrong beside the work, in words.", default=None)

    def _repr_html_(self) -> str:
        return html_of([self.image])
