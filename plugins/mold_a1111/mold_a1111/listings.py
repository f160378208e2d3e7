"""Lists that clients of the web UI request: models, samplers, upscalers, LoRAs, memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from mold_a1111.generation import image_models
from mold_a1111.infotext import infotext_of_file, parse_infotext
from mold_a1111.requests import SAMPLERS, A1111PngInfo

if TYPE_CHECKING:
    from mold_core import Engine
    from mold_http import Service

__all__ = ["FIXED", "fixed", "loras", "memory", "png_info", "sd_models", "upscalers"]

Handler = Callable[..., Awaitable[None]]

# Path → constant response.
FIXED: dict[str, Any] = {
    "samplers": [{"name": name, "aliases": [name.lower().replace(" ", "_")], "options": {}} for name in SAMPLERS],
    "schedulers": [
        {"name": "automatic", "label": "Automatic", "aliases": None, "default_rho": -1, "need_inner_model": False}
    ],
    "latent-upscale-modes": [{"name": "Latent"}],
    "sd-vae": [],
    "sd-modules": [],
    "scripts": {"txt2img": [], "img2img": []},
    "embeddings": {"loaded": {}, "skipped": {}},
    "prompt-styles": [],
    "face-restorers": [],
    "hypernetworks": [],
    "cmd-flags": {},
}


def fixed(value: Any) -> Handler:
    """Return a handler that always responds with a value."""

    async def respond(service: Service, req: Any, resp: Any) -> None:
        """Respond with the value."""
        from mold_http import respond_json

        respond_json(resp, value)

    return respond


async def sd_models(service: Service, req: Any, resp: Any) -> None:
    """Respond with the installed models that generate images."""
    from mold_http import respond_json

    respond_json(resp, await asyncio.to_thread(_models, service.engine))


async def upscalers(service: Service, req: Any, resp: Any) -> None:
    """Respond with the installed upscalers, and None, which leaves an image unchanged."""
    from mold_http import respond_json

    names = await asyncio.to_thread(_installed_upscalers, service.engine)
    respond_json(resp, [_upscaler("None", 1), *(_upscaler(name, 4) for name in names)])


async def loras(service: Service, req: Any, resp: Any) -> None:
    """Respond with the LoRAs that prompts can name."""
    from mold_http import respond_json

    found = await asyncio.to_thread(service.engine.disk.loras)
    respond_json(resp, [{"name": lora.name, "alias": lora.name, "path": lora.name, "metadata": {}} for lora in found])


async def memory(service: Service, req: Any, resp: Any) -> None:
    """Respond with the memory of the machine, in bytes."""
    from mold_http import respond_json

    snapshot = await service.resources.latest()
    ram = snapshot.system_ram
    cuda: dict[str, Any] = {"error": "there is no GPU"}
    for gpu in snapshot.gpus[:1]:
        cuda = {"system": {"free": gpu.vram_total - gpu.vram_used, "used": gpu.vram_used, "total": gpu.vram_total}}
    respond_json(resp, {"ram": {"free": ram.total - ram.used, "used": ram.used, "total": ram.total}, "cuda": cuda})


async def png_info(service: Service, req: Any, resp: Any) -> None:
    """Respond with the infotext of an image."""
    from mold_http import read_json, respond_json

    body = await read_json(req, A1111PngInfo)
    text = await asyncio.to_thread(infotext_of_file, body.image)
    respond_json(
        resp, {"info": text, "items": {"parameters": text} if text else {}, "parameters": parse_infotext(text)}
    )


def _models(engine: Engine) -> list[dict[str, Any]]:
    return [
        {
            "title": spec.name,
            "model_name": spec.name,
            "hash": None,
            "sha256": None,
            "filename": spec.name,
            "config": None,
        }
        for spec in image_models(engine)
    ]


def _installed_upscalers(engine: Engine) -> list[str]:
    return [
        entry.spec.name
        for entry in engine.models()
        if entry.downloaded and "upscale" in engine.abilities(entry.spec.name)
    ]


def _upscaler(name: str, scale: int) -> dict[str, Any]:
    return {"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": scale}
