"""What a receiver of webhooks sees of the client that posts them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import attrs
import httpx2
import pytest

from mold_http.webhook_client import WebhookClient


@attrs.frozen
class Post:
    """One request as it arrived."""

    target: str
    headers: dict[str, str]
    body: bytes
    client_port: int


@contextmanager
def receiver(status: int = 200, body: bytes = b"", length: int | None = None) -> Iterator[tuple[int, list[Post]]]:
    """Give the port of a receiver and what it has received. `length` replaces the true length of the body."""
    posts: list[Post] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            posts.append(Post(self.path, headers, content, self.client_address[1]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.send_header("Set-Cookie", "session=1")
            self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = length is not None

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1]), posts
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebhookClient]:
    """A client, without the proxies that this machine may have."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    client = WebhookClient()
    yield client
    client.close()


def post(client: WebhookClient, url: str) -> int:
    return client.post(urlsplit(url), b'{"id": "1"}', {"X-Mold-Attempt": "3"})


def test_the_receiver_gets_json_at_the_path_and_query_of_the_url(client: WebhookClient) -> None:
    with receiver(204) as (port, posts):
        assert post(client, f"http://127.0.0.1:{port}/a%20b/c?d=%2F&e") == 204
        assert post(client, f"http://127.0.0.1:{port}") == 204
    assert [one.target for one in posts] == ["/a%20b/c?d=%2F&e", "/"]
    assert posts[0].body == b'{"id": "1"}'
    assert (posts[0].headers["content-type"], posts[0].headers["x-mold-attempt"]) == ("application/json", "3")


@pytest.mark.parametrize("body", [b"", b"ok", b"x" * 4096])
def test_posts_to_one_receiver_share_a_connection_and_no_cookie(client: WebhookClient, body: bytes) -> None:
    with receiver(200, body) as (port, posts):
        assert [post(client, f"http://127.0.0.1:{port}/") for _ in range(3)] == [200] * 3
    assert len({one.client_port for one in posts}) == 1
    assert all("cookie" not in one.headers for one in posts)


def test_a_redirect_is_a_status_and_is_not_followed(client: WebhookClient) -> None:
    with receiver(307) as (port, posts):
        assert post(client, f"http://127.0.0.1:{port}/") == 307
    assert len(posts) == 1


@pytest.mark.parametrize("length", [100, 10**9], ids=["a little", "a lot"])
def test_a_body_that_breaks_off_does_not_change_the_status(client: WebhookClient, length: int) -> None:
    with receiver(202, b"cut", length) as (port, _):
        assert post(client, f"http://127.0.0.1:{port}/") == 202


def test_proxies_of_the_environment_are_used_but_not_for_this_machine(
    client: WebhookClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiver(200) as (port, posts), receiver(201) as (proxy_port, proxied):
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy_port}")
        assert post(client, "http://hooks.example/a") == 201
        assert post(client, f"http://127.0.0.1:{port}/b") == 200
        assert post(client, f"http://localhost:{port}/c") == 200
    assert [one.target for one in proxied] == ["http://hooks.example/a"]
    assert [one.target for one in posts] == ["/b", "/c"]


def test_a_receiver_that_is_not_there_is_an_error_of_the_transport(client: WebhookClient) -> None:
    with pytest.raises(httpx2.TransportError):
        post(client, "http://127.0.0.1:9/")
