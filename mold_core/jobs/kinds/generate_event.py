"""The wire form of a generate result: the event `complete`, and the files and headers of a response."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from mold_core.jobs.kinds.kind import ResultBody
from mold_core.media.formats import CONTENT_TYPES
from mold_core.wire import GenerateResponse, ImageData, VideoData
from mold_core.wire.convert import from_json, to_json
from mold_core.wire.generate import MAX_SEED

__all__ = ["generate_bodies", "generate_event", "generate_headers", "generated"]

_VIDEO = "video_"


def generate_event(result: GenerateResponse, form: str, prefix: str = "") -> dict[str, Any]:
    """Return the data of the event `complete`: images in a list, and the fields of the first image or the video flat.

    `prefix` is the path under which clients reach the server.
    """
    first = result.video or result.images[0]
    flat: dict[str, Any] = {"format": first.format, "width": first.width, "height": first.height}
    if form in ("bytes", "base64"):
        flat["image"] = to_json(first.data)
    if result.video is not None:
        about_video = {name: value for name, value in to_json(result.video).items() if name not in (*flat, "data")}
        flat |= {f"video_{name}": value for name, value in about_video.items()}
    images = [_image_json(image, form, prefix) for image in result.images]
    about: dict[str, Any] = {
        "generation_time_ms": result.generation_time_ms,
        "model": result.model,
        "seed_used": result.seed_used,
        "warnings": list(result.warnings),
    }
    gpu = getattr(result, "gpu", None)
    if result.expanded:
        about["expanded"] = list(result.expanded)
    return {"images": images, **about, **flat, **({} if gpu is None else {"gpu": gpu})}


def _image_json(image: ImageData, form: str, prefix: str) -> dict[str, Any]:
    about: dict[str, Any] = {
        "format": image.format,
        "width": image.width,
        "height": image.height,
        "index": image.index,
    }
    if image.name is not None:
        about["url"] = f"{prefix}/api/gallery/image/{image.name}"
    if form == "bytes":
        return {"data": list(image.data), **about}
    unsaved = form == "url" and image.name is None  # there is no gallery, or saving failed
    return {"data": to_json(image.data), **about} if form == "base64" or unsaved else about


def generated(data: Mapping[str, Any]) -> GenerateResponse:
    """Return the response from an object with a list `images` and with the fields of the video flat."""
    images = [_named(image) for image in data.get("images", ())]
    video = {name.removeprefix(_VIDEO): value for name, value in data.items() if name.startswith(_VIDEO)}
    whole: dict[str, Any] = {**data, "images": images}
    if video:
        names = ("format", "width", "height")
        whole["video"] = {"data": data.get("image"), **video, **{name: data.get(name) for name in names}}
    return from_json(GenerateResponse, whole)


def _named(image: Mapping[str, Any]) -> dict[str, Any]:
    """Return an image with its gallery name, taken from the path in `url`."""
    url = image.get("url")
    return {**image, "name": unquote(url.rpartition("/")[2])} if isinstance(url, str) else dict(image)


def generate_bodies(result: GenerateResponse) -> list[ResultBody]:
    """Return the video, or each image with its seed."""
    if result.video is not None:
        return [ResultBody(content_type=CONTENT_TYPES[result.video.format], data=result.video.data)]
    return [
        ResultBody(
            content_type=CONTENT_TYPES[image.format],
            data=image.data,
            headers={"X-Mold-Seed-Used": str((result.seed_used + image.index) % (MAX_SEED + 1))},
        )
        for image in result.images
    ]


def generate_headers(result: GenerateResponse) -> dict[str, str]:
    """Return the seed, the properties of a video, and the warning about adjusted dimensions."""
    headers = {"X-Mold-Seed-Used": str(result.seed_used)}
    if result.video is not None:
        headers |= _video_headers(result.video)
    adjusted = next((warning for warning in result.warnings if warning.startswith("dimensions adjusted")), None)
    if adjusted:
        headers["X-Mold-Dimension-Warning"] = adjusted
    return headers


def _video_headers(video: VideoData) -> dict[str, str]:
    values: dict[str, object] = {
        "Frames": video.frames,
        "Fps": video.fps,
        "Width": video.width,
        "Height": video.height,
        "Has-Audio": 1 if video.has_audio else None,
        "Duration-Ms": video.duration_ms,
        "Audio-Sample-Rate": video.audio_sample_rate,
        "Audio-Channels": video.audio_channels,
    }
    return {f"X-Mold-Video-{name}": str(value) for name, value in values.items() if value is not None}
