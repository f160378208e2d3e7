"""Behind a proxy: who it says the client is, and the URLs that the client can use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from http_server import Server, events, serving
from proxy import proxying

from mold_core.errors import SettingsError
from mold_http.guard.proxies import Proxies

SMALL = {"prompt": "a tree", "steps": 1, "width": 64, "height": 64}
FORWARDED = {
    "X_Forwarded_Proto": "https",
    "X_Forwarded_Host": "mold.example",
    "X_Forwarded_Prefix": "/mold/",
    "X_Forwarded_For": "203.0.113.9",
}


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server behind a trusted proxy on this machine."""
    with serving(tmp_path_factory.mktemp("trusting") / "home", MOLD_TRUSTED_PROXIES="127.0.0.0/8,10.1.2.3") as running:
        yield running


@pytest.fixture(scope="module")
def proxied(trusting: Server) -> Iterator[Server]:
    """The same server, called through the proxy at /mold."""
    with proxying(trusting.port, **FORWARDED) as port:
        yield attrs.evolve(trusting, port=port)


def test_urls_are_those_that_the_client_can_use(proxied: Server) -> None:
    openai = {"prompt": "a tree", "response_format": "url", "size": "64x64", "steps": 1}
    url = proxied.ask("POST", "/mold/v1/images/generations", openai).json()["data"][0]["url"]
    assert url.startswith("https://mold.example/mold/v1/images/files/mold-")
    name = url.rpartition("/")[2]
    as_json = proxied.ask("POST", "/mold/api/generate?image_data=url", SMALL, Accept="application/json").json()
    told = events(proxied.ask("POST", "/mold/api/generate/stream?image_data=url", SMALL).body)
    for image in (as_json["images"][0], told[-1][1]["images"][0]):
        assert proxied.ask("GET", image["url"]).type == "image/png"
    accepted = proxied.ask("POST", "/mold/api/jobs", {"kind": "generate", "request": SMALL})
    location = accepted.headers["location"]
    assert proxied.soon(location, lambda job: job["state"] == "done")
    assert proxied.ask("GET", f"{location}/events?image_data=url").body.count(b'"url":"/mold/api/gallery/image/') == 1
    assert proxied.ask("GET", f"/mold/api/gallery/image/{name}").status == 200
    assert proxied.ask("GET", "/mold/api/openapi.json").json()["servers"] == [{"url": "/mold"}]


def test_a_page_that_came_through_the_proxy_may_change_things(proxied: Server) -> None:
    assert proxied.ask("POST", "/mold/api/generate", {}, Origin="https://mold.example").status == 422
    assert proxied.ask("POST", "/mold/api/generate", {}, Origin="https://evil.example").status == 403


def test_clients_of_the_proxy_are_not_on_this_machine(trusting: Server, proxied: Server) -> None:
    assert proxied.ask("POST", "/mold/api/shutdown").status == 403
    assert proxied.ask("DELETE", "/mold/api/gallery/image/none.png").status == 403
    assert trusting.ask("DELETE", "/api/gallery/image/none.png").status == 204  # without a proxy


def test_what_nobody_trusted_says_is_ignored(server: Server) -> None:
    openai = {"prompt": "a tree", "response_format": "url", "size": "64x64", "steps": 1}
    url = server.ask("POST", "/v1/images/generations", openai, **FORWARDED).json()["data"][0]["url"]
    assert url.startswith(f"http://127.0.0.1:{server.port}/v1/images/files/")
    assert server.ask("DELETE", "/api/gallery/image/none.png", **FORWARDED).status == 204
    assert server.ask("POST", "/api/generate", {}, Origin="https://mold.example", **FORWARDED).status == 403


def test_each_client_of_a_proxy_has_a_rate_of_its_own(tmp_path: Path) -> None:
    limits = {"MOLD_RATE_LIMIT": "1/hour", "MOLD_RATE_LIMIT_BURST": "1", "MOLD_TRUSTED_PROXIES": "127.0.0.1"}
    with serving(tmp_path / "home", **limits) as limited:
        clients = ("203.0.113.1", "203.0.113.2", "8.8.8.8, 203.0.113.1", "203.0.113.3, 127.0.0.1")
        statuses = [limited.ask("POST", "/api/generate", {}, X_Forwarded_For=client).status for client in clients]
    assert statuses == [422, 422, 429, 422]


def test_the_host_header_is_looked_at_behind_a_proxy_too(trusting: Server) -> None:
    answer = trusting.ask("GET", "/api/status", Host="evil.example", X_Forwarded_Host="localhost")
    assert answer.status == 403


@pytest.mark.parametrize(
    ("headers", "url"),
    [
        ({}, "http://here:1"),
        ({"x-forwarded-proto": "https, http", "x-forwarded-host": "a.example, b"}, "https://a.example"),
        ({"x-forwarded-proto": "javascript", "x-forwarded-host": "a.example/x"}, "http://here:1"),
        ({"x-forwarded-host": "[::1]:80", "x-forwarded-prefix": "/a/b-c"}, "http://[::1]:80/a/b-c"),
        ({"x-forwarded-prefix": "/"}, "http://here:1"),
        ({"x-forwarded-prefix": "//evil.example"}, "http://here:1"),
        ({"x-forwarded-prefix": "/a/../b"}, "http://here:1"),
        ({"x-forwarded-prefix": '/"><script>'}, "http://here:1"),
    ],
)
def test_headers_that_make_no_url_are_ignored(headers: dict[str, str], url: str) -> None:
    pairs = [(name.encode(), value.encode()) for name, value in {"host": "here:1", **headers}.items()]
    scope = {"type": "http", "client": ("10.0.0.1", 5), "scheme": "http", "headers": pairs}
    read: Any = Proxies(["10.0.0.0/8"]).read(scope)
    assert read["mold.site"].url == url


def test_the_last_address_that_no_proxy_has_is_the_client() -> None:
    def client(said: str, peer: str = "10.0.0.1") -> str:
        scope = {
            "type": "http",
            "client": (peer, 5),
            "scheme": "http",
            "headers": [(b"x-forwarded-for", said.encode())],
        }
        return str(Proxies(["10.0.0.0/8", "::1"]).read(scope)["client"][0])

    assert client("1.1.1.1, 2.2.2.2, 10.0.0.2") == "2.2.2.2"
    assert client("2.2.2.2:4711") == "2.2.2.2"
    assert client("[2001:db8::1]:4711", "::1") == "2001:db8::1"
    assert client("2.2.2.2", "::ffff:10.0.0.1") == "2.2.2.2"
    assert client("1.1.1.1, unknown, 10.0.0.2") == "10.0.0.2"
    assert client("nonsense") == "10.0.0.1"
    assert client("2.2.2.2", "11.0.0.1") == "11.0.0.1"


def test_proxies_that_are_none_are_refused() -> None:
    with pytest.raises(SettingsError, match="must have addresses or networks, not 'nginx'"):
        Proxies(["nginx"])
