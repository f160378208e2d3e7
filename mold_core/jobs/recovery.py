"""Re-queues the jobs that a previous engine left unfinished on the disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

import attrs

from mold_core.errors import MoldError, WorkerError
from mold_core.jobs.batch import own_error
from mold_core.jobs.job import Job, Prepared, events_before
from mold_core.jobs.kinds import JOB_KINDS
from mold_core.jobs.repository import JobRepository
from mold_core.jobs.store import JobRow
from mold_core.requests.models import Models
from mold_core.wire.convert import from_text

__all__ = ["pause_s", "recovered"]

log = logging.getLogger("mold.engine")

# A job that runs when the program is killed is rarely the cause, unless it runs every time of this many.
_MAX_INTERRUPTIONS = 10

# From the second interruption on, a job waits before it starts again, twice as long each time, so that others finish.
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0


def recovered(
    repository: JobRepository, models: Models, new_job: Callable[[str, Prepared, str | None], Job]
) -> Iterator[Job]:
    """Yield the unfinished jobs, oldest first, ready to be queued; jobs that cannot run are failed."""
    for row in repository.unfinished():
        try:
            yield _ready(row, repository, models, new_job)
        except Exception as error:
            _give_up(repository, row, own_error(error))


def _ready(
    row: JobRow, repository: JobRepository, models: Models, new_job: Callable[[str, Prepared, str | None], Job]
) -> Job:
    if row.state == "running":
        row = _interrupted(row, repository)
    if row.interruptions >= _MAX_INTERRUPTIONS:
        raise WorkerError(f"the server ended while the job ran, {row.interruptions} times")
    kind = JOB_KINDS[row.kind]
    job = new_job(kind.name, kind.prepare(from_text(kind.request_class, row.request), models), row.id)
    job.created_at = row.created_at
    repository.restore(job, row)
    return job


def pause_s(job: Job) -> float:
    """Return how many seconds a job waits before it starts again, because it may be the cause of the interruptions."""
    if job.interruptions < 2:
        return 0.0
    return float(min(_FIRST_PAUSE_S * 2 ** (job.interruptions - 2), _LONGEST_PAUSE_S))


def _interrupted(row: JobRow, repository: JobRepository) -> JobRow:
    """Record that an engine was killed while a job ran, and that the job is queued again.

    This is on the disk before the job starts again: an engine killed while the job waits does not count.
    """
    row = attrs.evolve(row, state="queued", attempts=0, interruptions=row.interruptions + 1)
    repository.update(row.id, state=row.state, attempts=0, interruptions=row.interruptions)
    return row


def _give_up(repository: JobRepository, row: JobRow, error: MoldError) -> None:
    log.warning("job %s cannot be resumed: %s", row.id, error)
    repository.update(
        row.id,
        state="failed",
        finished_at=time.time(),
        error=error.to_json(),
        event_count=events_before(row.created_at, time.time()),
    )
