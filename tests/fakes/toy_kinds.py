"""Two kinds of jobs, one for each lane: all that a new kind takes. `add_toy_kinds` stands for a line in the table."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import attrs

from mold_core.hookspecs import Run
from mold_core.jobs.batch import BatchRun
from mold_core.jobs.job import Job
from mold_core.jobs.kinds import JOB_KINDS, JobKind, ResultBody, RunContext
from mold_core.jobs.task import WorkerHost
from mold_core.wire import Info, Request


@attrs.frozen(kw_only=True)
class ReverseRequest(Request["ReverseResponse"]):
    """A word to reverse where models run."""

    word: str


@attrs.frozen(kw_only=True)
class ReverseResponse:
    """The word reversed, and the process that did it."""

    word: str
    pid: int


@attrs.frozen
class ReverseTask:
    """The part of the work that a worker does."""

    word: str
    spec: None = None
    requests: tuple[()] = ()

    def __call__(self, host: WorkerHost, run: Run) -> ReverseResponse:
        run.report(Info(message=f"reversing on {host.device}"))
        return ReverseResponse(word=self.word[::-1], pid=os.getpid())


class ReverseKind(JobKind):
    """A kind of the device lane."""

    name = "reverse"
    request_class = ReverseRequest
    response_class = ReverseResponse

    def run(self, jobs: Sequence[Job], context: RunContext) -> None:
        for job in jobs:
            context.deliver(job, context.worker.run(ReverseTask(job.request.word), BatchRun([job])))


@attrs.frozen(kw_only=True)
class CountRequest(Request["CountResponse"]):
    """A word to count the letters of."""

    word: str


@attrs.frozen(kw_only=True)
class CountResponse:
    """The number of letters."""

    letters: int


class CountKind(JobKind):
    """A kind of the background lane."""

    name = "count"
    request_class = CountRequest
    response_class = CountResponse
    lane = "background"

    def bodies_of(self, result: CountResponse) -> list[ResultBody]:
        return [ResultBody(content_type="text/plain", data=str(result.letters).encode())]

    def headers_of(self, result: CountResponse) -> dict[str, str]:
        return {"X-Letters": str(result.letters)}

    def run(self, jobs: Sequence[Job], context: RunContext) -> None:
        for job in jobs:
            context.deliver(job, CountResponse(letters=len(job.request.word)))


def add_toy_kinds() -> None:
    """Add both kinds to the table."""
    JOB_KINDS.update({kind.name: kind for kind in (ReverseKind(), CountKind())})


if __name__ == "__main__":  # a server that has them
    from toy_kinds import add_toy_kinds as add  # by the name that the worker process imports too

    add()
    from mold_core.cli.main import main

    sys.exit(main())
