"""Chains: clips rendered one after the other, each encoded while the next one renders, then joined to one video."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import time
from typing import Any
from weakref import WeakSet

import attrs

from mold_core.catalog import ModelSpec
from mold_core.chains import Chain, ChainStore, ClipRules, ClipWork, join, lay_out, plan, script_of, stage_seed
from mold_core.errors import CancelledError, ChainError, MoldError, ValidationError, WorkerError
from mold_core.files import version_of
from mold_core.hookspecs import ChainRenderer, Worker
from mold_core.jobs.batch import BatchRun
from mold_core.jobs.job import Job
from mold_core.jobs.kinds.clip_tasks import EncodeClipTask, RenderClipTask
from mold_core.jobs.kinds.kind import JobKind, Prepared, ResultFile, RunContext
from mold_core.media.output_metadata import metadata_of
from mold_core.placement.memory import spec_for
from mold_core.plugin_errors import wrap_plugin_errors
from mold_core.requests.complete import complete
from mold_core.requests.models import Models
from mold_core.wire import (
    ChainDenoiseStep,
    ChainRequest,
    ChainResponse,
    ChainStage,
    ChainStageDone,
    ChainStageStart,
    ChainStart,
    DenoiseStep,
    GenerateRequest,
    Info,
    ProgressEvent,
    Stitching,
)
from mold_core.wire.convert import from_json, to_json

__all__ = ["ChainKind", "chain_store"]

_DEFAULT_FPS = 24


def chain_store(models: Models) -> ChainStore:
    """Return the store of chains on the disk."""
    return ChainStore(models.settings.home / "chains")


class ChainKind(JobKind):
    """Long videos. Finished clips are kept, so the same request resumes where it stopped."""

    name = "chain"
    request_class = ChainRequest
    response_class = ChainResponse
    has_files = True
    stream_route = "/api/generate/chain/stream"

    def __init__(self) -> None:
        self._begun: WeakSet[Job] = WeakSet()

    def prepare(self, request: ChainRequest, models: Models) -> Prepared:
        """Return the request with model, size, steps, guidance, fps and seed filled in, its stages checked."""
        spec = models.resolve(request.model)
        _renderer(spec, models).check(spec)
        first = plan(request, _rules(spec, models)).stages[0]
        files = models.store.locate(spec)
        completed, warnings = _completed(request, first, spec, models)
        found = models.placed(spec, request.placement)
        return Prepared(
            request=completed,
            spec=found.spec,
            load_bytes=files.size_bytes(),
            device=found.device,
            warnings=warnings,
        )

    def event_of(self, result: ChainResponse, form: str = "bytes", prefix: str = "") -> dict[str, Any]:
        """Return the data of the event `complete`: the fields of the video flat, its data as `video`."""
        whole = to_json(result)
        video = whole.pop("video")
        data = video.pop("data")
        return {**video, **whole, "video": data}

    def result_of(self, data: Mapping[str, Any]) -> ChainResponse:
        """Return the result that the data of the event `complete` describes."""
        return from_json(ChainResponse, {**data, "video": {**data, "data": data.get("video")}})

    def files_of(self, job: Job, result: ChainResponse) -> list[ResultFile]:
        """Return the video."""
        return [ResultFile(data=result.video.data, format=result.video.format)]

    def run(self, jobs: Sequence[Job], context: RunContext) -> Sequence[Job] | None:
        """Render the next clip that is not on disk; after the last, join all clips in the finishing thread.

        The files on disk are the state of a chain. Between two calls, only the fact that it has begun is remembered.
        """
        (job,) = jobs  # without a batch_key a job runs alone
        spec, worker = job.spec, context.worker
        assert spec is not None  # prepare found it
        chain = _laid_out(job.request, spec, context.models)
        if job not in self._begun:
            self._begin(job, chain, context)
        if chain.first_missing < len(chain.works) or chain.ready:
            with context.loading(spec):
                worker.load(spec_for(spec, [work.request for work in chain.works]), _ClipRun(job, 0))
        if chain.first_missing < len(chain.works):
            _make_clip(job, spec, chain, chain.first_missing, worker)
            return jobs
        _decode(job, spec, chain, chain.ready, worker)
        job.report(Stitching(total_frames=chain.plan.total_frames))
        context.finish_async(partial(_deliver, job, chain, context), jobs)
        return None

    def _begin(self, job: Job, chain: Chain, context: RunContext) -> None:
        self._begun.add(job)
        store = chain_store(context.models)
        store.keep(chain)
        store.remove_older(context.models.settings.chain_retention_h * 3600)
        store.save(chain)
        job.report(ChainStart(stage_count=len(chain.works), estimated_total_frames=chain.plan.rendered_frames))
        if chain.first_missing > 0:
            job.report(Info(message=f"going on after {chain.first_missing} of {len(chain.works)} stages"))
        for index, work in enumerate(chain.works):
            if not work.files.rendered:
                break
            job.report(ChainStageStart(stage_idx=index))
            job.report(ChainStageDone(stage_idx=index, frames_emitted=chain.plan.emitted[index]))


class _ClipRun(BatchRun):
    """The run of one clip as its renderer sees it; it forwards only steps and messages to the job."""

    def __init__(self, job: Job, index: int) -> None:
        super().__init__([job])
        self._index = index

    def report(self, event: ProgressEvent) -> None:
        """Forward a step with the index of this clip, and messages unchanged."""
        if isinstance(event, DenoiseStep):
            step = ChainDenoiseStep(stage_idx=self._index, step=event.step, total=event.total)
            self._jobs[0].report(step)
        elif isinstance(event, Info):
            self._jobs[0].report(event)


def _make_clip(job: Job, spec: ModelSpec, chain: Chain, index: int, worker: Worker) -> None:
    """Write a clip's latents to disk while the frames of earlier clips that are ready are decoded."""
    job.report(ChainStageStart(stage_idx=index))
    later = tuple(attrs.evolve(work.request, source_image=None) for work in chain.works[index + 1 :])
    work = attrs.evolve(chain.works[index], later=later)
    ready = chain.ready
    _guarded(chain, index, lambda: worker.run(RenderClipTask(spec, work, ready), _ClipRun(job, index)))
    job.report(ChainStageDone(stage_idx=index, frames_emitted=chain.plan.emitted[index]))
    _decode(job, spec, chain, [one for one in ready if one.ready], worker)


def _decode(job: Job, spec: ModelSpec, chain: Chain, works: Sequence[ClipWork], worker: Worker) -> None:
    """Write the frames of rendered clips to disk, one clip at a time with nothing else running."""
    for work in works:
        index = chain.works.index(work)
        _guarded(chain, index, partial(worker.run, EncodeClipTask(spec, work), _ClipRun(job, index)))


def _guarded(chain: Chain, index: int, work: Callable[[], None]) -> None:
    """Run work on a stage. A failure names the stage and how many finished stages are kept."""
    try:
        work()
    except (CancelledError, WorkerError):
        raise
    except MoldError as error:
        raise _stage_error(chain, index, error) from error


def _stage_error(chain: Chain, index: int, error: MoldError) -> ChainError:
    kept = chain.first_missing
    template = f"stage {index} of {len(chain.works)} failed: %s"
    return ChainError(
        f"{template}; {kept} finished stages are kept" if kept else template,
        error,
        hint=f"send the same request again, or use mold chain resume {chain.id}, to resume there" if kept else None,
    )


def _deliver(job: Job, chain: Chain, context: RunContext) -> None:
    first = chain.works[0].request
    total = attrs.evolve(first, frames=chain.plan.total_frames, seed=chain.request.seed)
    metadata = metadata_of(total) if chain.request.embed_metadata else None
    video = join(chain, metadata)
    assert first.model is not None and chain.request.seed is not None  # the request is complete
    context.deliver(
        job,
        ChainResponse(
            video=video,
            stage_count=len(chain.works),
            model=first.model,
            seed_used=chain.request.seed,
            generation_time_ms=int((time() - (job.started_at or time())) * 1000),
            warnings=job.warnings,
            script=script_of(chain.request, chain.plan.stages),
        ),
    )


def _renderer(spec: ModelSpec, models: Models) -> ChainRenderer:
    renderer = models.plugins.chain_renderers.get(spec.family)
    if renderer is None:
        able = ", ".join(sorted(models.plugins.chain_renderers)) or "none that is installed"
        raise ValidationError(
            f"{spec.name} cannot make chains: its family {spec.family} has no chain renderer",
            field="model",
            value=spec.name,
            hint=f"families that have one: {able}",
        )
    return renderer


def _rules(spec: ModelSpec, models: Models) -> ClipRules:
    return ClipRules.of(_renderer(spec, models))


def _completed(
    request: ChainRequest, first: ChainStage, spec: ModelSpec, models: Models
) -> tuple[ChainRequest, tuple[str, ...]]:
    """Return the request with the defaults of its first stage, completed as a clip, and the warnings."""
    family, rules = models.family_of(spec), _rules(spec, models)
    with wrap_plugin_errors(f"{spec.name} could not take the request"):
        clip, warnings = complete(
            _clip(request, first),
            spec,
            family,
            embed_metadata=models.settings.embed_metadata,
            loras=models.loras_for(spec),
        )
    completed = attrs.evolve(
        request,
        model=spec.name,
        clip_frames=rules.default if request.clip_frames is None else request.clip_frames,
        width=clip.width,
        height=clip.height,
        steps=clip.steps,
        guidance=clip.guidance,
        fps=request.fps or spec.defaults.fps or _DEFAULT_FPS,
        loras=clip.loras,
        options=clip.options,
        seed=clip.seed,
        embed_metadata=clip.embed_metadata,
    )
    return completed, warnings


def _laid_out(request: ChainRequest, spec: ModelSpec, models: Models) -> Chain:
    planned = plan(request, _rules(spec, models))
    assert request.seed is not None  # the request is complete
    clips = [
        attrs.evolve(
            _clip(request, stage),
            seed=stage_seed(request.seed, index, stage),
            strength=1.0 if index else request.strength,
        )
        for index, stage in enumerate(planned.stages)
    ]
    loras = tuple(version_of(Path(lora.path)) for lora in request.loras or ())
    weights = models.store.locate(spec).versions() + loras
    return lay_out(request, planned, clips, chain_store(models).clips, weights)


def _clip(request: ChainRequest, stage: ChainStage) -> GenerateRequest:
    """Return a stage as a separate generate request."""
    return GenerateRequest(
        prompt=stage.prompt,
        negative_prompt=stage.negative_prompt,
        model=request.model,
        width=request.width,
        height=request.height,
        steps=request.steps,
        guidance=request.guidance,
        seed=request.seed,
        frames=stage.frames,
        fps=request.fps,
        source_image=stage.source_image,
        strength=request.strength,
        loras=request.loras,
        options=request.options,
        output_format="mp4",
        embed_metadata=request.embed_metadata,
    )
