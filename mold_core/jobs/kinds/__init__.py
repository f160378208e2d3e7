"""The kinds of jobs an engine can do, one module each.

A new kind is a module with a class that keeps to `DeviceKind` or `BackgroundKind`, a line in `JOB_KINDS`, and, when
it needs the device, a verb in `mold_core.hookspecs.Worker`, in `LocalWorker` and in `ProcessWorker`.
"""

from __future__ import annotations

from mold_core.errors import ValidationError
from mold_core.jobs.kinds.chain import ChainKind
from mold_core.jobs.kinds.expand import ExpandKind
from mold_core.jobs.kinds.generate import GenerateKind
from mold_core.jobs.kinds.kind import BackgroundKind, DeviceKind, Kind, Prepared, ResultFile, RunContext
from mold_core.jobs.kinds.pull import PullKind
from mold_core.jobs.kinds.upscale import UpscaleKind

__all__ = ["JOB_KINDS", "BackgroundKind", "DeviceKind", "Kind", "Prepared", "ResultFile", "RunContext", "job_kind_of"]

JOB_KINDS: dict[str, Kind] = {
    kind.name: kind for kind in (GenerateKind(), UpscaleKind(), ChainKind(), ExpandKind(), PullKind())
}


def job_kind_of(request: object) -> Kind:
    """Return the kind that a request belongs to, by its class. Raises ValidationError when no kind knows it."""
    for kind in JOB_KINDS.values():
        if isinstance(request, kind.request_class):
            return kind
    known = ", ".join(kind.request_class.__name__ for kind in JOB_KINDS.values())
    raise ValidationError(
        f"this version of mold cannot run a request of class {type(request).__name__}", hint=f"it can run {known}"
    )
