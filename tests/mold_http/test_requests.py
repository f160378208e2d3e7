"""Requests that are malformed, too large, too deep, too slow: each is refused in one shape, and harms nobody."""

from __future__ import annotations

import json
import socket
import time

import pytest
from http_server import Server, read_all

JSON_POSTS = ["/api/generate", "/api/generate/stream", "/api/upscale", "/api/jobs", "/v1/images/generations"]


def head(server: Server, *lines: str, start: str = "POST /api/generate HTTP/1.1") -> bytes:
    return "\r\n".join([start, f"Host: localhost:{server.port}", *lines]).encode() + b"\r\n\r\n"


@pytest.mark.parametrize("path", JSON_POSTS)
@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b'{"promp', 400, "not JSON"),
        (b"[" * 100_000, 400, "nested too deeply"),
        (b'{"a":' * 50_000, 400, "nested too deeply"),
        (b'{"prompt": "x", "guidance": NaN}', 400, "NaN"),
        (b'{"prompt": "\xff"}', 400, "not JSON"),
        (b"", 400, "not JSON"),
        (b"[]", 422, "must be an object"),
        (b"null", 422, "must be an object"),
    ],
)
def test_what_is_no_request_is_refused_with_the_reason(
    server: Server, path: str, body: bytes, status: int, words: str
) -> None:
    answer = server.ask("POST", path, body)
    openai = path.startswith("/v1")
    assert answer.status == (400 if openai else status)
    error = answer.json()["error"]
    assert words in (error["message"] if openai else error)


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
def test_only_json_is_read(server: Server, content_type: str | None) -> None:
    answer = server.ask("POST", "/api/generate", {"prompt": "x"}, Content_Type=content_type)
    assert (answer.status, answer.json()["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.x+json"]
)
def test_json_is_known_by_its_type_alone(server: Server, content_type: str) -> None:
    assert server.ask("POST", "/api/generate", {}, Content_Type=content_type).status == 422


def test_all_problems_are_named_with_their_paths(server: Server) -> None:
    body = {"steps": 0, "width": "9", "loras": [{"path": ""}, {"path": "a", "scale": 3}], "unknown": 1}
    answer = server.ask("POST", "/api/generate", body)
    assert (answer.status, answer.json()["code"]) == (422, "VALIDATION_ERROR")
    for path in ("prompt is required", "steps must be", "width must be", "loras[0].path must", "loras[1].scale must"):
        assert path in answer.json()["error"]
    assert "unknown" not in answer.json()["error"]


def test_a_body_that_says_it_is_too_large_is_not_read(server: Server) -> None:
    answer = server.raw(head(server, "Content-Type: application/json", f"Content-Length: {10**9}") + b'{"prompt": "')
    assert answer.startswith(b"HTTP/1.1 413")
    assert b'"code": "BODY_TOO_LARGE"' in answer


def test_a_body_that_grows_too_large_is_read_no_further(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(head(server, "Content-Type: application/json", "Transfer-Encoding: chunked"))
        begin = b'{"source_image":"'
        connection.sendall(b"%x\r\n%s\r\n" % (len(begin), begin))
        chunk = b"%x\r\n%s\r\n" % (1 << 20, b"A" * (1 << 20))
        sent = 0
        try:
            for _ in range(200):
                connection.sendall(chunk)
                sent += 1
        except OSError:
            pass
        assert 64 <= sent < 90
        assert read_all(connection).startswith((b"HTTP/1.1 413", b""))
    assert server.ask("GET", "/health").status == 200


@pytest.mark.parametrize(
    "lengths",
    [
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Content-Length: 5"),
        ("Content-Length: 5", "Content-Length: 6"),
    ],
)
def test_a_length_said_twice_is_refused_and_the_connection_ends(server: Server, lengths: tuple[str, str]) -> None:
    smuggled = b"GET /api/status HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answer = server.raw(head(server, "Content-Type: application/json", *lengths) + b"0\r\n\r\n" + smuggled)
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.count(b"HTTP/1.1") == 1
    assert b"uptime" not in answer


def test_huge_headers_are_refused(server: Server) -> None:
    answer = server.raw(b"GET /api/status HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 300_000)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
    assert b"uptime" not in answer


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\0" * 99]
)
def test_what_is_no_http_gets_the_envelope(server: Server, data: bytes) -> None:
    answer = server.raw(data + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "BAD_REQUEST"


def test_unknown_paths_and_methods_have_the_envelope(server: Server) -> None:
    for path in ("/nope", "/api", "/api/models/", "/api/gallery/image"):
        answer = server.ask("GET", path)
        assert (answer.status, answer.json()["code"]) == (404, "NOT_FOUND"), path
    for method in ("DELETE", "PUT", "PATCH"):
        answer = server.ask(method, "/api/models")
        assert (answer.status, answer.json()["code"]) == (405, "METHOD_NOT_ALLOWED")
        assert "GET" in answer.headers["allow"]


@pytest.mark.parametrize("path", ["/api/status", "/health", "/", "/api/jobs/x", "/v1/models"])
def test_a_method_that_falcon_keeps_for_itself_is_one_like_any_other(server: Server, path: str) -> None:
    answer = server.ask("WEBSOCKET", path)
    assert answer.status == 405
    assert "GET" in answer.headers["allow"]
    assert server.ask("WEBSOCKET", "/nope").status == 404


def test_no_method_goes_round_the_keys(keyed: Server) -> None:
    for method in ("WEBSOCKET", "websocket", "TRACE", "CONNECT", "PROPFIND", "ANYBODYS"):
        assert keyed.ask(method, "/api/status").status in (400, 401), method


def test_a_request_to_speak_websocket_is_answered_in_http(server: Server) -> None:
    answer = server.ask(
        "GET",
        "/health",
        Connection="Upgrade",
        Upgrade="websocket",
        Sec_WebSocket_Version="13",
        Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==",
    )
    assert answer.status == 200
    assert "upgrade" not in answer.headers


@pytest.mark.parametrize("path", ["/%00", "/%ff%fe", "/api/gallery/image/%0d%0aX-Evil:1", "/api/jobs/" + "x" * 8000])
def test_strange_paths_are_answered_like_any_other(server: Server, path: str) -> None:
    answer = server.ask("GET", path)
    assert answer.status in (404, 422)
    assert "x-evil" not in answer.headers
    assert answer.json().keys() == {"error", "code"}


@pytest.mark.parametrize("path", ["/api/chains/", "/api/jobs/", "/api/gallery/image/", "/api/gallery/about/"])
def test_names_longer_than_any_file_has_are_not_there(server: Server, path: str) -> None:
    assert server.ask("GET", path + "9" * 5000).status in (404, 422)


def test_text_of_a_request_never_becomes_a_header(server: Server) -> None:
    answer = server.ask("GET", "/health", X_Request_ID="a b<c>")
    assert answer.headers["x-request-id"] != "a b<c>"
    raw = server.raw(head(server, "X-Request-ID: a\tb", "Connection: close", start="GET /health HTTP/1.1"))
    assert raw.startswith(b"HTTP/1.1 200")
    assert b"a\tb" not in raw


def test_a_request_that_drips_is_ended_and_others_are_served(keyed: Server) -> None:
    """Its patience is one second; idle, slow head, slow body."""
    beginnings = [b"", b"GET /health HTT", head(keyed, "Content-Length: 100000", "X-Api-Key: third") + b"{"]
    connections = [keyed.connect() for _ in beginnings]
    began = time.monotonic()
    open_ = dict(zip(connections, beginnings, strict=True))
    for connection, beginning in open_.items():
        connection.sendall(beginning)
        connection.settimeout(0.2)
    while open_ and time.monotonic() - began < 20:
        assert keyed.ask("GET", "/health").status == 200
        for connection in list(open_):
            if _ended(connection):
                open_.pop(connection)
    for connection in connections:
        connection.close()
    assert not open_


def _ended(connection: socket.socket) -> bool:
    try:
        connection.sendall(b"x")
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_an_event_stream_outlives_the_patience_for_requests(keyed: Server) -> None:
    with keyed.begin("GET", "/api/downloads/stream", X_Api_Key="third") as connection:
        assert b"200 OK" in connection.recv(65_536)
        connection.settimeout(2.5)
        with pytest.raises(TimeoutError):  # it is quiet, and open
            connection.recv(1)


def test_an_answer_before_the_end_of_the_body_arrives_whole(keyed: Server) -> None:
    with keyed.connect() as connection:
        connection.sendall(head(keyed, "Content-Length: 50000000", "Content-Type: application/json"))
        for _ in range(30):
            try:
                connection.sendall(b" " * 100_000)
            except OSError:
                break
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 401")
    assert b"missing X-Api-Key header" in answer


def test_a_connection_serves_several_requests(server: Server) -> None:
    one = head(server, start="GET /health HTTP/1.1")
    last = head(server, "Connection: close", start="GET /api/queue HTTP/1.1")
    answer = server.raw(one + one + last)
    assert answer.count(b"HTTP/1.1 200 OK") == 3
