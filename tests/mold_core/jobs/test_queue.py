"""The queue: bounded, fair, and kind to the model that is loaded."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from mold_core import GenerateRequest, Job, Queued, QueueFullError
from mold_core.jobs.job import Prepared
from mold_core.jobs.queue import JobQueue


class Device:
    """A device that asks for jobs, with a model in memory and perhaps something else to do."""

    def __init__(self, loaded: str = "", *, weight: int = 0, name: str = "cpu") -> None:
        self._loaded = frozenset({loaded})
        self._weight = weight
        self._name = name
        self.busy = False

    def loaded(self) -> frozenset[str]:
        return self._loaded

    def takes(self, job: Job) -> bool:
        return job.prepared.device in (None, self._name)

    def cost(self, job: Job) -> tuple[int, ...]:
        return (0 if job.model in self._loaded else job.prepared.load_bytes, self._weight)

    def wanted(self) -> bool:
        return self.busy


def job(model: str = "a:1", batch_size: int = 1, *, alone: bool = False, load_bytes: int = 100) -> Job:
    request = GenerateRequest(prompt="p", model=model, batch_size=batch_size)
    return Job(Prepared(request=request, size=batch_size, batch_key=None if alone else model, load_bytes=load_bytes))


def filled(*jobs: Job, patience_s: float = 30.0) -> JobQueue:
    queue = JobQueue(capacity=10, patience_s=patience_s)
    for one in jobs:
        queue.put(one)
    return queue


def take(queue: JobQueue, loaded: str = "", *, limit: int = 1) -> list[Job] | None:
    return queue.take(Device(loaded), limit)


def in_thread(queue: JobQueue, device: Device, *, limit: int = 1) -> Callable[[], list[Job] | None]:
    """Let a device ask in a thread of its own; what is returned waits for its answer."""
    taken: list[list[Job] | None] = []
    thread = threading.Thread(target=lambda: taken.append(queue.take(device, limit)))
    thread.start()

    def answer() -> list[Job] | None:
        thread.join(10)
        return taken[0]

    return answer


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


def test_the_limit_counts_images() -> None:
    jobs = [job(batch_size=2), job(batch_size=3), job(batch_size=1), job(batch_size=1)]
    queue = filled(*jobs)
    assert take(queue, limit=4) == [jobs[0], jobs[2], jobs[3]]
    assert take(queue, limit=4) == [jobs[1]]


def test_a_job_above_the_limit_is_taken_alone() -> None:
    jobs = [job(batch_size=9), job()]
    assert take(filled(*jobs), limit=4) == jobs[:1]


@pytest.mark.parametrize("jobs", [[job(alone=True), job(alone=True)], [job("a:1"), job("b:1")]])
def test_jobs_that_may_not_run_together_are_taken_one_by_one(jobs: list[Job]) -> None:
    assert take(filled(*jobs), limit=8) == jobs[:1]


def test_a_device_waits_for_work() -> None:
    queue = JobQueue(capacity=1)
    answer = in_thread(queue, Device())
    one = job()
    queue.put(one)
    assert answer() == [one]


def test_a_device_that_is_wanted_elsewhere_stops_waiting() -> None:
    queue, device = JobQueue(capacity=1), Device()
    answer = in_thread(queue, device)
    device.busy = True
    queue.wake()
    assert answer() == []


def test_a_device_waits_no_longer_than_it_likes() -> None:
    assert JobQueue(capacity=1).take(Device(), 1, timeout_s=0.001) == []


def test_the_idle_device_that_has_the_model_gets_the_job() -> None:
    queue = JobQueue(capacity=9)
    cold, warm = in_thread(queue, Device("b:1")), in_thread(queue, Device("a:1"))
    queue.wait_for_idle(2)
    first, second = job("a:1"), job("b:1")
    queue.put(first)
    assert warm() == [first]
    queue.put(second)
    assert cold() == [second]


def test_of_devices_without_the_model_the_emptiest_gets_the_job() -> None:
    queue = JobQueue(capacity=9)
    full, empty = in_thread(queue, Device("b:1", weight=1)), in_thread(queue, Device())
    queue.wait_for_idle(2)
    one = job("a:1")
    queue.put(one)
    assert empty() == [one]
    queue.close()
    assert full() is None


def test_devices_that_have_the_model_share_what_waits() -> None:
    jobs = [job("a:1") for _ in range(4)]
    queue = filled(*jobs)
    queue.pause()
    answers = [in_thread(queue, Device("a:1"), limit=8) for _ in range(2)]
    queue.wait_for_idle(2)
    queue.resume()
    assert sorted(len(answer() or ()) for answer in answers) == [2, 2]


def test_a_paused_queue_gives_nothing_and_takes_everything() -> None:
    queue = filled(job())
    queue.pause()
    assert queue.paused
    assert queue.take(Device(), 1, timeout_s=0.001) == []
    assert queue.put(job()) == 2
    queue.resume()
    assert take(queue) is not None


@pytest.mark.parametrize(("position", "order"), [(1, "cab"), (2, "acb"), (3, "abc"), (99, "abc"), (0, "cab")])
def test_a_job_moves_and_all_that_it_passes_are_told(position: int, order: str) -> None:
    jobs = {name: job(name) for name in "abc"}
    queue = filled(*jobs.values())
    assert queue.move(jobs["c"], position) == order.index("c") + 1
    assert [queue.position(jobs[name]) for name in order] == [1, 2, 3]
    for name in "ab":
        place = order.index(name) + 1
        assert positions(jobs[name])[-1] == place


def test_a_job_that_does_not_wait_cannot_be_moved() -> None:
    assert filled(job()).move(job(), 1) == 0


def test_jobs_that_come_back_go_to_the_head_even_of_a_full_queue() -> None:
    waiting = [job("w:1") for _ in range(10)]
    back = [job("a:1"), job("b:1")]
    queue = filled(*waiting)
    queue.put_first(back)
    assert [take(queue) for _ in range(3)] == [[back[0]], [back[1]], [waiting[0]]]


def test_a_device_that_made_several_together_waits_for_their_askers() -> None:
    queue = JobQueue(capacity=9)
    jobs = [job(), job()]
    queue.put(jobs[0])
    taken: list[list[Job] | None] = []
    device = threading.Thread(target=lambda: taken.append(queue.take(Device(), 8, made_together=1, gather_s=10)))
    device.start()
    queue.put(jobs[1])
    device.join(5)
    assert taken == [jobs]


def test_a_device_waits_for_nobody_when_one_asks_after_the_other() -> None:
    queue = JobQueue(capacity=9)
    one = job()
    queue.put(one)
    assert queue.take(Device(), 8, made_together=0, gather_s=10) == [one]


def test_a_closed_queue_lets_devices_go_and_returns_what_was_not_begun() -> None:
    queue = JobQueue(capacity=1)
    answer = in_thread(queue, Device())
    queue.close()
    assert answer() is None
    one = job()
    assert filled(one).close() == [one]


def placed(device: str) -> Job:
    return Job(Prepared(request=GenerateRequest(prompt="p", model="a:1"), batch_key="a:1", device=device))


def test_a_job_waits_for_the_device_that_its_model_is_placed_on() -> None:
    here, there = placed("cuda:0"), placed("cuda:1")
    queue = filled(there, here)
    assert queue.take(Device("a:1", name="cuda:0"), 4) == [here]
    assert queue.take(Device("a:1", name="cuda:0"), 4, timeout_s=0) == []
    assert queue.take(Device(name="cuda:1"), 4) == [there]


def test_a_device_that_may_not_take_a_job_is_not_waited_for() -> None:
    queue = JobQueue(capacity=10)
    cheap = Device("a:1", name="cuda:0")
    answer = in_thread(queue, cheap)
    assert queue.wait_for_idle(1)
    queue.put(there := placed("cuda:1"))
    assert queue.take(Device(weight=9, name="cuda:1"), 1) == [there]
    queue.close()
    assert answer() is None
