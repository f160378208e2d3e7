"""txt2img, img2img, upscaling, and the state of the web UI: selected model, running jobs, progress."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from io import BytesIO
from typing import TYPE_CHECKING, Any

import attrs

from mold_a1111.infotext import infotext, with_infotext
from mold_a1111.requests import (
    A1111Generation,
    A1111ImageToImage,
    A1111Options,
    A1111TextToImage,
    A1111Upscale,
    generate_request,
)
from mold_core import (
    DenoiseStep,
    GenerateRequest,
    GenerateResponse,
    ImageData,
    ModelNotFoundError,
    ModelSpec,
    Preview,
    UpscaleRequest,
    UpscaleResponse,
    ValidationError,
    decode_image,
)
from mold_core.media.metadata import OutputMetadata, read_metadata

if TYPE_CHECKING:
    from mold_core import Engine, Job
    from mold_http import Service

__all__ = ["WebUi", "image_models", "model_named"]

_HR_SCALE, _HR_STRENGTH = 2.0, 0.7

# Largest image to resize in memory. The output of an upscaler may be larger.
_MAX_PIXELS = 2**27
_UPSCALER_FACTOR = 4


class WebUi:
    """The state of the web UI between requests, and the handlers that use it."""

    def __init__(self) -> None:
        self._model: str | None = None
        self._jobs: list[Job] = []

    # --- generating ----------------------------------------------------------------------------------------------

    async def txt2img(self, service: Service, req: Any, resp: Any) -> None:
        """Respond with images generated from a prompt."""
        from mold_http import read_json

        body = await read_json(req, A1111TextToImage)
        spec, abilities = await self._spec(service, body)
        upscaler = await asyncio.to_thread(_upscaler, service.engine, body.hr_upscaler) if body.enable_hr else None
        images = await self._generate(service, req, generate_request(body, spec, abilities))
        if body.enable_hr:
            images = [await self._enlarged(service, req, body, spec, image, upscaler) for image in images]
        await _respond(resp, body, images)

    async def img2img(self, service: Service, req: Any, resp: Any) -> None:
        """Respond with images generated from an image."""
        from mold_http import read_json

        body = await read_json(req, A1111ImageToImage)
        spec, abilities = await self._spec(service, body)
        more: dict[str, Any] = {"source_image": body.init_images[0]}
        if body.denoising_strength is not None:
            more["strength"] = body.denoising_strength
        if body.mask is not None:
            mask = body.mask
            more["mask_image"] = await service.media.run(req, _inverted, mask) if body.inpainting_mask_invert else mask
        images = await self._generate(service, req, generate_request(body, spec, abilities, **more))
        await _respond(resp, body, images)

    async def _generate(self, service: Service, req: Any, request: GenerateRequest) -> list[ImageData]:
        result: GenerateResponse = await self._result(service, req, request)
        return list(result.images)

    async def _result(self, service: Service, req: Any, request: Any) -> Any:
        """Return the result of a request. Until then, its job counts as one of the web UI's running jobs."""
        from mold_http import result_of, submit

        job = await submit(service, req, request, durable=False)
        self._jobs.append(job)
        try:
            return await result_of(req, job)
        finally:
            self._jobs.remove(job)

    async def _enlarged(
        self,
        service: Service,
        req: Any,
        body: A1111TextToImage,
        spec: ModelSpec,
        image: ImageData,
        upscaler: str | None,
    ) -> ImageData:
        """Return an upscaled image, denoised again."""
        metadata = read_metadata(image.data)
        source = image.data
        if upscaler is not None:
            enlarged: UpscaleResponse = await self._result(service, req, UpscaleRequest(image=source, model=upscaler))
            source = enlarged.image.data
        scale = _HR_SCALE if body.hr_scale is None else body.hr_scale
        first = generate_request(body, spec, frozenset())
        request = attrs.evolve(
            first,
            width=body.hr_resize_x or round(image.width * scale),
            height=body.hr_resize_y or round(image.height * scale),
            steps=body.hr_second_pass_steps or first.steps,
            strength=_HR_STRENGTH if body.denoising_strength is None else body.denoising_strength,
            source_image=source,
            seed=metadata.seed if metadata is not None else first.seed,
            batch_size=1,
        )
        return (await self._generate(service, req, request))[0]

    async def upscale(self, service: Service, req: Any, resp: Any) -> None:
        """Respond with an upscaled image."""
        from mold_http import read_json, respond_json

        body = await read_json(req, A1111Upscale)
        data = body.image
        model = await asyncio.to_thread(_upscaler, service.engine, body.upscaler_1)
        if model is not None:
            await service.media.run(req, _check_size, body)
            result: UpscaleResponse = await self._result(service, req, UpscaleRequest(image=data, model=model))
            data = await asyncio.to_thread(_resized, result, body)
        respond_json(resp, {"html_info": "", "image": base64.b64encode(data).decode()})

    # --- options and progress ------------------------------------------------------------------------------------

    async def get_options(self, service: Service, req: Any, resp: Any) -> None:
        """Respond with the options that clients read."""
        from mold_http import respond_json

        spec = await asyncio.to_thread(model_named, service.engine, self._model)
        options = {
            "sd_model_checkpoint": spec.name,
            "sd_checkpoint_hash": None,
            "sd_vae": "Automatic",
            "samples_format": "png",
            "CLIP_stop_at_last_layers": 1,
        }
        respond_json(resp, options)

    async def set_options(self, service: Service, req: Any, resp: Any) -> None:
        """Set the model for requests that name none."""
        from mold_http import read_json, respond_json

        body = await read_json(req, A1111Options)
        if body.sd_model_checkpoint:
            self._model = (await asyncio.to_thread(model_named, service.engine, body.sd_model_checkpoint)).name
        respond_json(resp, None)

    async def progress(self, service: Service, req: Any, resp: Any) -> None:
        """Respond with the progress and the last preview of the oldest running job."""
        from mold_http import query_of, respond_json

        jobs = [job for job in self._jobs if not job.finished]
        running = next((job for job in jobs if job.state == "running"), jobs[0] if jobs else None)
        with_image = query_of(req).get("skip_current_image", "false").lower() not in ("true", "1")
        respond_json(resp, _progress(running, len(jobs), with_image))

    async def interrupt(self, service: Service, req: Any, resp: Any) -> None:
        """Cancel the jobs of the web UI."""
        from mold_http import respond_json

        for job in list(self._jobs):
            await asyncio.to_thread(job.cancel)
        respond_json(resp, {})

    # --- inside --------------------------------------------------------------------------------------------------

    async def _spec(self, service: Service, body: A1111Generation) -> tuple[ModelSpec, frozenset[str]]:
        """Return the model of a request and its capabilities. Raises UnknownModelError."""
        named = (body.override_settings or {}).get("sd_model_checkpoint")
        if named is not None and not isinstance(named, str):
            raise ValidationError("sd_model_checkpoint must be text", field="override_settings.sd_model_checkpoint")
        spec = await asyncio.to_thread(model_named, service.engine, named or self._model)
        return spec, service.engine.capabilities(spec)


def model_named(engine: Engine, name: str | None) -> ModelSpec:
    """Return the model for a title of the web UI, such as `flux-dev:q8 [hash]`.

    Without a name, it is the default model, or an installed one if the default generates videos.
    """
    spec = engine.resolve(None if name is None else name.partition(" [")[0])
    if name is None and "text-to-video" in engine.capabilities(spec):
        return next(iter(image_models(engine)), spec)
    return spec


def image_models(engine: Engine) -> list[ModelSpec]:
    """Return the installed models that generate images."""
    usable = (entry.spec for entry in engine.models() if entry.downloaded and entry.runnable)
    return [spec for spec in usable if "text-to-image" in engine.capabilities(spec)]


def _upscaler(engine: Engine, name: str | None) -> str | None:
    """Return the name of an upscaler; None for those of the web UI that need no model."""
    if name is None or name == "None" or name.startswith("Latent"):
        return None
    spec = engine.resolve(name)
    if "upscale" not in engine.abilities(spec.name):
        raise ValidationError(f"{spec.name} is no upscaler", field="upscaler", value=name)
    if not engine.store.has(spec):
        raise ModelNotFoundError(f"{spec.name} is not installed", field="upscaler", hint=f"mold pull {spec.name}")
    return spec.name


def _inverted(mask: bytes) -> bytes:
    """Return a mask whose black areas are regenerated."""
    from PIL import ImageOps

    from mold_core.media.decoder import check_image

    check_image(mask, name="mask")
    buffer = BytesIO()
    ImageOps.invert(decode_image(mask, name="mask").convert("L")).save(buffer, "PNG")
    return buffer.getvalue()


def _check_size(body: A1111Upscale) -> None:
    """Raise ValidationError if the image cannot be read, or would get so large that it fills the memory."""
    from mold_core.media.decoder import check_image

    width, height = check_image(body.image)
    wanted = _size(body, width, height)
    most = max(_MAX_PIXELS, _UPSCALER_FACTOR**2 * width * height)
    if wanted[0] * wanted[1] > most:
        raise ValidationError(
            f"upscaling_resize: {wanted[0]}x{wanted[1]} has more than {most / 1e6:.0f} megapixels",
            field="upscaling_resize",
        )


def _size(body: A1111Upscale, width: int, height: int) -> tuple[int, int]:
    """Return the requested size for an image with these sides."""
    if body.resize_mode == 1:
        return body.upscaling_resize_w or 512, body.upscaling_resize_h or 512
    factor = 4.0 if body.upscaling_resize is None else body.upscaling_resize
    return max(round(width * factor), 1), max(round(height * factor), 1)


def _resized(result: UpscaleResponse, body: A1111Upscale) -> bytes:
    """Return an upscaled image in the requested size."""
    size = _size(body, result.original_width, result.original_height)
    if size == (result.image.width, result.image.height):
        return result.image.data
    buffer = BytesIO()
    decode_image(result.image.data, max_pixels=result.image.width * result.image.height).resize(size).save(
        buffer, "PNG"
    )
    return buffer.getvalue()


async def _respond(resp: Any, body: A1111Generation, images: list[ImageData]) -> None:
    from mold_http import respond_json

    respond_json(resp, await asyncio.to_thread(_images_body, body, images))


def _images_body(body: A1111Generation, images: list[ImageData]) -> dict[str, Any]:
    sampler = body.sampler_name or "Euler"
    known = [(image, read_metadata(image.data)) for image in images]
    texts = [infotext(metadata, sampler) if metadata else "" for _, metadata in known]
    files = [
        with_infotext(image.data, text) if text else image.data for (image, _), text in zip(known, texts, strict=True)
    ]
    encoded = [base64.b64encode(data).decode() for data in files]
    if isinstance(body, A1111ImageToImage) and body.include_init_images:
        encoded += [base64.b64encode(image).decode() for image in body.init_images]
    parameters = {
        field.name: getattr(body, field.name)
        for field in attrs.fields(type(body))
        if field.name not in ("init_images", "mask")
    }
    return {
        "images": [] if body.send_images is False else encoded,
        "parameters": parameters,
        "info": json.dumps(_info([metadata for _, metadata in known if metadata], images, texts, sampler)),
    }


def _info(metadata: list[OutputMetadata], images: list[ImageData], texts: list[str], sampler: str) -> dict[str, Any]:
    """Return the web UI's `info` of a batch."""
    if not metadata:  # embed_metadata is off
        return {"width": images[0].width, "height": images[0].height, "infotexts": texts}
    first = metadata[0]
    negative = first.negative_prompt or ""
    return {
        "prompt": first.prompt,
        "all_prompts": [one.prompt for one in metadata],
        "negative_prompt": negative,
        "all_negative_prompts": [negative] * len(metadata),
        "seed": first.seed,
        "all_seeds": [one.seed for one in metadata],
        "subseed": first.seed,
        "all_subseeds": [one.seed for one in metadata],
        "subseed_strength": 0,
        "width": images[0].width,
        "height": images[0].height,
        "sampler_name": sampler,
        "cfg_scale": first.guidance,
        "steps": first.steps,
        "batch_size": len(metadata),
        "restore_faces": False,
        "sd_model_name": first.model,
        "sd_model_hash": None,
        "denoising_strength": first.strength,
        "extra_generation_params": {},
        "index_of_first_image": 0,
        "infotexts": texts,
        "styles": [],
        "job_timestamp": time.strftime("%Y%m%d%H%M%S"),
        "clip_skip": 1,
    }


def _progress(job: Job | None, count: int, with_image: bool) -> dict[str, Any]:
    """Return the progress of a job in the form of the web UI."""
    events = job.events_so_far()[0] if job is not None else []
    step = next((event for event in reversed(events) if isinstance(event, DenoiseStep)), None)
    preview = next((event for event in reversed(events) if isinstance(event, Preview)), None)
    done, total = (step.step, step.total) if step is not None else (0, 0)
    share = done / total if total else 0.0
    started = job.started_at if job is not None else None
    left = (time.time() - started) * (1 - share) / share if started and share else 0.0
    return {
        "progress": share,
        "eta_relative": left,
        "state": {
            "skipped": False,
            "interrupted": False,
            "stopping_generation": False,
            "job": "" if job is None else job.id,
            "job_count": count,
            "job_timestamp": "0",
            "job_no": 0,
            "sampling_step": done,
            "sampling_steps": total,
        },
        "current_image": base64.b64encode(preview.image).decode() if with_image and preview is not None else None,
        "textinfo": None,
    }
