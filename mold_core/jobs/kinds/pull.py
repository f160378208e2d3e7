"""Pulling a model as a job: beside the queue, one at a time, cancelled between two pieces of a file."""

from __future__ import annotations

import attrs

from mold_core.catalog.pull import pull
from mold_core.errors import DownloadError
from mold_core.jobs.job import Job, JobKind
from mold_core.jobs.kinds.kind import Prepared
from mold_core.requests.models import Models
from mold_core.wire import Info, ProgressEvent, PullRequest, PullResponse

__all__ = ["PullKind"]

_RETRY_AFTER_S = 5.0


class PullKind:
    """Fetches the files of a model. What has come is kept, so a pull that failed or was cancelled goes on later."""

    name: JobKind = "pull"
    request_class = PullRequest
    response_class = PullResponse

    def __init__(self, retry_after_s: float = _RETRY_AFTER_S) -> None:
        self._retry_after_s = retry_after_s

    def prepare(self, request: PullRequest, models: Models) -> Prepared:
        """Return the request with the full name of the model. Raises UnknownModelError."""
        spec = models.resolve(request.model)
        warnings: tuple[str, ...] = ()
        if not spec.embedded and not models.brought(spec):
            warnings = (f"no loaded plugin brings the family {spec.family}, so nothing runs {spec.name} yet",)
        return Prepared(request=attrs.evolve(request, model=spec.name), spec=spec, warnings=warnings)

    def run_in_background(self, job: Job, models: Models) -> PullResponse:
        """Fetch the files; a failure of the network is tried once more after a moment."""
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
        )
        return PullResponse(model=job.spec.name, size_bytes=files.size_bytes())
