"""Takes up the jobs that an engine left on the disk, when it ended or was ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

from mold_core.engine.batch import own_error
from mold_core.engine.job_store import JobRow, JobStore
from mold_core.engine.jobs import Job, JobKind
from mold_core.engine.keeper import Keeper
from mold_core.engine.kinds import KINDS, Prepared
from mold_core.engine.models import Models
from mold_core.errors import MoldError, WorkerError
from mold_core.wire.convert import from_text

__all__ = ["recovered"]

log = logging.getLogger("mold.engine")

# As often as a job is begun before it is blamed for the end of the program.
_MAX_ATTEMPTS = 2


def recovered(keeper: Keeper, models: Models, new_job: Callable[[JobKind, Prepared, str | None], Job]) -> Iterator[Job]:
    """Yield the jobs that had not ended, oldest first, ready to be queued; those that cannot run are failed."""
    if keeper.store is None:
        return
    for row in keeper.store.unfinished():
        try:
            yield _ready(row, keeper, models, new_job)
        except Exception as error:
            _give_up(keeper.store, row, own_error(error))


def _ready(row: JobRow, keeper: Keeper, models: Models, new_job: Callable[[JobKind, Prepared, str | None], Job]) -> Job:
    if row.attempts >= _MAX_ATTEMPTS:
        raise WorkerError(f"the server ended while the job ran, {row.attempts} times")
    kind = KINDS[row.kind]
    job = new_job(kind.name, kind.prepare(from_text(kind.request_class, row.request), models), row.id)
    job.created_at = row.created_at
    keeper.know_again(job, row)
    return job


def _give_up(store: JobStore, row: JobRow, error: MoldError) -> None:
    log.warning("job %s does not go on: %s", row.id, error)
    store.update(row.id, durable=True, state="failed", finished_at=time.time(), error=error.to_json()).result()
