"""Generation: requests of equal shape are computed together, and encoded while the next ones are computed."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

import attrs

from mold_core.catalog import ModelSpec
from mold_core.errors import CancelledError, InferenceError, ValidationError, WorkerError
from mold_core.hookspecs import Frames, ModelFamily, Run, Worker
from mold_core.jobs.batch import BatchRun, fail_jobs
from mold_core.jobs.job import Job
from mold_core.jobs.kinds.expand import check_expansion, expand_prompts
from mold_core.jobs.kinds.generate_event import generate_bodies, generate_event, generate_headers, generated
from mold_core.jobs.kinds.kind import JobKind, Prepared, ResultBody, ResultFile, RunContext
from mold_core.jobs.kinds.shots import Shot, encode, response_of, shots_of
from mold_core.jobs.kinds.upscale import UpscaleTask, fetch_upscaler
from mold_core.jobs.task import WorkerHost
from mold_core.jobs.within_memory import generate_within_memory
from mold_core.media.output_metadata import metadata_of
from mold_core.placement.memory import spec_for
from mold_core.plugin_errors import wrap_plugin_errors
from mold_core.requests.complete import complete
from mold_core.requests.models import Models
from mold_core.requests.upscalers import upscaler_for
from mold_core.wire import (
    GenerateRequest,
    GenerateResponse,
    ImageData,
    Info,
    UpscaleRequest,
    UpscaleResponse,
    VideoData,
)

if TYPE_CHECKING:
    from mold_core.media.formats import ImageFormat

__all__ = ["GenerateKind"]

log = logging.getLogger("mold.engine")

Prompts = Mapping[str, tuple[str, ...]]


@attrs.frozen
class GenerateTask:
    """Generates one Frames per request."""

    spec: ModelSpec
    requests: Sequence[GenerateRequest]

    def __call__(self, host: WorkerHost, run: Run) -> list[Frames]:
        """Return one Frames per request. An exception of a plugin becomes an InferenceError that chains it."""
        spec, requests = self.spec, self.requests
        pipeline = host.pipeline(spec, run, requests)
        run.check()
        plan = host.plan_of(spec)
        with wrap_plugin_errors(f"{spec.name} failed while generating"):
            results = generate_within_memory(
                pipeline,
                requests,
                run,
                most=plan.most_together(len(requests)) if plan else len(requests),
                device=host.device,
                make_room=lambda: host.drop_all_but(spec.name),
            )
        if len(results) != len(requests):
            raise InferenceError(
                f"family {spec.family!r} returned {len(results)} results for {len(requests)} requests, a fault in it"
            )
        return results


class GenerateKind(JobKind):
    """Images and videos from prompts."""

    name = "generate"
    request_class = GenerateRequest
    response_class = GenerateResponse
    has_files = True
    stream_route = "/api/generate/stream?image_data=base64"

    def prepare(self, request: GenerateRequest, models: Models) -> Prepared:
        """Return the request with model, size, steps, guidance and seed filled in."""
        spec = models.resolve(request.model)
        family = models.family_of(spec)
        files = models.store.locate(spec)
        with wrap_plugin_errors(f"{spec.name} could not take the request"):
            completed, warnings = complete(
                request,
                spec,
                family,
                embed_metadata=models.settings.embed_metadata,
                expand=models.settings.expand,
                loras=models.loras_for(spec),
            )
        if completed.expand:
            check_expansion(completed, models)
        if completed.upscale_model is not None:
            completed = _with_upscaler(completed, spec, models)
        found = models.placed(spec, completed.placement)
        remark = spec.vocabulary.remark(completed.prompt) if spec.vocabulary and not completed.expand else None
        return Prepared(
            request=completed,
            spec=found.spec,
            load_bytes=files.size_bytes(),
            batch_key=_batch_key(found.spec, family, completed),
            size=completed.batch_size,
            device=found.device,
            warnings=(*warnings, remark) if remark else warnings,
        )

    def bodies_of(self, result: GenerateResponse) -> list[ResultBody]:
        """Return the images or the video."""
        return generate_bodies(result)

    def headers_of(self, result: GenerateResponse) -> dict[str, str]:
        """Return the seed and the properties of a video."""
        return generate_headers(result)

    def json_of(self, result: GenerateResponse, form: str = "bytes", prefix: str = "") -> dict[str, Any]:
        """Return the data of the event `complete`, with images in the `form` that the client asked for."""
        return generate_event(result, form, prefix)

    def event_of(self, result: GenerateResponse, form: str = "bytes", prefix: str = "") -> dict[str, Any]:
        """Return the data of the event `complete`, with images in the `form` that the client asked for."""
        return generate_event(result, form, prefix)

    def result_of(self, data: Mapping[str, Any]) -> GenerateResponse:
        """Return the result that the data of the event `complete` describes."""
        return generated(data)

    def files_of(self, job: Job, result: GenerateResponse) -> list[ResultFile]:
        """Return the images, or the video, with the metadata of their requests."""
        shots = shots_of(job, result.expanded)
        if result.video is not None:
            video = result.video
            return [ResultFile(data=video.data, format=video.format, metadata=metadata_of(shots[0].request))]
        return [
            ResultFile(
                data=image.data,
                format=image.format,
                index=image.index if len(result.images) > 1 else None,
                metadata=metadata_of(shot.request),
            )
            for image, shot in zip(result.images, shots, strict=True)
        ]

    def named(self, result: GenerateResponse, names: Sequence[str]) -> GenerateResponse:
        """Return the response with the gallery names of its images."""
        if result.video is not None:
            return result
        pairs = zip(result.images, names, strict=True)
        return attrs.evolve(result, images=tuple(attrs.evolve(image, name=name) for image, name in pairs))

    def run(self, jobs: Sequence[Job], context: RunContext) -> None:
        """Generate all images of the jobs, a limited number at a time.

        A request fails only for its own faults: if a batch of several jobs fails, each job runs again alone.
        """
        spec, worker = jobs[0].spec, context.worker
        assert spec is not None  # prepare found it
        prompts = _expanded(jobs, worker, context)  # before the model is loaded: a language model needs memory too
        jobs = [job for job in jobs if not job.finished]
        if not jobs:
            return
        with context.loading(spec):
            sized = spec_for(spec, [job.request for job in jobs])
            worker.load(sized, BatchRun(jobs, on_stage=partial(_stage, context)))
        try:
            _generate(jobs, spec, worker, context, prompts)
        except (CancelledError, WorkerError):
            raise
        except Exception as error:
            if len(jobs) == 1:
                raise
            context.wait_finished()
            log.warning("a batch of %d jobs failed; each job runs again alone: %s", len(jobs), error)
            for job in jobs:
                if not job.finished:
                    _retry_alone(job, spec, worker, context, prompts)


def _expanded(jobs: Sequence[Job], worker: Worker, context: RunContext) -> Prompts:
    """Return the expanded prompts by job id; a job whose expansion fails is failed."""
    prompts: dict[str, tuple[str, ...]] = {}
    for job in jobs:
        if job.finished:
            continue
        try:
            prompts[job.id] = expand_prompts(job, worker, context.models)
        except WorkerError:
            raise
        except Exception as error:
            fail_jobs([job], error)
    return prompts


def _retry_alone(job: Job, spec: ModelSpec, worker: Worker, context: RunContext, prompts: Prompts) -> None:
    job.report(Info(message="starting again: the batch with this image failed"))
    try:
        _generate([job], spec, worker, context, prompts)
    except WorkerError:
        raise
    except Exception as error:
        fail_jobs([job], error)


def _batch_key(spec: ModelSpec, family: ModelFamily, request: GenerateRequest) -> Hashable:
    try:
        key = family.batch_key(spec, request)
        hash(key)
    except Exception:
        log.exception("batch_key of family %s failed; its requests run alone", family.name)
        return None
    return None if key is None else ("generate", spec.name, tuple(sorted(spec.devices.items())), key)


def _generate(jobs: Sequence[Job], spec: ModelSpec, worker: Worker, context: RunContext, prompts: Prompts) -> None:
    limit = context.batch_limit(jobs[0])
    shots = [shot for job in jobs for shot in shots_of(job, prompts.get(job.id, ()))]
    batches = [shots[first : first + limit] for first in range(0, len(shots), limit)]
    run = BatchRun(jobs, len(batches), partial(_stage, context))
    finishing = _Finishing(context, prompts)
    for run.part, batch in enumerate(batches):
        pending = [shot for shot in batch if not shot.job.finished]
        run.check()
        if not pending:
            continue
        context.measure("batch_images", len(pending), model=spec.name)
        run.images = [(shot.job, shot.index) for shot in pending]
        results = worker.run(GenerateTask(spec, [shot.request for shot in pending]), run)
        pairs = [
            (shot, frames if shot.request.upscale_model is None else _enlarged(shot, frames, worker, context))
            for shot, frames in zip(pending, results, strict=True)
        ]
        context.finish_async(partial(finishing.take, pairs), [shot.job for shot in pending])


def _with_upscaler(request: GenerateRequest, spec: ModelSpec, models: Models) -> GenerateRequest:
    """Return the request with the full name of its upscaler. Raises ValidationError if no upscaler can be used."""
    if request.frames is not None or request.output_format not in ("png", "jpeg", "webp"):
        raise ValidationError(
            "upscale_model is for images", field="upscale_model", hint="mold upscale enlarges a finished video"
        )
    return attrs.evolve(request, upscale_model=upscaler_for(models, request.upscale_model, spec.name).name)


def _enlarged(shot: Shot, frames: Frames, worker: Worker, context: RunContext) -> Frames | ImageData:
    """Return the file of an image, enlarged by the upscaler that its request names; an error fails its job."""
    try:
        return _enlarged_file(shot, frames, worker, context)
    except WorkerError:
        raise
    except Exception as error:
        fail_jobs([shot.job], error)
        return frames


def _enlarged_file(shot: Shot, frames: Frames, worker: Worker, context: RunContext) -> ImageData:
    upscaler = context.models.resolve(shot.request.upscale_model)
    fetch_upscaler(upscaler, [shot.job], context)
    plain = encode(attrs.evolve(shot, request=attrs.evolve(shot.request, output_format="png")), frames)
    assert isinstance(plain, ImageData)  # videos are refused when the request is prepared
    request = UpscaleRequest(
        image=plain.data,
        model=upscaler.name,
        output_format=cast("ImageFormat", shot.request.output_format),
        tile_size=context.models.settings.upscale_tile_size,
    )
    run = BatchRun([shot.job], on_stage=partial(_stage, context))
    enlarged: UpscaleResponse = worker.run(UpscaleTask(upscaler, request), run)
    return attrs.evolve(enlarged.image, index=shot.index)


def _stage(context: RunContext, name: str, seconds: float) -> None:
    context.measure("stage_s", seconds, stage=name.split(" ", 1)[0].lower())


@attrs.define
class _Finishing:
    """Encodes the images of one batch to files, and delivers a job with its last image."""

    context: RunContext
    prompts: Prompts
    started: float = attrs.field(factory=monotonic)
    done: dict[str, list[ImageData | VideoData]] = attrs.field(factory=dict)

    def take(self, pairs: Sequence[tuple[Shot, Frames | ImageData]]) -> None:
        """Encode images, and deliver the jobs whose images are complete."""
        for shot, output in pairs:
            try:
                self._take_one(shot, output)
            except Exception as error:
                fail_jobs([shot.job], error)

    def _take_one(self, shot: Shot, output: Frames | ImageData) -> None:
        job = shot.job
        if job.finished:
            return
        started = monotonic()
        files = self.done.setdefault(job.id, [])
        files.append(output if isinstance(output, ImageData) else encode(shot, output))
        self.context.measure("stage_s", monotonic() - started, stage="encode")
        if len(files) == job.request.batch_size:
            elapsed_ms = int((monotonic() - self.started) * 1000)
            self.context.deliver(job, response_of(job, self.done.pop(job.id), elapsed_ms, self.prompts.get(job.id, ())))
