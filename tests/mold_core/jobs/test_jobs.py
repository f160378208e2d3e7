"""A job is watched and cancelled from any thread."""

from __future__ import annotations

import threading

import pytest

from mold_core import CancelledError, GenerateRequest, InferenceError, Info, Job, Preview
from mold_core.jobs.job import Prepared


def new_job() -> Job:
    return Job(Prepared(request=GenerateRequest(prompt="a")))


def info(number: int) -> Info:
    return Info(message=str(number))


def test_a_new_job_waits() -> None:
    job = new_job()
    assert (job.state, job.finished, job.error) == ("queued", False, None)


def test_every_reader_gets_all_events_however_late() -> None:
    job = new_job()
    job.report(info(1))
    job.report(info(2))
    job.finish("image")
    assert list(job.events()) == list(job.events()) == [info(1), info(2)]


def test_a_reader_that_comes_back_goes_on_where_it_stopped() -> None:
    job = new_job()
    for number in range(4):
        job.report(info(number))
    job.finish("image")
    assert list(job.events(start=2)) == [info(2), info(3)]
    assert list(job.events(start=9)) == []


def test_a_reader_gets_events_as_they_come() -> None:
    job = new_job()
    seen: list[object] = []
    got_one = threading.Event()

    def read() -> None:
        for event in job.events():
            seen.append(event)
            got_one.set()

    reader = threading.Thread(target=read)
    reader.start()
    job.report(info(1))
    assert got_one.wait(120)
    job.report(info(2))
    job.finish("image")
    reader.join(10)
    assert seen == [info(1), info(2)]


def test_a_watcher_is_told_of_every_event_and_of_the_end_until_it_stops() -> None:
    job = new_job()
    heard: list[tuple[int, bool]] = []

    def hear() -> None:
        events, finished = job.events_so_far()
        heard.append((len(events), finished))

    stop = job.watch(hear)
    other = job.watch(hear)
    job.report(info(1))
    other()
    job.report(info(2))
    job.finish("image")
    stop()
    stop()
    assert heard == [(1, False), (1, False), (2, False), (2, True)]


def test_a_reader_may_stop_waiting() -> None:
    job = new_job()
    job.report(info(1))
    assert list(job.events(timeout_s=0.01)) == [info(1)]


def test_the_result_is_waited_for() -> None:
    job = new_job()
    threading.Timer(0.01, job.finish, ["image"]).start()
    assert job.result(timeout_s=120) == "image"


def test_waiting_for_a_result_may_end() -> None:
    with pytest.raises(TimeoutError, match=r"is still queued after 0\.01 s"):
        new_job().result(timeout_s=0.01)


def test_the_error_of_a_failed_job_is_raised() -> None:
    job = new_job()
    job.fail(InferenceError("broke"))
    assert job.state == "failed"
    with pytest.raises(InferenceError, match="broke"):
        job.result()


def test_a_cancelled_job_ends_at_once() -> None:
    job = new_job()
    assert job.cancel()
    assert job.state == "cancelled"
    with pytest.raises(CancelledError):
        job.result()


def test_only_the_first_end_counts() -> None:
    job = new_job()
    assert job.finish("image")
    assert not job.cancel()
    assert not job.fail(InferenceError("late"))
    assert (job.state, job.result()) == ("done", "image")


def test_a_job_that_was_cancelled_while_it_waited_does_not_start() -> None:
    job = new_job()
    job.cancel()
    assert not job.start()
    assert job.state == "cancelled"


def test_events_after_the_end_are_dropped() -> None:
    job = new_job()
    job.finish("image")
    job.report(info(1))
    assert list(job.events()) == []


def test_whoever_wants_to_know_of_the_end_is_told_once() -> None:
    told: list[str] = []
    job = Job(Prepared(request=GenerateRequest(prompt="a")), on_finish=lambda job: told.append(job.state))
    job.cancel()
    job.cancel()
    job.finish("image")
    assert told == ["cancelled"]


def test_of_many_threads_that_end_a_job_one_does() -> None:
    job = new_job()
    start = threading.Barrier(8)
    ended: list[bool] = []

    def end() -> None:
        start.wait(120)
        ended.append(job.cancel())

    threads = [threading.Thread(target=end) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(ended) == [False] * 7 + [True]


def test_ids_are_all_different() -> None:
    assert len({new_job().id for _ in range(100)}) == 100


def test_of_previews_only_the_newest_image_of_each_image_is_kept() -> None:
    job = new_job()
    for step in (1, 2, 3):
        for index in (0, 1):
            job.report(Preview(step=step, total=3, index=index, image=b"%d of %d" % (step, index)))
    events, _ended = job.events_so_far()
    assert [(event.step, event.index) for event in events if isinstance(event, Preview)] == [
        (step, index) for step in (1, 2, 3) for index in (0, 1)
    ]
    assert [event.image for event in events if isinstance(event, Preview)] == [b"3 of 0", b"3 of 1"] * 3
