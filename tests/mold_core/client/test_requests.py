"""The client's requests against a real server: results, events, errors, and what ends with the connection."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from inside_server import InsideServer

from mold_core import (
    CancelledError,
    Client,
    DenoiseStep,
    ExpandRequest,
    FileUpscaleRequest,
    GenerateRequest,
    GenerateResponse,
    InferenceError,
    ModelNotFoundError,
    QueueFullError,
    UnknownModelError,
    ValidationError,
)
from mold_core.testing import Gate, SketchFamily

WAIT_S = 120.0


def request(prompt: str = "a red house", **fields: Any) -> GenerateRequest:
    return GenerateRequest(prompt=prompt, **{"model": "sketch", "seed": 7, **fields})


@pytest.fixture
def gate(family: SketchFamily) -> Iterator[Gate]:
    """Every step of the server's pipelines waits here; the test's end opens it."""
    family.gate = Gate()
    yield family.gate
    family.gate.open()


def test_the_images_are_those_that_the_engine_makes(client: Client, server: InsideServer) -> None:
    there = client.generate(request(batch_size=2, output_format="webp"))
    here = server.engine.generate(request(batch_size=2, output_format="webp"))
    assert [image.data for image in there.images] == [image.data for image in here.images]
    assert (there.model, there.seed_used) == ("sketch:v1", 7)


def test_events_come_while_the_work_goes_on(client: Client, gate: Gate) -> None:
    stream = client.stream(request(steps=2))
    next(stream)
    gate.wait_for_arrival()
    first = next(event for event in stream if isinstance(event, DenoiseStep))
    assert (first.step, first.total) == (1, 2)  # the second step is not allowed yet
    gate.open()
    *_, response = stream
    assert isinstance(response, GenerateResponse)


def test_leaving_a_stream_cancels_its_job(client: Client, server: InsideServer, gate: Gate) -> None:
    stream = client.stream(request(steps=50))
    next(stream)
    gate.wait_for_arrival()
    (job,) = server.engine.jobs(state="running")
    stream.close()  # type: ignore[attr-defined]
    with pytest.raises(CancelledError):
        job.result(WAIT_S)


def test_leaving_a_stream_cancels_a_job_that_still_waits(client: Client, server: InsideServer, gate: Gate) -> None:
    server.engine.submit(request("first", width=64))
    gate.wait_for_arrival()
    stream = client.stream(request("second"))
    next(stream)
    (job,) = server.engine.jobs(state="queued")
    stream.close()  # type: ignore[attr-defined]
    with pytest.raises(CancelledError):
        job.result(WAIT_S)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("mine")])
def test_what_a_reader_of_events_raises_comes_out_and_cancels(
    client: Client, server: InsideServer, gate: Gate, error: BaseException
) -> None:
    def read(event: object) -> None:
        raise error

    with pytest.raises(type(error)):
        client.generate(request(steps=50), read)
    (job,) = server.engine.jobs()
    with pytest.raises(CancelledError):
        job.result(WAIT_S)


def test_a_reader_that_says_false_cancels(client: Client, server: InsideServer, gate: Gate) -> None:
    with pytest.raises(CancelledError):
        client.generate(request(steps=50), lambda event: False)
    (job,) = server.engine.jobs()
    with pytest.raises(CancelledError):
        job.result(WAIT_S)


def test_prompts_are_expanded(client: Client) -> None:
    expanded = client.expand(ExpandRequest(prompt="a cat", seed=7, variations=2, model_family="sketch")).expanded
    assert expanded == ("a cat for sketch, 7", "a cat for sketch, 8")


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"model": "sketsch"}, UnknownModelError, "sketch"),
        ({"model": "far"}, ModelNotFoundError, "mold pull far:v1"),
        ({"steps": 1000}, ValidationError, "steps"),
        ({"batch_size": 0}, ValidationError, "batch_size"),
    ],
)
def test_an_error_of_the_engine_has_its_class_and_words(
    client: Client, fields: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        client.generate(request(**fields))
    with pytest.raises(error, match=words):
        client.submit(request(**fields))


def test_a_failure_during_the_work_has_its_class_and_not_its_private_words(
    client: Client, family: SketchFamily
) -> None:
    family.error = ValueError("secret")
    with pytest.raises(InferenceError) as caught:
        client.generate(request())
    assert "secret" not in str(caught.value)
    family.error = None
    assert client.generate(request()).images


def test_a_full_queue_is_an_error_and_takes_again_later(client: Client, gate: Gate) -> None:
    running = client.submit(request("runs", width=64))
    gate.wait_for_arrival()
    waiting = [client.submit(request(str(number))) for number in range(3)]
    with pytest.raises(QueueFullError):
        client.generate(request("one too many"))
    gate.open()
    assert all(job.result().images for job in (running, *waiting))
    assert client.generate(request("later")).images


def test_a_request_that_no_server_knows_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ValidationError, match="cannot run a request of class dict"):
        Client("127.0.0.1:9", "").run({"prompt": "a cat"})


@pytest.mark.parametrize(("name", "words"), [("nowhere.png", "cannot be read"), ("clip.mp4", "is a video")])
def test_a_file_that_cannot_be_enlarged_there_is_refused_here(
    client: Client, tmp_path: Path, name: str, words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        client.run(FileUpscaleRequest(source=tmp_path / name, target=tmp_path / "out.png"))
    assert not (tmp_path / "out.png").exists()
