"""What a kind of job is: how its requests are completed and how its jobs are run."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import attrs

from mold_core.catalog import ModelSpec
from mold_core.hookspecs import Worker
from mold_core.jobs.job import Job, JobKind
from mold_core.media.metadata import OutputMetadata
from mold_core.requests.models import Models
from mold_core.wire.generate import OutputFormat

__all__ = ["BackgroundKind", "DeviceKind", "Kind", "Prepared", "ResultFile", "RunContext"]


@attrs.frozen(kw_only=True)
class Prepared:
    """A request that can run. `request` is complete: running it again gives the same result.

    `spec` is the model it needs, where it needs one, and `load_bytes` the size of that model's files. Jobs with equal
    `batch_key` may run together, up to `size` in all of the setting max_batch; None means alone. `device` is the only
    one whose worker may run it. `warnings` say what was adjusted.
    """

    request: Any
    spec: ModelSpec | None = None
    load_bytes: int = 0
    batch_key: Hashable = None
    size: int = 1
    device: str | None = None
    warnings: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class ResultFile:
    """One file of a result, for the gallery. `metadata` of None leaves it to the file to tell; `index` is its place
    among several. `enlarged` is the file that it was enlarged from: the gallery names it if it is one of its own.
    """

    data: bytes
    format: OutputFormat
    index: int | None = None
    metadata: OutputMetadata | None = None
    enlarged: bytes | None = None


class RunContext(Protocol):
    """What a kind has at hand while it runs jobs: the catalog, and hands that finish what a device has made."""

    @property
    def models(self) -> Models:
        """The catalog, the families and the settings."""

    def loading(self, spec: ModelSpec) -> AbstractContextManager[None]:
        """Note that a model is being loaded, for status and metrics, while the block runs."""

    def measure(self, name: str, value: float, **labels: str) -> None:
        """Let observers know a figure; see `mold_core.engine.metrics`."""

    def beside(self, work: Callable[[], object], jobs: Sequence[Job]) -> None:
        """Do `work` in a thread beside the device, in the order given; what it raises fails the jobs.

        Waits when too much is waiting already, so that results do not pile up in memory.
        """

    def wait_finished(self) -> None:
        """Wait until everything that was given to `beside` is done, to know which jobs have ended."""

    def deliver(self, job: Job, result: Any) -> None:
        """End a job with its result, after it was saved where the engine saves results. Call it inside `beside`."""


class Kind(Protocol):
    """One kind of job. `request_class` is what `Engine.submit` knows it by."""

    @property
    def name(self) -> JobKind:
        """The word that stands for it on the wire."""

    @property
    def request_class(self) -> type:
        """The wire class of its requests."""

    @property
    def response_class(self) -> type:
        """The wire class of its results."""

    def prepare(self, request: Any, models: Models) -> Prepared:
        """Return the request with everything filled in. Raises the MoldError for what cannot run.

        Completing a complete request changes nothing: after a restart jobs are prepared again.
        """


# A kind may also have:
#   files_of(job: Job, result) -> Sequence[ResultFile]      what of a result goes to the gallery; without this, nothing
#   named(result, names: Sequence[str]) -> result           the result, its files with their names in the gallery


class DeviceKind(Kind, Protocol):
    """A kind whose jobs need a worker."""

    def run(self, jobs: Sequence[Job], worker: Worker, context: RunContext) -> Sequence[Job] | None:
        """Run jobs with equal batch_key and deliver or fail each of them, now or `beside`.

        A kind whose jobs are long runs a part of one and returns it: others that wait get their turn, and then it is
        called again with that job. Called in the thread that owns the worker. What is raised fails the jobs that have
        not ended.
        """


class BackgroundKind(Kind, Protocol):
    """A kind whose jobs need no device: they run one at a time beside the queue."""

    def run_in_background(self, job: Job, models: Models) -> Any:
        """Return the result of a job."""
