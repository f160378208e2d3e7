"""Downloading a model as a job of the background lane; it can be cancelled between two chunks of a file."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import attrs

from mold_core.catalog.pull import pull
from mold_core.catalog.together import FILES_AT_ONCE
from mold_core.errors import DownloadError
from mold_core.jobs.job import Job
from mold_core.jobs.kinds.kind import JobKind, Prepared, ResultBody, RunContext
from mold_core.requests.models import Models
from mold_core.wire import Info, ProgressEvent, PullRequest, PullResponse

__all__ = ["PullKind"]

_RETRY_AFTER_S = 5.0


class PullKind(JobKind):
    """Downloads the files of a model. Partial files are kept, so a failed or cancelled pull can be resumed."""

    name = "pull"
    request_class = PullRequest
    response_class = PullResponse
    lane = "background"
    ends_with_complete = False
    has_json = False
    is_download = True

    def __init__(self, retry_after_s: float = _RETRY_AFTER_S) -> None:
        self._retry_after_s = retry_after_s

    def prepare(self, request: PullRequest, models: Models) -> Prepared:
        """Return the request with the full name of the model. Raises UnknownModelError."""
        spec = models.resolve(request.model)
        warnings: tuple[str, ...] = ()
        if not spec.embedded and not models.provided(spec):
            warnings = (f"no loaded plugin provides the family {spec.family}, so nothing runs {spec.name} yet",)
        return Prepared(request=attrs.evolve(request, model=spec.name), spec=spec, warnings=warnings)

    def dedupe_key(self, request: PullRequest) -> Hashable:
        """Return the model: concurrent requests share one download."""
        return request.model

    def result_without_event(self, model: str) -> PullResponse:
        """Return the result, because the event `pull_complete` ends the stream."""
        return PullResponse(model=model, size_bytes=0)

    def bodies_of(self, result: PullResponse) -> list[ResultBody]:
        """Return a line of text."""
        text = f"model '{result.model}' pulled successfully\n"
        return [ResultBody(content_type="text/plain; charset=utf-8", data=text.encode())]

    def run(self, jobs: Sequence[Job], context: RunContext) -> None:
        """Download the files of each job's model."""
        for job in jobs:
            context.deliver(job, self._pulled(job, context.models))

    def _pulled(self, job: Job, models: Models) -> PullResponse:
        """Return the result; after a network failure, try the download once more."""
        try:
            return self._pull(job, models)
        except DownloadError as error:
            job.report(Info(message=f"{error.public_message}; trying again in {self._retry_after_s:g} s"))
            if job.wait(self._retry_after_s):
                raise
        return self._pull(job, models)

    def _pull(self, job: Job, models: Models) -> PullResponse:
        assert job.spec is not None  # prepare found it

        def on_event(event: ProgressEvent) -> bool:
            job.report(event)
            return not job.finished

        files = pull(
            job.spec,
            models.store,
            on_event=on_event,
            skip_verify=job.request.skip_verify,
            offline=models.settings.offline,
            at_once=FILES_AT_ONCE,
        )
        return PullResponse(model=job.spec.name, size_bytes=files.size_bytes())
