"""Responses of OpenAI's image routes: JSON and event streams."""

from __future__ import annotations

import time
from io import BytesIO
from typing import Any

import attrs

from mold_core.engine import Job
from mold_core.errors import MoldError
from mold_core.jobs.kinds import JobKind
from mold_core.media.images import decode_image, encode_image
from mold_core.media.metadata import embed_metadata, read_metadata
from mold_core.wire import GenerateResponse, ImageData, Preview, ProgressEvent
from mold_core.wire.fields import wire_field
from mold_http.jobs import JobSource
from mold_http.openai.errors import openai_error
from mold_http.openai.image_requests import ImageGeneration, is_reencoded
from mold_http.responses import json_of
from mold_http.service import Service
from mold_http.sse import frame

__all__ = ["FILES_PATH", "ImageStream", "ImageUsage", "ImagesResponse", "OpenAIImage", "images_response"]

FILES_PATH = "/v1/images/files"

# Qualities that OpenAI's responses may have.
_QUALITIES = frozenset({"low", "medium", "high", "xhigh", "max"})


@attrs.frozen(kw_only=True)
class OpenAIImage:
    """One image."""

    b64_json: str | None = wire_field("The file in base64.", default=None)
    url: str | None = wire_field("URL of the file.", default=None)


@attrs.frozen(kw_only=True)
class TokenDetails:
    """Always zero."""

    image_tokens: int = wire_field("Always 0.", default=0)
    text_tokens: int = wire_field("Always 0.", default=0)


@attrs.frozen(kw_only=True)
class ImageUsage:
    """Always zero: mold bills nothing, and OpenAI's client requires the fields."""

    input_tokens: int = wire_field("Always 0.", default=0)
    input_tokens_details: TokenDetails = wire_field("Always 0.", default=TokenDetails())
    output_tokens: int = wire_field("Always 0.", default=0)
    total_tokens: int = wire_field("Always 0.", default=0)


@attrs.frozen(kw_only=True)
class ImagesResponse:
    """The images."""

    created: int = wire_field("Creation time, in seconds since 1970.")
    data: tuple[OpenAIImage, ...] = wire_field("The images.")
    background: str = wire_field("`opaque` or `transparent`.")
    output_format: str = wire_field("File format.")
    quality: str = wire_field("The quality of the request, or high.")
    size: str = wire_field("WIDTHxHEIGHT.")
    usage: ImageUsage = wire_field("Always zero.", default=ImageUsage())
    seed_used: int = wire_field("Seed of the first image.")


def images_response(body: ImageGeneration, result: GenerateResponse, base: str | None) -> ImagesResponse:
    """Return the response; with `base`, the address of the server, images are URLs."""
    images = [_reencoded(image, body) for image in result.images]
    first = images[0]
    return ImagesResponse(
        created=int(time.time()),
        data=tuple(_image(image, base) for image in images),
        background=_background(body),
        output_format=body.output_format or first.format,
        quality=_quality(body),
        size=f"{first.width}x{first.height}",
        seed_used=result.seed_used,
    )


def _image(image: ImageData, base: str | None) -> OpenAIImage:
    if base is None:
        return OpenAIImage(b64_json=json_of(image.data))
    return OpenAIImage(url=f"{base}{FILES_PATH}/{image.name}")


def _background(body: ImageGeneration) -> str:
    return "transparent" if body.background == "transparent" else "opaque"


def _quality(body: ImageGeneration) -> str:
    return body.quality if body.quality in _QUALITIES else "high"


def _reencoded(image: ImageData, body: ImageGeneration) -> ImageData:
    """Return an image in the format and quality of the request, if the engine does not write it so."""
    if not is_reencoded(body):
        return image
    metadata, pixels = read_metadata(image.data), decode_image(image.data)
    if body.output_format == "gif":
        buffer = BytesIO()
        pixels.save(buffer, "GIF")
        data = embed_metadata(buffer.getvalue(), metadata) if metadata else buffer.getvalue()
        return attrs.evolve(image, data=data, format="gif")
    assert body.output_format in ("jpeg", "webp") and body.output_compression is not None
    quality = max(body.output_compression, 1)  # Pillow takes 0 for its default
    data = encode_image(pixels, body.output_format, metadata, quality=quality)
    return attrs.evolve(image, data=data, format=body.output_format)


class ImageStream(JobSource):
    """The events of OpenAI's streams: previews, then each image when all are done."""

    def __init__(self, service: Service, job: Job, event: str, body: ImageGeneration) -> None:
        super().__init__(service, job, self._completed)
        self._event = event
        self._body = body
        self._steps = _preview_steps(body.partial_images or 0, job.request.steps)

    def frame_of(self, event: ProgressEvent) -> bytes:
        """Return a preview at the chosen steps, and nothing for events that OpenAI's API does not have."""
        if not isinstance(event, Preview) or event.index or event.step not in self._steps:
            return b""
        request = self._job.request
        return self._frame(
            "partial_image",
            b64_json=json_of(event.image),
            partial_image_index=self._steps.index(event.step),
            size=f"{request.width}x{request.height}",
            output_format="jpeg",
        )

    def error_frame(self, error: MoldError, number: int | None) -> bytes:
        """Return an error in the form of OpenAI's streams."""
        return frame("error", openai_error(error)[1])

    def _completed(self, kind: JobKind, result: GenerateResponse) -> bytes:
        return b"".join(
            self._frame(
                "completed",
                b64_json=json_of(image.data),
                size=f"{image.width}x{image.height}",
                output_format=image.format,
                usage=json_of(ImageUsage()),
            )
            for image in (_reencoded(image, self._body) for image in result.images)
        )

    def _frame(self, what: str, **fields: Any) -> bytes:
        name = f"{self._event}.{what}"
        shared = {"type": name, "created_at": int(time.time())}
        return frame(name, {**shared, "quality": _quality(self._body), "background": _background(self._body), **fields})


def _preview_steps(count: int, steps: int) -> list[int]:
    """Return the steps whose previews are sent: `count` of them, spread over all but the last."""
    return sorted({max(1, steps * place // (count + 1)) for place in range(1, count + 1)}) if steps > 1 else []
