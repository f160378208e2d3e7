"""The kinds of jobs that an engine can run, one module each.

A new kind is a module with a subclass of `JobKind`, and an instance of it in `JOB_KINDS`. A kind that uses the device
also defines its tasks (`mold_core.jobs.task.WorkerTask`) there. Engine, job store, client, `/api/jobs`, `mold jobs`
and webhooks read this table.
"""

from __future__ import annotations

from mold_core.errors import ValidationError
from mold_core.jobs.kinds.chain import ChainKind
from mold_core.jobs.kinds.expand import ExpandKind
from mold_core.jobs.kinds.generate import GenerateKind
from mold_core.jobs.kinds.kind import JobKind, Lane, Prepared, ResultBody, ResultFile, RunContext
from mold_core.jobs.kinds.pull import PullKind
from mold_core.jobs.kinds.upscale import UpscaleKind

__all__ = ["JOB_KINDS", "JobKind", "Lane", "Prepared", "ResultBody", "ResultFile", "RunContext", "job_kind_of"]

JOB_KINDS: dict[str, JobKind] = {
    kind.name: kind for kind in (GenerateKind(), ChainKind(), UpscaleKind(), ExpandKind(), PullKind())
}


def job_kind_of(request: object) -> JobKind:
    """Return the kind that a request belongs to, by its class. Raises ValidationError when no kind knows it."""
    for kind in JOB_KINDS.values():
        if isinstance(request, kind.request_class):
            return kind
    known = ", ".join(kind.request_class.__name__ for kind in JOB_KINDS.values())
    raise ValidationError(
        f"this version of mold cannot run a request of class {type(request).__name__}", hint=f"it can run {known}"
    )
