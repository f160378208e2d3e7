"""Jobs: asked for now, followed and fetched later; and the queue they wait in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from http_server import Server, events, read_until, serving

SMALL = {"prompt": "a tree", "steps": 1, "width": 64, "height": 64, "seed": 3}


def generate(server: Server, request: dict[str, Any] | None = None, **headers: str) -> Any:
    answer = server.ask("POST", "/api/jobs", {"kind": "generate", "request": request or SMALL}, **headers)
    assert answer.status == 202, answer
    assert answer.headers["location"] == f"/api/jobs/{answer.json()['id']}"
    return answer.json()


def finished(server: Server, id: str) -> Any:
    assert server.soon(f"/api/jobs/{id}", lambda job: job["state"] in ("done", "failed", "cancelled"))
    return server.ask("GET", f"/api/jobs/{id}").json()


@pytest.fixture
def paused(server: Server) -> Iterator[Server]:
    """The server while its queue stands still."""
    assert server.ask("POST", "/api/queue/pause").json()["paused"] is True
    yield server
    for job in server.ask("GET", "/api/jobs?state=queued").json():
        server.ask("DELETE", f"/api/jobs/{job['id']}")
    assert server.ask("POST", "/api/queue/resume").json()["paused"] is False


def test_a_job_is_accepted_done_and_fetched(server: Server) -> None:
    accepted = generate(server)
    assert accepted["state"] in ("queued", "running", "done")
    job = finished(server, accepted["id"])
    assert (job["state"], job["kind"], job["model"]) == ("done", "generate", "flux-nano:bf16")
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]
    result = server.ask("GET", f"/api/jobs/{accepted['id']}/result")
    assert (result.status, result.type, result.headers["x-mold-seed-used"]) == (200, "image/png", "3")
    assert result.body == server.ask("POST", "/api/generate", SMALL).body
    as_json = server.ask("GET", f"/api/jobs/{accepted['id']}/result?image_data=none", Accept="application/json")
    assert as_json.json()["seed_used"] == 3
    assert accepted["id"] in [job["id"] for job in server.ask("GET", "/api/jobs?state=done&kind=generate").json()]


def test_events_of_a_job_go_on_after_the_last_that_was_seen(server: Server) -> None:
    accepted = generate(server)
    finished(server, accepted["id"])
    path = f"/api/jobs/{accepted['id']}/events?image_data=none"
    whole = server.ask("GET", path).body
    ids = [int(line[4:]) for line in whole.decode().splitlines() if line.startswith("id: ")]
    assert ids == list(range(len(ids)))
    assert events(_without_ids(whole))[-1][0] == "complete"
    rest = server.ask("GET", path, Last_Event_ID=str(ids[2])).body
    assert whole.endswith(rest)
    assert rest.startswith(f"id: {ids[3]}\n".encode())
    last = server.ask("GET", path, Last_Event_ID=str(ids[-2])).body
    assert [name for name, _data in events(_without_ids(last))] == ["complete"]
    assert last.startswith(f"id: {ids[-1]}\n".encode())
    assert server.ask("GET", path, Last_Event_ID="nonsense").body == whole


def _without_ids(stream: bytes) -> bytes:
    return b"\n".join(line for line in stream.split(b"\n") if not line.startswith(b"id: "))


def test_a_reader_that_leaves_does_not_end_the_job(paused: Server) -> None:
    accepted = generate(paused)
    with paused.begin("GET", f"/api/jobs/{accepted['id']}/events") as connection:
        read_until(connection, b"queued")
    assert paused.ask("GET", f"/api/jobs/{accepted['id']}").json()["state"] == "queued"


def test_a_queue_that_is_paused_keeps_jobs_and_lets_them_be_moved_and_cancelled(paused: Server) -> None:
    first, second, third = (generate(paused, {**SMALL, "seed": seed}) for seed in (1, 2, 3))
    assert [job["position"] for job in (first, second, third)] == [1, 2, 3]
    queue = paused.ask("GET", "/api/queue").json()
    assert [entry["id"] for entry in queue.pop("entries")] == [job["id"] for job in (first, second, third)]
    assert queue == {"paused": True, "depth": 3, "capacity": 200}
    assert paused.ask("GET", "/api/status").json()["queue_depth"] == 3
    moved = paused.ask("POST", "/api/queue/reorder", {"id": third["id"], "position": 1})
    assert moved.json() == {"id": third["id"], "state": "queued", "position": 1}
    assert paused.ask("GET", f"/api/jobs/{first['id']}").json()["position"] == 2
    waiting = paused.ask("GET", f"/api/jobs/{first['id']}/result")
    assert (waiting.status, waiting.json()["code"]) == (409, "CONFLICT")
    assert paused.ask("DELETE", f"/api/jobs/{first['id']}").json()["state"] == "cancelled"
    assert paused.ask("DELETE", f"/api/jobs/{first['id']}").status == 200
    assert paused.ask("GET", f"/api/jobs/{second['id']}").json()["position"] == 2
    result = paused.ask("GET", f"/api/jobs/{first['id']}/result")
    assert (result.status, result.json()["code"]) == (409, "CANCELLED")
    late = paused.ask("POST", "/api/queue/reorder", {"id": first["id"], "position": 1})
    assert (late.status, late.json()["code"]) == (409, "CONFLICT")
    name, error = events(_without_ids(paused.ask("GET", f"/api/jobs/{first['id']}/events").body))[-1]
    assert (name, error["code"]) == ("error", "CANCELLED")


def test_running_work_is_cancelled_between_steps(server: Server) -> None:
    accepted = generate(server, {"prompt": "a tree", "steps": 100, "width": 256, "height": 256, "batch_size": 20})
    assert server.soon(f"/api/jobs/{accepted['id']}", lambda job: job["state"] == "running")
    assert server.ask("DELETE", f"/api/jobs/{accepted['id']}").json()["state"] == "cancelled"
    assert server.soon("/api/status", lambda status: not status["busy"])


def test_a_request_with_a_key_is_accepted_once(server: Server) -> None:
    first = generate(server, Idempotency_Key="order-1")
    assert generate(server, Idempotency_Key="order-1")["id"] == first["id"]
    assert generate(server, Idempotency_Key="order-2")["id"] != first["id"]
    other = server.ask("POST", "/api/jobs", {"kind": "generate", "request": {"prompt": "b"}}, Idempotency_Key="order-1")
    assert other.status == 422
    assert server.ask("POST", "/api/jobs", {"kind": "generate", "request": SMALL}, Idempotency_Key="a b").status == 422


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "kind is required"),
        ({"kind": "dance", "request": {}}, "kind must be one of"),
        ({"kind": "generate"}, "request is required"),
        ({"kind": "generate", "request": []}, "request must be"),
        ({"kind": "generate", "request": {"steps": 0}}, "request.steps must be"),
        ({"kind": "upscale", "request": {}}, "request.image is required"),
        ({"kind": "chain", "request": {"stages": [{}]}}, "request.stages[0].prompt is required"),
        ({"kind": "pull", "request": {}}, "request.model is required"),
        ({"kind": "generate", "request": SMALL, "webhook_url": "http://127.0.0.1/"}, "MOLD_WEBHOOK_HOSTS"),
    ],
)
def test_what_is_no_job_is_refused_with_its_path(server: Server, body: object, words: str) -> None:
    answer = server.ask("POST", "/api/jobs", body)
    assert (answer.status, answer.json()["code"]) == (422, "VALIDATION_ERROR")
    assert words in answer.json()["error"]


@pytest.mark.parametrize("path", ["/api/jobs/nope", "/api/jobs/nope/events", "/api/jobs/nope/result"])
def test_a_job_that_never_was_is_not_found(server: Server, path: str) -> None:
    answer = server.ask("GET", path)
    assert (answer.status, answer.json()["code"]) == (404, "JOB_NOT_FOUND")


def test_lists_may_be_narrowed_by_known_words_only(server: Server) -> None:
    assert server.ask("GET", "/api/jobs?state=failed").json() == []
    assert server.ask("GET", "/api/jobs?state=gone").status == 422
    assert server.ask("GET", "/api/jobs?kind=dance").status == 422


def test_jobs_outlive_a_server_that_is_killed(tmp_path: Path) -> None:
    with serving(tmp_path / "home", MOLD_EXECUTOR="process") as first:
        ids = [generate(first, {**SMALL, "seed": seed})["id"] for seed in range(4)]
        first.process.kill()
        first.process.wait(120)
    with serving(tmp_path / "home", MOLD_EXECUTOR="process") as second:
        for seed, id_ in enumerate(ids):
            assert finished(second, id_)["state"] == "done"
            result = second.ask("GET", f"/api/jobs/{id_}/result")
            assert (result.type, result.headers["x-mold-seed-used"]) == ("image/png", str(seed))
        name, complete = events(_without_ids(second.ask("GET", f"/api/jobs/{ids[0]}/events").body))[-1]
        assert (name, complete["seed_used"]) == ("complete", 0)
        assert len(second.ask("GET", "/api/gallery").json()) == len(ids)
