"""Upscaling: one image at a time; the network is downloaded on first use and stays in memory."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from mold_core.catalog import ModelSpec
from mold_core.catalog.pull import pull
from mold_core.errors import DownloadError, OutputError, ValidationError
from mold_core.hookspecs import Run
from mold_core.jobs.batch import BatchRun
from mold_core.jobs.job import Job
from mold_core.jobs.kinds.kind import JobKind, Prepared, ResultBody, ResultFile, RunContext
from mold_core.jobs.task import WorkerHost
from mold_core.media.formats import CONTENT_TYPES
from mold_core.media.images import check_image
from mold_core.media.metadata import read_metadata
from mold_core.plugin_errors import wrap_plugin_errors
from mold_core.requests.models import Models
from mold_core.requests.upscalers import AUTO, checked_tile_size, embedded_upscaler, installed_upscaler, upscaler_for
from mold_core.upscaling.requests import FileUpscaleRequest, is_video
from mold_core.upscaling.run import read_source
from mold_core.wire import ProgressEvent, UpscaleRequest, UpscaleResponse
from mold_core.wire.convert import from_json, to_json

__all__ = ["UpscaleKind", "fetch_upscaler", "origin_of"]


@attrs.frozen
class UpscaleTask:
    """Upscales an image or video. The worker's process reads and writes the files."""

    spec: ModelSpec
    request: UpscaleRequest
    requests: tuple[()] = ()

    def __call__(self, host: WorkerHost, run: Run) -> UpscaleResponse:
        """Return the larger image. The network is loaded after the source is checked to be an image or a video."""
        from mold_core.placement.device import free_bytes
        from mold_core.upscaling.execution import ExecutionDevice
        from mold_core.upscaling.run import upscale

        spec = self.spec
        with wrap_plugin_errors(f"{spec.name} failed while upscaling"):
            device = ExecutionDevice(host.device, free_bytes)
            return upscale(self.request, lambda: host.network(spec, run), device, spec.name, run)


class UpscaleKind(JobKind):
    """Upscaling of images and video files."""

    name = "upscale"
    request_class = UpscaleRequest
    response_class = UpscaleResponse
    has_files = True
    stream_route = "/api/upscale/stream"

    def prepare(self, request: UpscaleRequest, models: Models) -> Prepared:
        """Return the request with upscaler and tile size filled in. Reads the image header without decoding pixels."""
        tile_size = checked_tile_size(request.tile_size, models.settings)
        if isinstance(request, FileUpscaleRequest):
            _check_target(request.target)
        spec = upscaler_for(models, request.model, origin_of(request))
        return Prepared(
            request=attrs.evolve(request, model=spec.name, tile_size=tile_size),
            spec=spec,
            load_bytes=spec.size_bytes,
        )

    def without_download(self, request: UpscaleRequest, models: Models) -> UpscaleRequest:
        """Return the request with an installed upscaler, if it names none.

        Raises ModelNotFoundError if none is installed, ValidationError for an image that cannot be read.
        """
        if request.model not in (None, AUTO):
            return request
        return attrs.evolve(request, model=installed_upscaler(models, origin_of(request)).name)

    def bodies_of(self, result: UpscaleResponse) -> list[ResultBody]:
        """Return the larger image."""
        return [ResultBody(content_type=CONTENT_TYPES[result.image.format], data=result.image.data)]

    def event_of(self, result: UpscaleResponse, form: str = "bytes", prefix: str = "") -> dict[str, Any]:
        """Return the data of the event `complete`: the fields of the image flat, its data as `image`."""
        whole = to_json(result)
        image = whole.pop("image")
        flat = {"image": image["data"], **{name: image[name] for name in ("format", "width", "height")}}
        return {**flat, **whole}

    def result_of(self, data: Mapping[str, Any]) -> UpscaleResponse:
        """Return the result that the data of the event `complete` describes."""
        image = {"data": data.get("image"), **{name: data.get(name) for name in ("format", "width", "height")}}
        return from_json(UpscaleResponse, {**data, "image": image})

    def files_of(self, job: Job, result: UpscaleResponse) -> list[ResultFile]:
        """Return the larger image, or nothing if the result was written to a file of the caller."""
        image = result.image
        if not image.data:
            return []
        return [ResultFile(data=image.data, format=image.format, enlarged=job.request.image)]

    def run(self, jobs: Sequence[Job], context: RunContext) -> None:
        """Enlarge the image of each job."""
        for job in jobs:
            assert job.spec is not None  # prepare found it
            fetch_upscaler(job.spec, [job], context)
            with context.loading(job.spec):
                response: UpscaleResponse = context.worker.run(UpscaleTask(job.spec, job.request), BatchRun([job]))
            context.finish_async(partial(context.deliver, job, response), [job])


def fetch_upscaler(spec: ModelSpec, jobs: Sequence[Job], context: RunContext) -> None:
    """Download an upscaler that is not installed. The jobs get its progress; cancelling all of them stops it."""
    if context.models.store.has(spec):
        return

    def on_event(event: ProgressEvent) -> bool:
        for job in jobs:
            job.report(event)
        return not all(job.finished for job in jobs)

    try:
        pull(spec, context.models.store, on_event=on_event, offline=context.models.settings.offline)
    except DownloadError as error:
        embedded = embedded_upscaler(context.models)
        if embedded is not None:
            error.hint = "; ".join(filter(None, [error.hint, f"{embedded.name} is inside mold and needs no fetching"]))
        raise


def origin_of(request: UpscaleRequest) -> str | None:
    """Return the model that the image's metadata names, if any. Raises ValidationError if it is not an image."""
    if isinstance(request, FileUpscaleRequest):
        if not os.path.isfile(request.source):
            raise ValidationError("no such file: '%s'", request.source, field="image")
        if is_video(request.source):
            return None
    data = read_source(request)
    check_image(data)
    metadata = read_metadata(data)
    return metadata.model if metadata else None


def _check_target(target: Path) -> None:
    """Raise OutputError before the work for a target that cannot be written after it."""
    if target.is_dir():
        raise OutputError("'%s' is a directory", target, field="output", hint="name a file in it")
    if not os.path.isdir(target.parent):
        raise OutputError("the directory '%s' does not exist", target.parent, field="output", hint="make it first")
