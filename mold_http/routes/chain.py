"""POST /api/generate/chain and its stream: long videos joined from clips."""

from __future__ import annotations

import asyncio
from typing import Any, get_args

import attrs
import falcon.asgi

from mold_core.catalog import ModelSpec, refuse_lora_paths
from mold_core.chains import ClipRules, plan, script_of
from mold_core.errors import ValidationError
from mold_core.hookspecs import ChainRenderer
from mold_core.jobs.kinds import JOB_KINDS
from mold_core.wire import ProgressEvent
from mold_core.wire.chain import MAX_STAGES, ChainEvent, ChainRequest, ChainResponse
from mold_core.wire.fields import wire_field
from mold_http.guard.bodies import query_of, read_json
from mold_http.jobs import JobSource, result_of, submit
from mold_http.responses import JSON, json_of, respond_json
from mold_http.results import respond_result, result_frame
from mold_http.routes.route import EVENT_STREAM, EVENTS, Query, ResponseSpec, Route
from mold_http.service import Service
from mold_http.sse import send_events

__all__ = ["ROUTES", "ChainLimits", "ChainValidation"]

_MAX_FADE_FRAMES = 32


@attrs.frozen(kw_only=True)
class ChainLimits:
    """Limits of chains for a model."""

    model: str = wire_field("Full name of the model.")
    frames_per_clip_cap: int = wire_field("Maximum number of frames of a clip.")
    frames_per_clip_recommended: int = wire_field("Recommended number of frames of a clip.")
    frame_stride: int = wire_field("A clip has a multiple of this number of frames, plus 1.")
    max_stages: int = wire_field("Maximum number of clips.")
    max_total_frames: int = wire_field("Maximum number of frames of all clips.")
    fade_frames_max: int = wire_field("Maximum number of frames of a fade.")
    transition_modes: tuple[str, ...] = wire_field("Supported transitions between clips.")
    quantization_family: str = wire_field("Weight format of the model.")


@attrs.frozen(kw_only=True)
class ChainValidation:
    """A chain that can be generated."""

    model: str = wire_field("Full name of the model.")
    stage_count: int = wire_field("Number of clips.")
    total_frames: int = wire_field("Number of frames of the video.")
    estimated_total_frames: int = wire_field("Number of frames of all clips, without the overlap.")
    duration_ms: int = wire_field("Length of the video in milliseconds.")
    warnings: tuple[str, ...] = wire_field("Fields that are adjusted or ignored, one sentence each.")
    script: dict[str, Any] = wire_field("The chain as a script, without images.", hash=False)


async def chain(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with the video as JSON."""
    job = await submit(service, req, await read_json(req, ChainRequest), durable=False)
    result = await result_of(req, job)
    if service.settings.compat == "reference":
        respond_json(resp, await asyncio.to_thread(_with_numbers, result))
        return
    await respond_result(req, resp, JOB_KINDS[job.kind], result, "base64")


def _with_numbers(result: ChainResponse) -> dict[str, Any]:
    """Return the response with the data of the video as numbers."""
    content: dict[str, Any] = json_of(result)
    content["video"]["data"] = list(result.video.data)
    return content


async def validate(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with the clips of a chain, without generating it."""
    request = await read_json(req, ChainRequest)
    refuse_lora_paths(request)
    prepared = await service.media.run(req, service.engine.prepare, request)
    assert prepared.spec is not None
    rules = ClipRules.of(service.engine.plugins.chain_renderers.get(prepared.spec.family))
    planned = plan(prepared.request, rules)
    respond_json(
        resp,
        ChainValidation(
            model=prepared.spec.name,
            stage_count=len(planned.stages),
            total_frames=planned.total_frames,
            estimated_total_frames=planned.rendered_frames,
            duration_ms=planned.total_frames * 1000 // prepared.request.fps,
            warnings=prepared.warnings,
            script=script_of(prepared.request, planned.stages),
        ),
    )


async def chain_stream(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with ``progress`` events, then one ``complete`` or ``error``."""
    job = await submit(service, req, await read_json(req, ChainRequest), durable=False)
    send_events(req, resp, service.feeds, _ChainSource(service, job, result_frame), patient=True)


class _ChainSource(JobSource):
    """The events of a chain; of the engine's events only the steps. /api/jobs/ID/events sends all of them."""

    def frame_of(self, event: ProgressEvent) -> bytes:
        """Return the frame of a chain event; nothing for other events."""
        return super().frame_of(event) if isinstance(event, get_args(ChainEvent)) else b""


async def chain_limits(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with ChainLimits."""
    name = query_of(req).get("model")
    if not name:
        raise ValidationError("model is required", field="model", hint="add ?model=NAME")
    spec, renderer = _chainable(service, name)
    rules = ClipRules.of(renderer)
    most = rules.largest or 0
    respond_json(
        resp,
        ChainLimits(
            model=spec.name,
            frames_per_clip_cap=most,
            frames_per_clip_recommended=service.engine.chain_frames(spec) or most,
            frame_stride=rules.stride,
            max_stages=MAX_STAGES,
            max_total_frames=MAX_STAGES * most,
            fade_frames_max=_MAX_FADE_FRAMES,
            transition_modes=("smooth", "cut", "fade"),
            quantization_family=spec.tag,
        ),
    )


def _chainable(service: Service, name: str) -> tuple[ModelSpec, ChainRenderer]:
    """Return the model of that name and its renderer. Raises ValidationError if it does not support chains."""
    spec = service.engine.resolve(name)
    renderer = service.engine.plugins.chain_renderers.get(spec.family)
    if renderer is None:
        raise ValidationError(f"{spec.name} cannot generate chains: its family has no chain renderer", field="model")
    renderer.check(spec)
    return spec, renderer


_DOC = (
    "Requires either `stages`, or one `prompt` with `total_frames`, which is divided into clips of `clip_frames`. "
    "There are at most 16 clips, each of a multiple of the model's frame stride plus one frames (see "
    "/api/capabilities/chain-limits). Only models of a family with a chain renderer support chains."
)
_ERRORS = (
    "UNKNOWN_MODEL",
    "MODEL_NOT_FOUND",
    "CANCELLED",
    "INFERENCE_ERROR",
    "QUEUE_FULL",
    "INSUFFICIENT_MEMORY",
    "CHAIN_FAILED",
)

ROUTES = (
    Route(
        method="POST",
        path="/api/generate/chain",
        name="chain",
        summary="Generate a long video from several clips",
        doc=_DOC,
        handler=chain,
        tag="generate",
        request=ChainRequest,
        responses=(ResponseSpec(doc="The video.", content={JSON: ChainResponse}),),
        errors=_ERRORS,
        tier="generation",
        example=(
            "curl -X POST localhost:7680/api/generate/chain -H 'Content-Type: application/json' \\\n"
            """  -d '{"model": "ltx-2-19b-distilled:fp8", "prompt": "a cat in autumn leaves", "total_frames": 400}'"""
        ),
    ),
    Route(
        method="POST",
        path="/api/generate/chain/stream",
        name="chain_stream",
        summary="Generate a long video and stream the progress",
        doc=_DOC
        + " Events are `progress` (chain_start, stage_start, denoise_step, stage_done, stitching), then one `complete` "
        "or one `error`.",
        handler=chain_stream,
        tag="generate",
        request=ChainRequest,
        responses=(ResponseSpec(doc="Events.", content={EVENT_STREAM: EVENTS}),),
        errors=_ERRORS,
        tier="generation",
    ),
    Route(
        method="POST",
        path="/api/generate/chain/validate",
        name="validate_chain",
        summary="Check a chain without generating it",
        doc="The body is that of /api/generate/chain; the response has its clips and their frames.",
        handler=validate,
        tag="generate",
        request=ChainRequest,
        responses=(ResponseSpec(doc="The chain can be generated.", content={JSON: ChainValidation}),),
        errors=("UNKNOWN_MODEL", "MODEL_NOT_FOUND", "PLUGIN_ERROR"),
    ),
    Route(
        method="GET",
        path="/api/capabilities/chain-limits",
        name="chain_limits",
        summary="Limits of chains for a model",
        handler=chain_limits,
        tag="generate",
        parameters=(Query(name="model", doc="Name of the model.", required=True),),
        responses=(ResponseSpec(doc="The limits.", content={JSON: ChainLimits}),),
        errors=("UNKNOWN_MODEL", "MODEL_NOT_FOUND"),
    ),
)
