"""The queue: bounded, fair, and kind to the model that is loaded."""

from __future__ import annotations

import threading

import pytest

from mold_core import GenerateRequest, Job, Queued, QueueFullError
from mold_core.engine.queue import JobQueue


def job(model: str = "a:1", batch_size: int = 1) -> Job:
    return Job(GenerateRequest(prompt="p", model=model, batch_size=batch_size))


def filled(*jobs: Job, patience_s: float = 30.0) -> JobQueue:
    queue = JobQueue(capacity=10, patience_s=patience_s)
    for one in jobs:
        queue.put(one)
    return queue


def take(queue: JobQueue, loaded: str = "", *, limit: int = 1, together: bool = True) -> list[Job]:
    return queue.take(lambda: frozenset({loaded}), lambda first, other: together, limit)


def positions(one: Job) -> list[int]:
    one.cancel()
    return [event.position for event in one.events() if isinstance(event, Queued)]


def test_jobs_are_taken_in_the_order_they_came() -> None:
    jobs = [job("a:1"), job("b:1"), job("a:1")]
    queue = filled(*jobs)
    assert [take(queue) for _ in jobs] == [[one] for one in jobs]


def test_a_queue_that_is_full_says_so() -> None:
    queue = JobQueue(capacity=2)
    assert [queue.put(job()), queue.put(job())] == [1, 2]
    with pytest.raises(QueueFullError, match=r"generation queue is full \(2/2\); try again later"):
        queue.put(job())
    take(queue)
    assert queue.put(job()) == 2


def test_a_job_that_waits_no_longer_makes_room() -> None:
    queue = JobQueue(capacity=1)
    first = job()
    queue.put(first)
    queue.discard(first)
    assert len(queue) == 0
    assert queue.put(job()) == 1


def test_every_job_is_told_its_position_and_each_change() -> None:
    jobs = [job() for _ in range(3)]
    queue = filled(*jobs)
    assert [queue.position(one) for one in jobs] == [1, 2, 3]
    take(queue)
    queue.discard(jobs[1])
    assert [queue.position(one) for one in jobs] == [0, 0, 1]
    assert [positions(one) for one in jobs] == [[1, 0], [2, 1], [3, 2, 1]]


def test_a_job_for_the_loaded_model_goes_first() -> None:
    first, second = job("a:1"), job("b:1")
    queue = filled(first, second)
    assert take(queue, loaded="b:1") == [second]
    assert take(queue, loaded="b:1") == [first]


def test_nobody_waits_longer_than_patience_for_others_to_go_first() -> None:
    first, second = job("a:1"), job("b:1")
    queue = filled(first, second, patience_s=0)
    assert take(queue, loaded="b:1") == [first]


def test_jobs_that_may_run_together_are_taken_together_up_to_the_limit() -> None:
    jobs = [job() for _ in range(5)]
    queue = filled(*jobs)
    assert take(queue, limit=3) == jobs[:3]
    assert take(queue, limit=3) == jobs[3:]


def test_the_limit_counts_pictures() -> None:
    jobs = [job(batch_size=2), job(batch_size=3), job(batch_size=1), job(batch_size=1)]
    queue = filled(*jobs)
    assert take(queue, limit=4) == [jobs[0], jobs[2], jobs[3]]
    assert take(queue, limit=4) == [jobs[1]]


def test_a_job_above_the_limit_is_taken_alone() -> None:
    jobs = [job(batch_size=9), job()]
    assert take(filled(*jobs), limit=4) == jobs[:1]


def test_jobs_that_may_not_run_together_are_taken_one_by_one() -> None:
    jobs = [job(), job()]
    assert take(filled(*jobs), limit=8, together=False) == jobs[:1]


def test_a_worker_waits_for_work() -> None:
    queue = JobQueue(capacity=1)
    taken: list[list[Job]] = []
    worker = threading.Thread(target=lambda: taken.append(take(queue)))
    worker.start()
    one = job()
    queue.put(one)
    worker.join(10)
    assert taken == [[one]]


def test_a_closed_queue_lets_workers_go_and_returns_what_was_not_begun() -> None:
    queue = JobQueue(capacity=1)
    taken: list[list[Job]] = []
    worker = threading.Thread(target=lambda: taken.append(take(queue)))
    worker.start()
    queue.close()
    worker.join(10)
    assert taken == [[]]
    one = job()
    assert filled(one).close() == [one]
