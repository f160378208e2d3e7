"""Requests to OpenAI's video routes, and the requests to the engine that they mean."""

from __future__ import annotations

from typing import Any

import attrs
import falcon.asgi

from mold_core.catalog import ModelSpec
from mold_core.chains import ClipRules, frames_of, request_of_length
from mold_core.engine import Engine
from mold_core.errors import ValidationError
from mold_core.wire import ChainRequest, GenerateRequest, LoraWeight
from mold_core.wire.convert import from_json
from mold_core.wire.fields import wire_field
from mold_core.wire.generate import MAX_PROMPT_BYTES, MAX_SEED
from mold_http.guard.bodies import read_json
from mold_http.guard.forms import read_form
from mold_http.openai.forms import from_form
from mold_http.openai.image_requests import sides

__all__ = ["VideoGeneration", "read_video", "video_request"]

_DEFAULT_FPS = 24


@attrs.frozen(kw_only=True)
class VideoGeneration:
    """Form fields of `client.videos.create`, or the same as JSON. `input_reference` is a file.

    mold adds fields to those of OpenAI (extra_body), under the names of SGLang and vLLM-Omni.
    """

    prompt: str = wire_field("Description of the video.", not_blank=True, max_length=MAX_PROMPT_BYTES)
    model: str | None = wire_field(
        "Model. OpenAI's own names, such as sora-2, mean the default video model, as does no name.",
        default=None,
        not_blank=True,
        max_length=200,
    )
    seconds: float | None = wire_field(
        "Length; default: that of the model. Longer than a clip, and several clips are joined.",
        default=None,
        minimum=0.01,
        maximum=3600,
    )
    size: str | None = wire_field("WIDTHxHEIGHT or auto.", default=None, max_length=20)
    input_reference: bytes | None = wire_field("Image to start from, PNG or JPEG.", default=None, min_length=1)
    num_frames: int | None = wire_field("Number of frames, instead of seconds.", default=None, minimum=1, maximum=9000)
    fps: int | None = wire_field("Frames per second.", default=None, minimum=1, maximum=120)
    num_inference_steps: int | None = wire_field("Denoising steps.", default=None, minimum=1, maximum=100)
    guidance_scale: float | None = wire_field(
        "Guidance scale: how closely the prompt is followed.", default=None, minimum=0, maximum=100
    )
    negative_prompt: str | None = wire_field(
        "What the video should not show.", default=None, max_length=MAX_PROMPT_BYTES
    )
    seed: int | None = wire_field("Seed of the video.", default=None, minimum=0, maximum=MAX_SEED)
    loras: tuple[LoraWeight, ...] | None = wire_field("LoRAs to apply.", default=None, min_length=1)
    options: dict[str, Any] = wire_field(
        "Values of parameters that the model's family declares, by name.", default=attrs.Factory(dict), hash=False
    )


async def read_video(req: falcon.asgi.Request) -> VideoGeneration:
    """Return the request in a form or in JSON. Raises the errors of `read_json`."""
    if (req.content_type or "").lower().startswith("multipart/form-data"):
        form = await read_form(req, frozenset({"input_reference"}))
        files = form.files.get("input_reference", ())
        return from_form(VideoGeneration, form, {"input_reference": files[0]} if files else {})
    body = await read_json(req, dict[str, Any], media=frozenset({"input_reference", "image_url"}))
    return from_json(VideoGeneration, _plain(body))


def _plain(body: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON body with a number for `seconds` and a file for `input_reference`."""
    seconds, reference = body.get("seconds"), body.get("input_reference")
    if isinstance(seconds, str) and seconds.replace(".", "", 1).isdigit() and seconds.isascii():
        body = {**body, "seconds": float(seconds)}
    if isinstance(reference, dict):
        url = reference.get("image_url")
        if not isinstance(url, str) or not url.startswith("data:"):
            raise ValidationError(
                "input_reference.image_url must be a data: URL",
                field="input_reference",
                hint="or send a form with a file",
            )
        body = {**body, "input_reference": url}
    return body


def video_request(engine: Engine, body: VideoGeneration, spec: ModelSpec) -> GenerateRequest | ChainRequest:
    """Return the request to the engine: a clip, or a chain of clips for a longer video. Raises ValidationError."""
    width, height = sides(body.size)
    return request_of_length(
        _frames(engine, body, spec),
        engine.chain_frames(spec),
        negative_prompt=body.negative_prompt,
        prompt=body.prompt,
        model=spec.name,
        width=width,
        height=height,
        fps=body.fps,
        steps=body.num_inference_steps,
        guidance=body.guidance_scale,
        seed=body.seed,
        loras=body.loras,
        options=body.options,
        source_image=body.input_reference,
        output_format="mp4",
    )


def _frames(engine: Engine, body: VideoGeneration, spec: ModelSpec) -> int | None:
    """Return the number of frames; for seconds, the nearest that the model can generate."""
    if body.num_frames is not None or body.seconds is None:
        return body.num_frames
    stride = ClipRules.of(engine.plugins.chain_renderers.get(spec.family)).stride
    return frames_of(body.seconds, body.fps or spec.defaults.fps or _DEFAULT_FPS, stride)
