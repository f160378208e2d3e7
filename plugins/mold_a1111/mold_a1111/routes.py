"""The routes of one server: the subset of `/sdapi/v1` that clients use."""

from __future__ import annotations

from typing import Any, Literal

from mold_a1111 import listings
from mold_a1111.generation import WebUi
from mold_a1111.requests import A1111ImageToImage, A1111Options, A1111PngInfo, A1111TextToImage, A1111Upscale
from mold_http import JSON, Query, ResponseSpec, Route

__all__ = ["routes"]

PREFIX = "/sdapi/v1"

# Lists that clients read. The other constant responses only prevent errors in clients.
_LISTED = frozenset({"samplers", "schedulers", "latent-upscale-modes", "sd-vae", "sd-modules"})

_ERRORS = (
    "UNKNOWN_MODEL",
    "MODEL_NOT_FOUND",
    "CANCELLED",
    "INFERENCE_ERROR",
    "QUEUE_FULL",
    "INSUFFICIENT_MEMORY",
)

_NAMED = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
_IMAGES = {
    "type": "object",
    "required": ["images", "parameters", "info"],
    "properties": {
        "images": {"type": "array", "items": {"type": "string", "contentEncoding": "base64"}},
        "parameters": {"type": "object"},
        "info": {"type": "string", "contentMediaType": JSON},
    },
}
_IMAGE = {
    "type": "object",
    "required": ["html_info", "image"],
    "properties": {"html_info": {"type": "string"}, "image": {"type": "string", "contentEncoding": "base64"}},
}
_PROGRESS = {
    "type": "object",
    "required": ["progress", "eta_relative", "state", "current_image", "textinfo"],
    "properties": {
        "progress": {"type": "number", "minimum": 0, "maximum": 1},
        "eta_relative": {"type": "number"},
        "state": {"type": "object"},
        "current_image": {"type": ["string", "null"]},
        "textinfo": {"type": ["string", "null"]},
    },
}
_INFO = {
    "type": "object",
    "required": ["info", "items", "parameters"],
    "properties": {"info": {"type": "string"}, "items": {"type": "object"}, "parameters": {"type": "object"}},
}


def routes() -> tuple[Route, ...]:
    """Return the routes, which share the state of one web UI."""
    ui = WebUi()
    skip = Query(name="skip_current_image", doc="Leave out the preview.", type=bool, default=False)
    return (
        _post("txt2img", ui.txt2img, "Generate images from a prompt", A1111TextToImage, _IMAGES),
        _post("img2img", ui.img2img, "Generate images from an image", A1111ImageToImage, _IMAGES),
        _post("extra-single-image", ui.upscale, "Upscale an image", A1111Upscale, _IMAGE),
        _post("png-info", listings.png_info, "Read the infotext of an image", A1111PngInfo, _INFO, tier="read"),
        _get(
            "options",
            ui.get_options,
            "Read the options",
            {"type": "object"},
            errors=("UNKNOWN_MODEL", "MODEL_NOT_FOUND"),
        ),
        _post("options", ui.set_options, "Choose the model", A1111Options, {"type": "null"}, tier="read"),
        _get("progress", ui.progress, "Follow the running job", _PROGRESS, parameters=(skip,)),
        _post("interrupt", ui.interrupt, "Cancel the jobs of this API", None, {"type": "object"}, tier="read"),
        _post("skip", ui.interrupt, "Cancel the jobs of this API", None, {"type": "object"}, tier="read"),
        _get("sd-models", listings.sd_models, "List the models", _list_of(_NAMED | {"required": ["title"]})),
        _get("upscalers", listings.upscalers, "List the upscalers", _list_of(_NAMED)),
        _get("loras", listings.loras, "List the LoRAs", _list_of(_NAMED)),
        _get("memory", listings.memory, "Describe the memory of the machine", {"type": "object"}),
        *(
            _get(
                path, listings.fixed(value), f"Respond to {path}", {"type": ["array", "object"]}, listed=path in _LISTED
            )
            for path, value in listings.FIXED.items()
        ),
    )


def _list_of(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": schema}


def _get(path: str, handler: Any, summary: str, schema: dict[str, Any], **more: Any) -> Route:
    return Route(
        method="GET",
        path=f"{PREFIX}/{path}",
        name=f"a1111_{path.replace('-', '_')}",
        summary=summary,
        handler=handler,
        tag="a1111",
        scheme="basic",
        responses=(ResponseSpec(doc="As the web UI responds.", content={JSON: schema}),),
        **more,
    )


def _post(
    path: str,
    handler: Any,
    summary: str,
    request: type | None,
    schema: dict[str, Any],
    tier: Literal["generation", "read"] = "generation",
) -> Route:
    return Route(
        method="POST",
        path=f"{PREFIX}/{path}",
        name=f"a1111_post_{path.replace('-', '_')}",
        summary=summary,
        handler=handler,
        tag="a1111",
        scheme="basic",
        request=request,
        responses=(ResponseSpec(doc="As the web UI responds.", content={JSON: schema}),),
        errors=_ERRORS if tier == "generation" else ("UNKNOWN_MODEL", "MODEL_NOT_FOUND"),
        tier=tier,
    )
