"""Jobs of a server from here: submitted, found again, followed by several readers, cancelled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from inside_server import InsideServer

from mold_core import (
    CancelledError,
    Client,
    DenoiseStep,
    GenerateRequest,
    InferenceError,
    ValidationError,
)
from mold_core.errors import JobNotFoundError
from mold_core.testing import Gate, SketchFamily


def request(prompt: str = "a red house", **fields: Any) -> GenerateRequest:
    return GenerateRequest(prompt=prompt, **{"model": "sketch", "seed": 7, **fields})


@pytest.fixture
def gate(family: SketchFamily) -> Iterator[Gate]:
    """Every step of the server's pipelines waits here; the test's end opens it."""
    family.gate = Gate()
    yield family.gate
    family.gate.open()


def steps(events: Iterator[Any]) -> list[int]:
    return [event.step for event in events if isinstance(event, DenoiseStep)]


def test_a_job_is_found_again_by_another_client(client: Client, server: InsideServer, gate: Gate) -> None:
    job = client.submit(request())
    gate.wait_for_arrival()
    again = server.client().job(job.id)
    assert (again.kind, again.state, again.finished) == ("generate", "running", False)
    gate.open()
    assert again.result().images[0].data == job.result().images[0].data
    assert again.finished
    assert again.to_json()["state"] == "done"


def test_a_reader_that_leaves_does_not_end_the_job_and_the_next_one_gets_all_events(
    client: Client, server: InsideServer, gate: Gate
) -> None:
    job = client.submit(request(steps=3))
    with closing(job.events()) as events:  # type: ignore[type-var]
        gate.wait_for_arrival()
        next(event for event in events if isinstance(event, DenoiseStep))
    gate.open()
    assert steps(server.client().job(job.id).events()) == [1, 2, 3]
    assert steps(job.events()) == [1, 2, 3]
    assert job.result().images


def test_a_result_is_there_without_reading_events(client: Client) -> None:
    job = client.submit(request())
    first = job.result()
    assert first.images[0].width == 32
    assert job.result() is first


def test_jobs_are_listed_oldest_first_and_by_state_and_kind(client: Client, gate: Gate) -> None:
    first = client.submit(request("first", width=64))
    gate.wait_for_arrival()
    second, third = client.submit(request("second")), client.submit(request("third"))
    assert [job.id for job in client.jobs()] == [first.id, second.id, third.id]
    assert [job.id for job in client.jobs(state="queued")] == [second.id, third.id]
    assert client.jobs(kind="pull") == []


def test_a_waiting_job_is_cancelled_and_says_so(client: Client, gate: Gate) -> None:
    client.submit(request("first", width=64))
    gate.wait_for_arrival()
    waiting = client.submit(request("second"))
    assert waiting.cancel() is True
    with pytest.raises(CancelledError):
        waiting.result()
    assert (waiting.state, waiting.cancel()) == ("cancelled", True)


def test_a_job_that_is_done_cannot_be_cancelled(client: Client) -> None:
    job = client.submit(request())
    job.result()
    assert job.cancel() is False


def test_a_failed_job_raises_its_error_for_every_reader(client: Client, family: SketchFamily) -> None:
    family.error = InferenceError("the paint ran out")
    job = client.submit(request())
    for read in (job.result, lambda: list(job.events()), job.result):
        with pytest.raises(InferenceError, match="the paint ran out"):
            read()
    assert job.state == "failed"


@pytest.mark.parametrize("id_", ["nowhere", "ä?x=1", ".."])
def test_a_job_that_never_was_is_not_found(client: Client, id_: str) -> None:
    with pytest.raises(JobNotFoundError):
        client.job(id_)


def test_a_key_names_one_job_and_another_request_under_it_is_refused(client: Client) -> None:
    job = client.submit(request(), idempotency_key="one")
    assert client.submit(request(), idempotency_key="one").id == job.id
    with pytest.raises(ValidationError, match="use a new key"):
        client.submit(request("something else"), idempotency_key="one")
