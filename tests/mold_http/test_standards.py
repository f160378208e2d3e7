"""HTTP as its standards say: HEAD, HTTP/1.0, Accept with quality values, content codings, event streams that end."""

from __future__ import annotations

import gzip
import json
import re
import threading
from typing import Any

import openai
import pytest
from http_server import Answer, Server, events, read_all, read_until, serving

from mold_http.routes.table import ROUTES

LONG = {"prompt": "a long tree", "steps": 100, "width": 256, "height": 256, "batch_size": 50}
SMALL = {"prompt": "a tree", "steps": 1, "width": 64, "height": 64}

# What differs from one request to the next.
_OF_THE_MOMENT = {"date", "x-request-id", "transfer-encoding"}


def job_that_is_done(server: Server, **request: object) -> str:
    accepted = server.ask("POST", "/api/jobs", {"kind": "generate", "request": {**SMALL, **request}}).json()
    assert server.soon(f"/api/jobs/{accepted['id']}", lambda job: job["state"] == "done")
    return str(accepted["id"])


def headers_of(answer: Answer) -> dict[str, str]:
    """Return the headers that HEAD must share with GET; the length is compared where the content cannot change."""
    kept = {name.lower(): value for name, value in answer.headers.items() if name.lower() not in _OF_THE_MOMENT}
    if answer.type in ("application/json", "text/plain"):
        kept.pop("content-length", None)
    return kept


@pytest.mark.parametrize("route", [route for route in ROUTES if route.method == "GET"], ids=lambda route: route.path)
def test_head_answers_as_get_does_without_the_body(server: Server, route: Any) -> None:
    id = job_that_is_done(server)
    image = server.ask("GET", f"/api/jobs/{id}").json()["files"][0]
    path = route.path.replace("{id}", id).replace("{name}", image)
    if any(query.name == "model" and query.required for query in route.parameters):
        path += "?model=ltx2-nano"
    head = server.ask("HEAD", path)
    if "/stream" in path or path == "/api/events":
        with server.begin("GET", path) as connection:
            told = read_until(connection, b"\r\n\r\n").partition(b"\r\n\r\n")[0].decode().lower()
        assert "200 ok" in told
        assert head.headers["content-type"] in told
        assert (head.status, head.body, head.headers["content-length"]) == (200, b"", None)
        return
    get = server.ask("GET", path)
    assert (head.status, head.body) == (get.status, b"")
    assert headers_of(head) == headers_of(get)
    assert get.status in (200, 404, 422)  # a still image has no preview, and no chain has the id of a job


def test_head_needs_the_key_that_get_needs(keyed: Server) -> None:
    assert keyed.ask("HEAD", "/api/status").status == 401
    assert keyed.ask("HEAD", "/health").status == 200


def test_allow_names_head(server: Server) -> None:
    answer = server.ask("POST", "/api/status")
    assert (answer.status, "HEAD" in answer.headers["allow"]) == (405, True)


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET /health", 200),
        ("HEAD /health", 200),
        ("GET /health?", 200),
        ("GET /api/status", 403),
        ("GET /", 403),
        ("OPTIONS /", 403),
        ("GET //health", 403),
        ("POST /api/shutdown", 403),
    ],
)
def test_http_1_0_without_a_host_gets_health_alone(server: Server, request_line: str, status: int) -> None:
    with server.connect() as connection:
        connection.sendall(f"{request_line} HTTP/1.0\r\n\r\n".encode())
        assert read_all(connection).startswith(f"HTTP/1.1 {status} ".encode())


def test_http_1_1_needs_a_host_for_health_too(server: Server) -> None:
    assert server.raw(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    foreign = b"GET /health HTTP/1.0\r\nHost: evil.example\r\n\r\n"
    assert server.raw(foreign).startswith(b"HTTP/1.1 403 ")


JSON, PNG = "application/json", "image/png"

ACCEPTED = [
    (None, PNG),
    ("", PNG),
    ("*/*", PNG),
    ("application/json, text/plain, */*", PNG),  # axios
    ("application/json", JSON),
    ("application/*", JSON),
    ("APPLICATION/JSON;charset=utf-8", JSON),
    ("image/png, application/json;q=0.1", PNG),
    ("image/*;q=0.5, application/json;q=0.6", JSON),
    ("application/json;q=0, */*", PNG),
    ("application/json, */*;q=0.9", JSON),
    ("application/json, image/png", PNG),
    ("application/json;q=0.9, image/png;q=0.95", PNG),
    ("image/png;q=0.2, image/*, application/json;q=0.5", JSON),
    ("image/png;q=0, application/json;q=0.001", JSON),
    ("image/webp", PNG),
    ("text/html", PNG),
    ("application/json;q=2", PNG),
    ("application/json ; q=0.8 , */* ; q=0.7", JSON),
    (";;,,/;q=", PNG),
]


@pytest.mark.parametrize(("accept", "type"), ACCEPTED)
def test_accept_is_negotiated(server: Server, accept: str | None, type: str) -> None:
    answer = server.ask("POST", "/api/generate", SMALL, Accept=accept)
    assert (answer.status, answer.type) == (200, type)
    assert answer.headers["vary"] == "Accept"


def test_accept_is_negotiated_wherever_there_is_a_choice(server: Server) -> None:
    axios = "application/json, text/plain, */*"
    several = {**SMALL, "batch_size": 2}
    assert server.ask("POST", "/api/generate", several, Accept=axios).type == "multipart/mixed"
    assert server.ask("POST", "/api/generate", several, Accept="image/png, application/json;q=0.1").type == JSON
    result = f"/api/jobs/{job_that_is_done(server)}/result"
    assert server.ask("GET", result, Accept=axios).type == PNG
    assert server.ask("GET", result, Accept="application/json").type == JSON
    pull = {"model": "flux-nano"}
    for accept, type in (
        (axios, "text/plain"),
        ("text/event-stream", "text/event-stream"),
        ("text/event-stream, */*", "text/event-stream"),
        ("text/event-stream;q=0", "text/plain"),
        ("text/event-stream;q=0.1, text/plain", "text/plain"),
    ):
        assert server.ask("POST", "/api/models/pull", pull, Accept=accept).type == type, accept


@pytest.mark.parametrize("path", ["/api/generate", "/api/upscale", "/api/jobs", "/v1/images/generations"])
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "identity, gzip", "é"])
def test_an_encoded_body_is_refused(server: Server, path: str, coding: str) -> None:
    answer = server.ask("POST", path, gzip.compress(json.dumps(SMALL).encode()), Content_Encoding=coding)
    assert answer.status == 415
    assert "Content-Encoding" in json.dumps(answer.json())
    assert answer.headers["accept-encoding"] == "identity"


def test_an_encoded_form_is_refused(server: Server) -> None:
    form = "multipart/form-data; boundary=b"
    answer = server.ask("POST", "/v1/images/edits", b"--b--", Content_Type=form, Content_Encoding="gzip")
    assert answer.status == 415


def test_identity_is_no_coding(server: Server) -> None:
    assert server.ask("POST", "/api/generate", SMALL, Content_Encoding="Identity").status == 200


def ids_of(stream: bytes) -> list[str]:
    return re.findall(r"^id: (.*)$", stream.decode(), re.MULTILINE)


def test_an_event_source_that_saw_the_end_is_told_not_to_come_back(server: Server) -> None:
    path = f"/api/jobs/{job_that_is_done(server)}/events"
    whole = server.ask("GET", path).body
    ids = ids_of(whole)
    for method in ("GET", "HEAD"):
        after = server.ask(method, path, Last_Event_ID=ids[-1])
        assert (after.status, after.body) == (204, b"")
    assert server.ask("GET", f"{path}?last_event_id={ids[-1]}").status == 204
    for seen in range(len(ids) - 1):
        assert ids_of(server.ask("GET", path, Last_Event_ID=ids[seen]).body) == ids[seen + 1 :]
    assert server.ask("GET", path).body == whole


def test_a_failure_and_a_pull_are_ends_too(server: Server) -> None:
    with server.begin("POST", "/api/generate/stream", LONG) as connection:
        read_until(connection, b"denoise_step")
        (running,) = server.ask("GET", "/api/jobs?state=running").json()
        server.ask("DELETE", f"/api/jobs/{running['id']}")
    pull = server.ask("POST", "/api/jobs", {"kind": "pull", "request": {"model": "flux-nano"}}).json()
    assert server.soon(f"/api/jobs/{pull['id']}", lambda job: job["state"] == "done")
    for id in (running["id"], pull["id"]):
        ids = ids_of(server.ask("GET", f"/api/jobs/{id}/events").body)
        assert server.ask("GET", f"/api/jobs/{id}/events", Last_Event_ID=ids[-1]).status == 204
        if len(ids) > 1:
            assert server.ask("GET", f"/api/jobs/{id}/events", Last_Event_ID=ids[-2]).status == 200


CHAIN = {"model": "ltx2-nano", "prompt": "a red ball", "total_frames": 25, "clip_frames": 17, "steps": 1}


def test_a_stream_of_a_chain_carries_its_own_events_and_the_video_once(server: Server) -> None:
    request = {**CHAIN, "width": 64, "height": 64}
    stream = server.ask("POST", "/api/generate/chain/stream", request).body
    told = events(stream)
    kinds = {data["type"] for name, data in told if name == "progress"}
    assert kinds == {"chain_start", "stage_start", "denoise_step", "stage_done", "stitching"}
    name, complete = told[-1]
    assert name == "complete"
    assert "data" not in complete
    assert stream.count(complete["video"].encode()) == 1
    again = server.ask("POST", "/api/generate/chain/stream", request).body  # goes on from what is kept, with a notice
    assert {data["type"] for name, data in events(again) if name == "progress"} <= kinds


def test_what_was_cancelled_is_not_asked_for_again(server: Server) -> None:
    client = openai.OpenAI(base_url=f"http://localhost:{server.port}/v1", api_key="unused")
    seen = []

    class Canceller:
        """Cancels the job as soon as it runs, seen from another connection."""

        def __call__(self) -> None:
            assert server.soon("/api/jobs?state=running", len)
            for job in server.ask("GET", "/api/jobs?state=running").json():
                seen.append(job["id"])
                server.ask("DELETE", f"/api/jobs/{job['id']}")

    thread = threading.Thread(target=Canceller())
    thread.start()
    with pytest.raises(openai.ConflictError) as caught:
        client.images.generate(prompt="a tree", size="256x256", n=10, extra_body={"steps": 100})
    thread.join()
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert len(seen) == 1
    assert server.ask("GET", "/api/jobs?state=running").json() == []


def test_only_what_may_go_well_later_is_worth_a_retry(server: Server, tmp_path: Any) -> None:
    for path, body in (("/v1/images/generations", {"prompt": ""}), ("/v1/nothing", None)):
        assert server.ask("POST", path, body).headers["x-should-retry"] == "false"
    assert server.ask("POST", "/api/generate", {"prompt": ""}).headers["x-should-retry"] is None
    with serving(tmp_path / "home", MOLD_RATE_LIMIT="1/hour", MOLD_RATE_LIMIT_BURST="1") as limited:
        assert limited.ask("POST", "/v1/images/generations", {"prompt": ""}).status == 400
        refused = limited.ask("POST", "/v1/images/generations", {"prompt": ""})
        assert (refused.status, refused.headers["x-should-retry"]) == (429, None)


def test_deleting_from_the_gallery_counts_as_reading(tmp_path: Any) -> None:
    with serving(tmp_path / "home", MOLD_RATE_LIMIT="1/hour", MOLD_RATE_LIMIT_BURST="1") as limited:
        statuses = [limited.ask("DELETE", f"/api/gallery/image/{n}.png").status for n in range(11)]
    assert statuses == [204] * 10 + [429]


@pytest.mark.soak
def test_ids_of_events_outlive_the_server(tmp_path: Any) -> None:
    home = tmp_path / "home"
    with serving(home) as server:
        done = job_that_is_done(server)
        seen = ids_of(server.ask("GET", f"/api/jobs/{done}/events").body)
        server.ask("POST", "/api/queue/pause")
        request = {"kind": "generate", "request": SMALL}
        waiting, cancelled = (server.ask("POST", "/api/jobs", request).json()["id"] for _ in range(2))
        server.ask("DELETE", f"/api/jobs/{cancelled}")
        with server.begin("GET", f"/api/jobs/{waiting}/events") as connection:
            before = ids_of(read_until(connection, b"queued"))
        ended = ids_of(server.ask("GET", f"/api/jobs/{cancelled}/events").body)
    with serving(home) as server:
        server.ask("POST", "/api/queue/resume")
        for id, last in ((done, seen[-1]), (cancelled, ended[-1])):
            assert server.ask("GET", f"/api/jobs/{id}/events", Last_Event_ID=last).status == 204
            assert ids_of(server.ask("GET", f"/api/jobs/{id}/events").body) == [last]
        assert server.soon(f"/api/jobs/{waiting}", lambda job: job["state"] == "done")
        whole = server.ask("GET", f"/api/jobs/{waiting}/events").body
        assert server.ask("GET", f"/api/jobs/{waiting}/events", Last_Event_ID=before[-1]).body == whole
        assert set(map(int, ids_of(whole))).isdisjoint(map(int, before))
        assert events(re.sub(rb"^id: .*\n", b"", whole, flags=re.MULTILINE))[-1][0] == "complete"
