"""Who may use the server, from where, and how often."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from http_server import Server, serving

from mold_core.errors import SettingsError
from mold_core.plugins import load_plugins
from mold_core.settings import Settings
from mold_http.guard.hosts import is_loopback
from mold_http.guard.keys import Keys, read_keys
from mold_http.guard.rates import Bucket, Rate, network_of, parse_rate
from mold_http.plugin_routes import all_routes
from mold_http.routes.table import PUBLIC_PATHS
from mold_http.routes.web import FILES

KEY = "first-key"
ROUTES = all_routes(load_plugins())  # of the installed plugins too
SPECIFIED_AS_PUBLIC = {"/health", "/api/docs", "/api/openapi.json", "/metrics"}


# --- keys ----------------------------------------------------------------------------------------------------------


def test_the_public_list_is_the_one_that_is_specified_and_the_files_of_pages() -> None:
    pages = {"/", "/api/docs/scalar.js"} | {f"/web/{name}" for name in FILES}
    assert SPECIFIED_AS_PUBLIC | pages == PUBLIC_PATHS


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_is_keyed_or_on_the_public_list(keyed: Server, route: object) -> None:
    path = route.path.replace("{name}", "a.png").replace("{id}", "1")  # type: ignore[attr-defined]
    answer = keyed.ask(route.method, path)  # type: ignore[attr-defined]
    if path in PUBLIC_PATHS:
        assert answer.status == 200
    else:
        assert answer.status == 401
        assert "missing X-Api-Key header" in answer.body.decode()
    assert answer.headers["x-request-id"]


def test_paths_that_do_not_exist_tell_nothing_without_a_key(keyed: Server) -> None:
    assert keyed.ask("GET", "/nope").status == 401
    assert keyed.ask("GET", "/api/docs/../status").status == 401
    assert keyed.ask("GET", "/health/").status == 401


@pytest.mark.parametrize("key", ["first-key", "third", "schlüssel".encode().decode("latin-1")])
def test_every_key_of_the_file_is_known(keyed: Server, key: str) -> None:
    assert keyed.ask("GET", "/api/status", X_Api_Key=key).status == 200


@pytest.mark.parametrize("key", ["", "first", "first-key2", "FIRST-KEY", "# who may", "first-key,third", "ÿ"])
def test_other_keys_are_not(keyed: Server, key: str) -> None:
    answer = keyed.ask("GET", "/api/status", X_Api_Key=key)
    assert answer.status == 401
    assert answer.json() == {"error": "invalid API key", "code": "UNAUTHORIZED"}


def test_a_missing_key_is_said_as_specified(keyed: Server) -> None:
    answer = keyed.ask("GET", "/api/status")
    assert answer.status == 401
    assert answer.json() == {"error": "missing X-Api-Key header", "code": "UNAUTHORIZED"}


def test_a_bearer_token_is_a_key_below_v1_only(keyed: Server) -> None:
    assert keyed.ask("GET", "/v1/models", Authorization="Bearer third").status == 200
    assert keyed.ask("GET", "/v1/models", Authorization="Bearer nope").status == 401
    assert keyed.ask("GET", "/v1/models", Authorization="Basic third").status == 401
    assert keyed.ask("GET", "/api/models", Authorization="Bearer third").status == 401


@pytest.mark.parametrize(
    ("setting", "keys"),
    [
        (None, ()),
        ("", ()),
        ("my-secret", (b"my-secret",)),
        ("key1, key2 ,,key3", (b"key1", b"key2", b"key3")),
    ],
)
def test_keys_of_a_setting(setting: str | None, keys: tuple[bytes, ...]) -> None:
    assert read_keys(setting) == keys


@pytest.mark.parametrize("setting", [",", " , ,", " ", "\t"])
def test_a_setting_without_any_key_does_not_open_the_server(setting: str) -> None:
    with pytest.raises(SettingsError, match="holds no key"):
        read_keys(setting)
    with pytest.raises(SettingsError, match="holds no key"):
        Settings(home=Path("."), api_key=setting).first_api_key()


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbffirst\nsecond\n",
        b"first\r\nsecond\r\n",
        b"# who\rfirst\rsecond",
        "first\r\nsecond\r\n".encode("utf-16"),
        "\ufefffirst\n\nsecond\n".encode("utf-16-be"),
        "first\nsecond".encode("utf-32"),
        b"first # of Anna\nsecond\t#\n   # nobody\n#\n",
        b"first\nsecond\x0c\n\x0b\n",
    ],
)
def test_files_of_keys_are_read_however_an_editor_saved_them(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "keys").write_bytes(data)
    setting = f"@{tmp_path / 'keys'}"
    assert read_keys(setting) == (b"first", b"second")
    assert Settings(home=tmp_path, api_key=setting).first_api_key() == "first"


def test_a_hash_within_a_key_is_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a#b\n")
    assert read_keys(f"@{tmp_path / 'keys'}") == (b"a#b",)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"first\n\nsch\xfcssel\n", 3),
        ("first\nsecond\n".encode("utf-16-le"), 1),
        (b"first\r\nsec\x00ond\r\n", 2),
        (b"first\n\x1b[2J\n", 2),
        ("first\n".encode("utf-16") + b"x", 2),
        ("first\nzero\u200bwidth\n".encode(), 2),
    ],
)
def test_what_is_no_key_in_a_file_is_refused_with_the_number_of_its_line(
    tmp_path: Path, data: bytes, line: int
) -> None:
    (tmp_path / "keys").write_bytes(data)
    with pytest.raises(SettingsError, match=f"line {line} of .*keys"):
        read_keys(f"@{tmp_path / 'keys'}")


def test_a_key_that_no_header_can_hold_is_refused() -> None:
    with pytest.raises(SettingsError, match="key 2 of MOLD_API_KEY"):
        read_keys("first,sec\nond")


def test_wrong_keys_count_against_a_rate_of_their_own(tmp_path: Path) -> None:
    with serving(tmp_path / "home", MOLD_API_KEY="right") as locked:
        answers = [locked.ask("GET", "/api/status", X_Api_Key=f"wrong {number}") for number in range(40)]
        statuses = [answer.status for answer in answers]
        assert statuses[:30] == [401] * 30
        assert statuses[-1] == 429
        assert answers[-1].json()["code"] == "RATE_LIMITED"
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert locked.ask("GET", "/v1/models", Authorization="Bearer wrong").status == 429
        assert locked.ask("GET", "/api/status").status == 401  # not a guess
        assert locked.ask("GET", "/api/status", X_Api_Key="right").status == 200


def test_a_file_of_keys_that_cannot_be_read_keeps_the_server_from_starting(tmp_path: object) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        read_keys(f"@{tmp_path}/none")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_keys("@")


def test_an_empty_file_of_keys_does_not_open_the_server(tmp_path: object) -> None:
    path = f"{tmp_path}/keys"
    with open(path, "w") as file:
        file.write("# nobody\n\n")
    with pytest.raises(SettingsError, match="holds no key"):
        read_keys(f"@{path}")


def test_every_key_is_compared_whichever_matches() -> None:
    keys = Keys((b"a", b"b", b"c"))
    assert all(map(keys.knows, (b"a", b"b", b"c")))
    assert not any(map(keys.knows, (b"", b"d", b"ab", b"\xff")))
    assert not Keys(()).required


# --- rates ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("10/min", Rate(10, 60, 20)),
        ("1/s", Rate(1, 1, 2)),
        ("3/Hour", Rate(3, 3600, 6)),
        ("90 / sec", Rate(90, 1, 100)),
    ],
)
def test_rates(text: str, rate: Rate) -> None:
    assert parse_rate(text, None) == rate


def test_a_burst_may_be_set() -> None:
    assert parse_rate("10/min", 3) == Rate(10, 60, 3)


@pytest.mark.parametrize("text", ["", "10", "0/s", "-1/s", "1/day", "1.5/s", "x/s", "10/min/min"])
def test_a_rate_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="MOLD_RATE_LIMIT"):
        parse_rate(text, None)


def test_a_bucket_starts_full_and_gains_a_token_in_the_time_of_one() -> None:
    bucket = Bucket(Rate(10, 60, 3))
    assert [bucket.take("a", 0.0) for _ in range(3)] == [0, 0, 0]
    assert bucket.take("a", 0.0) == pytest.approx(6)
    assert bucket.take("b", 0.0) == 0
    assert bucket.take("a", 5.9) == pytest.approx(0.1)
    assert bucket.take("a", 6.0) == 0
    assert bucket.take("a", 6.0) == pytest.approx(6)
    assert [bucket.take("a", 1000.0) for _ in range(3)] == [0, 0, 0]
    assert bucket.take("a", 1000.0) > 0


def test_a_bucket_remembers_so_many_addresses_and_no_more() -> None:
    bucket = Bucket(Rate(1, 60, 1), max_addresses=100)
    assert bucket.take("first", 0.0) == 0
    for number in range(99):
        bucket.take(str(number), 0.0)
    assert bucket.take("first", 0.0) > 0
    for number in range(1000):
        bucket.take(f"more {number}", 0.0)
    assert len(bucket) == 100


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("fe80::1%eth0", "fe80::"),
        ("nonsense:", "nonsense:"),
    ],
)
def test_an_ipv6_household_is_one_client(address: str, network: str) -> None:
    assert network_of(address) == network


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(
        tmp_path_factory.mktemp("limited") / "home", MOLD_RATE_LIMIT="2/hour", MOLD_RATE_LIMIT_BURST="2"
    ) as running:
        yield running


def test_a_client_that_asks_too_often_is_told_how_long_to_wait(limited: Server) -> None:
    work = [limited.ask("POST", "/api/generate", {}).status for _ in range(2)]
    refused = limited.ask("POST", "/api/generate", {})
    assert work == [422, 422]
    assert refused.status == 429
    assert refused.json() == {"error": "rate limit exceeded", "code": "RATE_LIMITED"}
    assert 1700 < int(refused.headers["retry-after"]) <= 1801
    assert refused.headers["x-request-id"]
    for path in ("/api/generate/chain", "/api/expand", "/api/upscale/stream", "/api/models/load", "/api/models/pull"):
        assert limited.ask("POST", path, {}).status == 429, path
    assert limited.ask("DELETE", "/api/models/unload").status == 429
    reads = [limited.ask("GET", "/api/status").status for _ in range(30)]
    assert reads == [200] * 20 + [429] * 10
    assert limited.ask("GET", "/api/gallery").status == 429
    assert limited.ask("GET", "/nope").status == 429
    for path in sorted(PUBLIC_PATHS):
        assert limited.ask("GET", path).status == 200, path


# --- hosts and origins ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7680", "localhost.evil.example", "127.0.0.1.evil", "", "::1"]
)
def test_only_requests_for_this_machine_are_answered(server: Server, host: str) -> None:
    answer = server.ask("GET", "/api/status", Host=host)
    assert answer.status in (400, 403)
    assert b"uptime" not in answer.body


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "[::1]", "localhost:{port}", "[::1]:{port}"])
def test_the_names_of_this_machine_are_known(server: Server, host: str) -> None:
    assert server.ask("GET", "/api/status", Host=host.format(port=server.port)).status == 200


def test_another_port_is_another_host(server: Server) -> None:
    assert server.ask("GET", "/api/status", Host=f"localhost:{server.port + 1}").status == 403


def test_a_name_may_be_allowed(keyed: Server) -> None:
    assert keyed.ask("GET", "/api/status", Host="mold.example", X_Api_Key=KEY).status == 200
    assert keyed.ask("GET", "/api/status", Host="other.example", X_Api_Key=KEY).status == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Sec_Fetch_Site": "cross-site"},
    ],
)
def test_pages_of_other_sites_cannot_change_anything(server: Server, headers: dict[str, str]) -> None:
    for method, path in (("POST", "/api/generate"), ("DELETE", "/api/models/unload"), ("POST", "/api/shutdown")):
        answer = server.ask(method, path, **headers)
        assert (answer.status, answer.json()["code"]) == (403, "FORBIDDEN")
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("origin", ["http://[::1", "http://[", "https://[v1]", "http://]"])
@pytest.mark.parametrize(("method", "path"), [("POST", "/api/generate"), ("GET", "/api/status"), ("GET", "/health")])
def test_an_origin_that_is_none_is_a_bad_request(server: Server, origin: str, method: str, path: str) -> None:
    answer = server.ask(method, path, Origin=origin)
    assert (answer.status, answer.json()["code"]) == (400, "BAD_REQUEST")


def test_pages_of_the_server_itself_can(server: Server) -> None:
    origin = f"http://localhost:{server.port}"
    host = f"localhost:{server.port}"
    assert server.ask("POST", "/api/generate", {}, Origin=origin, Host=host, Sec_Fetch_Site="same-origin").status == 422


def test_the_site_that_a_setting_names_may_use_the_server(keyed: Server) -> None:
    before = keyed.ask(
        "OPTIONS",
        "/api/generate",
        Origin="https://app.example",
        Access_Control_Request_Method="POST",
        Access_Control_Request_Headers="x-api-key, content-type",
    )
    assert before.status == 204
    assert before.headers["access-control-allow-origin"] == "https://app.example"
    assert "POST" in before.headers["access-control-allow-methods"]
    assert before.headers["access-control-allow-headers"] == "x-api-key, content-type"
    answer = keyed.ask("POST", "/api/generate", {}, Origin="https://app.example", X_Api_Key=KEY)
    assert answer.status == 422
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    exposed = answer.headers["access-control-expose-headers"].lower()
    for name in ("x-mold-seed-used", "x-request-id", "retry-after", "x-mold-dimension-warning", "x-mold-video-frames"):
        assert name in exposed


def test_no_other_site_may(keyed: Server) -> None:
    before = keyed.ask("OPTIONS", "/api/generate", Origin="https://evil.example", Access_Control_Request_Method="POST")
    assert "access-control-allow-origin" not in before.headers
    assert keyed.ask("POST", "/api/generate", {}, Origin="https://evil.example", X_Api_Key=KEY).status == 403


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("example.org", False),
    ],
)
def test_what_is_this_machine(address: str, local: bool) -> None:
    assert is_loopback(address) is local


# --- request ids and logs ------------------------------------------------------------------------------------------


def test_a_request_id_is_kept_where_it_is_harmless(server: Server) -> None:
    assert server.ask("GET", "/health", X_Request_ID="abc-123").headers["x-request-id"] == "abc-123"
    for strange in ("a b<c>", "x" * 65, "", "é"):
        assert server.ask("GET", "/health", X_Request_ID=strange).headers["x-request-id"] != strange


def test_a_request_id_of_the_server_is_a_uuid(server: Server) -> None:
    made = {server.ask("GET", "/health").headers["x-request-id"] for _ in range(5)}
    assert len(made) == 5
    for text in made:
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", text)  # RFC 9562


def test_logs_are_lines_of_json_with_the_ids_of_request_and_job(tmp_path: object) -> None:
    import subprocess
    import sys

    code = """
import logging
from mold_http.request_logging import configure_logs, _REQUEST_ID
configure_logs("info", "json")
_REQUEST_ID.set("abc")
logging.getLogger("mold.http").info("job accepted", extra={"job": "j1"})
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("mold.http").exception("failed\\nbadly")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = map(json.loads, done.stderr.splitlines())
    assert first["message"] == "job accepted"
    assert (first["request_id"], first["job"], first["level"]) == ("abc", "j1", "info")
    assert second["message"] == "failed\nbadly"
    assert "ZeroDivisionError" in second["exception"]
