"""The closing event of a job on the wire → the response that the engine there gave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from mold_core.wire import (
    ChainResponse,
    ExpandResponse,
    GenerateResponse,
    PullResponse,
    UpscaleResponse,
)
from mold_core.wire.convert import from_json

__all__ = ["response_of"]

_VIDEO = "video_"


def response_of(kind: str, data: Mapping[str, Any]) -> Any:
    """Return the response that the data of the event ``complete`` describes. Raises ValidationError."""
    match kind:
        case "generate":
            return _generated(data)
        case "upscale":
            names = ("format", "width", "height")
            image = {"data": data.get("image"), **{name: data.get(name) for name in names}}
            return from_json(UpscaleResponse, {**data, "image": image})
        case "chain":
            return from_json(ChainResponse, {**data, "video": {**data, "data": data.get("video")}})
        case "expand":
            return from_json(ExpandResponse, data)
        case _:
            return from_json(PullResponse, data)


def _generated(data: Mapping[str, Any]) -> GenerateResponse:
    """Return the response whose images stand in a list, and whose video is spread over the object."""
    images = [_named(image) for image in data.get("images", ())]
    video = {name.removeprefix(_VIDEO): value for name, value in data.items() if name.startswith(_VIDEO)}
    whole: dict[str, Any] = {**data, "images": images}
    if video:
        names = ("format", "width", "height")
        whole["video"] = {"data": data.get("image"), **video, **{name: data.get(name) for name in names}}
    return from_json(GenerateResponse, whole)


def _named(image: Mapping[str, Any]) -> dict[str, Any]:
    """Return an image with its name in the gallery, which the wire carries as a path."""
    url = image.get("url")
    return {**image, "name": unquote(url.rpartition("/")[2])} if isinstance(url, str) else dict(image)
