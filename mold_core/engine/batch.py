"""Runs a batch of jobs on a worker: splits them into single pictures, and puts the results back together."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import PurePath
from time import monotonic
from typing import TYPE_CHECKING, cast

import attrs

from mold_core.catalog import ModelSpec
from mold_core.engine.jobs import Job
from mold_core.errors import CancelledError, InferenceError, MoldError
from mold_core.hookspecs import Frames, Worker
from mold_core.media.images import encode_image
from mold_core.media.metadata import OutputMetadata
from mold_core.wire import DenoiseStep, GenerateRequest, GenerateResponse, ImageData, Info, ProgressEvent
from mold_core.wire.generate import MAX_SEED

if TYPE_CHECKING:
    from mold_core.media.formats import ImageFormat

__all__ = ["BatchRun", "fail_jobs", "run_batch"]

log = logging.getLogger("mold.engine")


class BatchRun:
    """The side of a running batch that pipelines see: events go to every job, and it ends when nobody waits.

    A batch that is computed in several parts counts its steps through all of them.
    """

    def __init__(self, jobs: Sequence[Job], parts: int = 1) -> None:
        self._jobs = jobs
        self._parts = parts
        self.part = 0

    def report(self, event: ProgressEvent) -> None:
        """Send an event to every job of the batch."""
        for job in self._jobs:
            job.report(event)

    def step(self, step: int, total: int, elapsed_ms: int) -> None:
        """Report a finished denoising step, then `check()`."""
        self.report(DenoiseStep(step=self.part * total + step, total=self._parts * total, elapsed_ms=elapsed_ms))
        self.check()

    def check(self) -> None:
        """Raise CancelledError if nobody waits for the result any more."""
        if all(job.finished for job in self._jobs):
            raise CancelledError("the job was cancelled")


@attrs.frozen
class _Shot:
    """One picture of one job."""

    job: Job
    index: int
    request: GenerateRequest


def run_batch(jobs: Sequence[Job], spec: ModelSpec, worker: Worker, *, limit: int, version: str) -> None:
    """Generate all pictures of the jobs, `limit` at a time, and end every job with its response or its error.

    A request fails for its own faults only: where several jobs fail together, each is run again alone.
    """
    try:
        worker.load(spec, BatchRun(jobs))
    except Exception as error:
        fail_jobs(jobs, error)
        return
    try:
        _generate(jobs, spec, worker, limit, version)
    except Exception as error:
        if len(jobs) == 1 or isinstance(error, CancelledError):
            fail_jobs(jobs, error)
            return
        log.warning("%d jobs failed together and are run again one by one: %s", len(jobs), error)
        for job in jobs:
            if not job.finished:
                job.report(Info(message="starting again: pictures that were made together with this one failed"))
                run_batch([job], spec, worker, limit=limit, version=version)


def fail_jobs(jobs: Sequence[Job], error: Exception) -> None:
    """End the jobs with an error; one that is not mold's own goes to the log in full."""
    if not isinstance(error, MoldError):
        log.error("a job failed", exc_info=error)
        error = InferenceError(f"generation error: {type(error).__name__}: {error}")
    for job in jobs:
        job.fail(error)


def _generate(jobs: Sequence[Job], spec: ModelSpec, worker: Worker, limit: int, version: str) -> None:
    started = monotonic()
    shots = [shot for job in jobs for shot in _shots(job)]
    parts = [shots[first : first + limit] for first in range(0, len(shots), limit)]
    run = BatchRun(jobs, len(parts))
    done: dict[str, list[ImageData]] = {job.id: [] for job in jobs}
    for run.part, part in enumerate(parts):
        wanted = [shot for shot in part if not shot.job.finished]
        run.check()
        frames = worker.generate(spec, [shot.request for shot in wanted], run) if wanted else []
        for shot, made in zip(wanted, frames, strict=True):
            try:
                done[shot.job.id].append(_encode(shot, made, version))
            except Exception as error:
                fail_jobs([shot.job], error)
    elapsed_ms = int((monotonic() - started) * 1000)
    for job in jobs:
        if not job.finished:
            job.finish(_response(job, done[job.id], elapsed_ms))


def _shots(job: Job) -> list[_Shot]:
    request = job.request
    assert request.seed is not None  # the request is complete
    return [
        _Shot(job, index, attrs.evolve(request, batch_size=1, seed=(request.seed + index) % (MAX_SEED + 1)))
        for index in range(request.batch_size)
    ]


def _encode(shot: _Shot, made: Frames, version: str) -> ImageData:
    image = made.images[0]
    metadata = _metadata(shot.request, version) if shot.request.embed_metadata else None
    return ImageData(
        data=encode_image(image, cast("ImageFormat", shot.request.output_format), metadata),
        format=shot.request.output_format,
        width=image.width,
        height=image.height,
        index=shot.index,
    )


def _metadata(request: GenerateRequest, version: str) -> OutputMetadata:
    assert request.model is not None and request.seed is not None  # the request is complete
    assert request.width is not None and request.height is not None
    assert request.steps is not None and request.guidance is not None
    lora = request.lora or (request.loras[0] if request.loras else None)
    return OutputMetadata(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        original_prompt=request.original_prompt,
        model=request.model,
        seed=request.seed,
        steps=request.steps,
        guidance=request.guidance,
        width=request.width,
        height=request.height,
        strength=request.strength if request.source_image else None,
        scheduler=request.scheduler,
        lora=PurePath(lora.path).name if lora else None,
        lora_scale=lora.scale if lora else None,
        frames=request.frames,
        fps=request.fps,
        version=version,
    )


def _response(job: Job, images: list[ImageData], elapsed_ms: int) -> GenerateResponse:
    assert job.request.model is not None and job.request.seed is not None  # the request is complete
    return GenerateResponse(
        images=tuple(images),
        generation_time_ms=elapsed_ms,
        model=job.request.model,
        seed_used=job.request.seed,
        warnings=job.warnings,
    )
