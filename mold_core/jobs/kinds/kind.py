"""The interface of a job kind: its requests and results, how it prepares and runs them, and their wire form."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Literal, Protocol

import attrs

from mold_core.catalog import ModelSpec
from mold_core.hookspecs import Worker
from mold_core.jobs.job import Job, Prepared
from mold_core.media.metadata import OutputMetadata
from mold_core.requests.models import Models
from mold_core.wire.convert import from_json, to_json
from mold_core.wire.generate import OutputFormat

__all__ = ["JobKind", "Lane", "Prepared", "ResultBody", "ResultFile", "RunContext"]

# Where jobs run: on a device, by its worker, or in the background, one at a time.
Lane = Literal["device", "background"]


@attrs.frozen(kw_only=True)
class ResultFile:
    """One file of a result, for the gallery.

    With `metadata` of None, the gallery reads the metadata from the file. `index` is its position among several files.
    `enlarged` is the smaller file it was upscaled from; if the gallery holds that file, it records the relation.
    """

    data: bytes
    format: OutputFormat
    index: int | None = None
    metadata: OutputMetadata | None = None
    enlarged: bytes | None = None


@attrs.frozen(kw_only=True)
class ResultBody:
    """A result, or one file of it, as the body of a response."""

    content_type: str
    data: bytes
    headers: Mapping[str, str] = attrs.Factory(dict)


class RunContext(Protocol):
    """The services that a kind uses while it runs jobs."""

    @property
    def models(self) -> Models:
        """The catalog, the families and the settings."""

    @property
    def worker(self) -> Worker:
        """The worker of the device. Raises InferenceError in the background lane, which has none."""

    def loading(self, spec: ModelSpec) -> AbstractContextManager[None]:
        """Show in status and metrics that a model is being loaded while the block runs."""

    def batch_limit(self, job: Job) -> int:
        """Return how many images of jobs like this one are computed together."""

    def measure(self, name: str, value: float, **labels: str) -> None:
        """Report a metric to observers; see `mold_core.engine.metrics`."""

    def finish_async(self, work: Callable[[], object], jobs: Sequence[Job]) -> None:
        """Run `work` in the finishing thread, in the order of the calls; an exception from it fails the jobs.

        Blocks while too many results wait to be finished, because they are held in memory.
        """

    def wait_finished(self) -> None:
        """Wait until everything passed to `finish_async` has run."""

    def deliver(self, job: Job, result: Any) -> None:
        """Save the result and end the job with it. On a device, call it from work passed to `finish_async`."""


class JobKind:
    """One kind of job. Subclass it in one module and add an instance to `JOB_KINDS`; everything else reads that table.

    `name` is its word on the wire, in the CLI and in the job store. `Engine.submit` finds it by `request_class`.
    `stream_route` is the route, if any, that streams its events and cancels the job when the client disconnects.
    `ends_with_complete` says whether streams end with the event `complete`; otherwise a progress event ends them.
    `has_files` says whether results have files, which need space on the disk and go to the gallery. `has_json` says
    whether clients can get results as JSON, and `is_download` whether its jobs are listed as downloads.
    """

    name: ClassVar[str]
    request_class: ClassVar[type]
    response_class: ClassVar[type]
    lane: ClassVar[Lane] = "device"
    stream_route: ClassVar[str | None] = None
    ends_with_complete: ClassVar[bool] = True
    has_files: ClassVar[bool] = False
    has_json: ClassVar[bool] = True
    is_download: ClassVar[bool] = False

    def prepare(self, request: Any, models: Models) -> Prepared:
        """Return the request with everything filled in. Raises the MoldError for a request that cannot run.

        Preparing a complete request changes nothing, because jobs are prepared again after a restart.
        """
        return Prepared(request=request)

    def without_download(self, request: Any, models: Models) -> Any:
        """Return the request with a model that needs no download, if it leaves the choice to mold."""
        return request

    def run(self, jobs: Sequence[Job], context: RunContext) -> Sequence[Job] | None:
        """Run jobs with equal batch_key, and deliver or fail each of them, now or through `finish_async`.

        A kind with long jobs may run a part of one and return it: other waiting jobs run first, then it is called
        again with that job. Called in the thread of the lane. An exception fails the jobs that have not ended.
        """
        raise NotImplementedError

    def dedupe_key(self, request: Any) -> Hashable:
        """Return a key of a complete request, or None. A second request with the same key gets the live job."""
        return None

    def files_of(self, job: Job, result: Any) -> Sequence[ResultFile]:
        """Return the files of a result, for the gallery."""
        return ()

    def named(self, result: Any, names: Sequence[str]) -> Any:
        """Return the result with the names of its files in the gallery."""
        return result

    def bodies_of(self, result: Any) -> Sequence[ResultBody]:
        """Return the result as files or text, for responses that are not JSON. Empty: the result is JSON only."""
        return ()

    def headers_of(self, result: Any) -> Mapping[str, str]:
        """Return the headers of a response with the result."""
        return {}

    def json_of(self, result: Any, form: str = "bytes", prefix: str = "") -> Any:
        """Return the wire object or the JSON of a response with the result; for the arguments see `event_of`."""
        return result

    def event_of(self, result: Any, form: str = "bytes", prefix: str = "") -> dict[str, Any]:
        """Return the data of the event `complete`.

        For kinds with images, `form` is their encoding (bytes, base64, url, none), and `prefix` is the path under which
        clients reach the server.
        """
        data: dict[str, Any] = to_json(result)
        return data

    def result_of(self, data: Mapping[str, Any]) -> Any:
        """Return the result that the data of the event `complete` describes. Raises ValidationError."""
        return from_json(self.response_class, data)

    def result_without_event(self, model: str) -> Any:
        """Return the result of a job whose stream has no event `complete`."""
        raise NotImplementedError
