"""Expansion by an OpenAI-compatible server: a real one on loopback, which behaves or does not."""

from __future__ import annotations

import gzip
import threading
import time
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from openai_server import ChatServer, chat_server, completion, send

from mold_core import CancelledError, Engine, ExpandRequest, InferenceError, MoldError, SettingsError
from mold_core.testing import FakePlugin, SketchFamily, engine_with, sketch_model
from mold_expand import plugin
from mold_expand.endpoint import Endpoint

QUICK = {"expand_timeout_s": 120.0}


def failing(status: int, **headers: str) -> Any:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        send(
            handler,
            status,
            {"error": {"message": "secret detail"}},
            {k.replace("_", "-"): v for k, v in headers.items()},
        )

    return answer


def raw(body: bytes) -> Any:
    return lambda handler: send(handler, 200, body)


def sketching(server: ChatServer, **settings: Any) -> Any:
    fakes = FakePlugin(families=[SketchFamily()], models=[sketch_model("sketch:v1")])
    return engine_with(fakes, plugin, expand_backend=server.url, **{**QUICK, **settings})


def expanded(engine: Engine, prompt: str = "a cat", **fields: Any) -> tuple[str, ...]:
    return engine.expand(ExpandRequest(prompt=prompt, seed=7, **fields)).expanded


def test_one_prompt_is_asked_for_in_the_protocol() -> None:
    with chat_server("<think>hm</think>a fat cat") as server, sketching(server, expand_api_key="k1") as engine:
        response = engine.expand(ExpandRequest(prompt="a cat", seed=7, model_family="sdxl"))
    assert (response.original, response.expanded, response.seed_used) == ("a cat", ("a fat cat",), 7)
    (asked,) = server.asked
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["authorization"] == "Bearer k1"
    system, user = asked.body.pop("messages")
    assert (system["role"], user) == ("system", {"role": "user", "content": "a cat"})
    assert "at most 60 words" in system["content"]
    assert "SDXL" in system["content"]
    assert "{" not in system["content"]
    assert asked.body == {
        "model": "qwen2.5:3b", "stream": False, "temperature": 0.7, "top_p": 0.9, "max_tokens": 300, "seed": 7,
    }  # fmt: skip


@pytest.mark.parametrize(
    "answer",
    [
        '["one cat", "two cats", "three cats"]',
        "1. one cat\n2. two cats\n3. three cats",
        "<think>x\n</think>\none cat\ntwo cats\nthree cats",
    ],
    ids=["json", "numbered", "thoughts"],
)
def test_several_prompts_come_from_one_question(answer: str) -> None:
    with chat_server(answer) as server, sketching(server) as engine:
        assert expanded(engine, variations=3) == ("one cat", "two cats", "three cats")
    assert len(server.asked) == 1
    assert "3 prompts" in server.asked[0].body["messages"][0]["content"]
    assert server.asked[0].body["max_tokens"] == 900


def test_what_is_missing_of_several_is_asked_for_one_by_one() -> None:
    with chat_server('["one cat", "one cat"', "two cats", "three cats") as server, sketching(server) as engine:
        assert expanded(engine, variations=3) == ("one cat", "two cats", "three cats")
    assert len({asked.body["seed"] for asked in server.asked[1:]}) == 2


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/", "/v1/chat/completions", "/api/v1"])
def test_an_address_may_end_in_any_part_of_the_path(suffix: str) -> None:
    with chat_server("a fat cat") as server:
        assert Endpoint(url=server.url + suffix, model="m").ask([]) == "a fat cat"


def test_content_in_parts_is_put_together() -> None:
    parts = [{"type": "text", "text": "a fat"}, {"type": "text", "text": " cat"}]
    with chat_server(lambda handler: send(handler, 200, completion(parts))) as server:  # type: ignore[arg-type]
        assert Endpoint(url=server.url, model="m").ask([]) == "a fat cat"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_or_failing_server_is_asked_again(status: int) -> None:
    with chat_server(failing(status, Retry_After="0"), failing(status, Retry_After="0"), "a fat cat") as server:
        assert Endpoint(url=server.url, model="m").ask([]) == "a fat cat"
    assert len(server.asked) == 3


def test_a_server_that_goes_on_failing_is_given_up() -> None:
    with chat_server(failing(500)) as server, pytest.raises(InferenceError) as caught:
        Endpoint(url=server.url, model="m", first_wait_s=0.01).ask([])
    assert len(server.asked) == 3
    assert "answered 500 Internal Server Error, three times" in str(caught.value)
    assert "secret detail" not in str(caught.value)


def test_a_server_may_say_how_long_to_wait() -> None:
    with chat_server(failing(429, Retry_After="0.3"), "a fat cat") as server:
        started = time.monotonic()
        Endpoint(url=server.url, model="m", first_wait_s=0.0).ask([])
        assert time.monotonic() - started >= 0.3
    with chat_server(failing(429, Retry_After="3600")) as server, pytest.raises(InferenceError, match="wait 3600 s"):
        Endpoint(url=server.url, model="m").ask([])
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (raw(b'{"choices": ['), "did not answer with a chat completion"),
        (raw(b"<html>"), "did not answer with a chat completion"),
        (raw(b'{"choices": []}'), "did not answer with a chat completion"),
        (raw(b"[" * 100_000), "did not answer with a chat completion"),
        (raw(b'{"choices": [{"message": {"content": null}}]}'), "an empty text"),
        (raw(b" " * 1_100_000), "more than 1 MiB"),
        (failing(401), "answered 401 Unauthorized; check MOLD_EXPAND_API_KEY"),
        (failing(404), "check MOLD_EXPAND_BACKEND, and that the server has the model"),
        ("<think>and so on", "wrote no prompt"),
    ],
    ids=["cut off", "html", "no choice", "nested", "null", "huge", "401", "404", "thoughts alone"],
)
def test_an_answer_that_is_none_fails_cleanly(answer: Any, words: str) -> None:
    with chat_server(answer) as server, sketching(server) as engine, pytest.raises(InferenceError) as caught:
        expanded(engine)
    assert words in str(caught.value)
    assert str(caught.value).startswith("prompt expansion failed: ")
    assert "secret detail" not in str(caught.value)
    assert len(server.asked) == 1


def test_redirects_are_not_followed() -> None:
    with (
        chat_server("stolen") as elsewhere,
        chat_server(failing(307, Location=f"{elsewhere.url}/v1/chat/completions")) as server,
        pytest.raises(InferenceError, match=r"redirects elsewhere \(307\), which is not followed"),
    ):
        Endpoint(url=server.url, model="m", key="k1").ask([])
    assert elsewhere.asked == []


PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set the variables that name proxies; those that are not given are unset."""

    def set_(**variables: str) -> None:
        for name in PROXIES:
            monkeypatch.delenv(name.lower(), raising=False)
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_


def test_a_server_elsewhere_is_asked_through_the_proxy_of_the_environment(proxy: Any) -> None:
    with chat_server("a fat cat") as server:
        proxy(HTTP_PROXY=server.url)
        assert Endpoint(url="http://ai.example:8000/v1", model="m").ask([]) == "a fat cat"
    assert [asked.path for asked in server.asked] == ["http://ai.example:8000/v1/chat/completions"]
    assert server.asked[0].headers["host"] == "ai.example:8000"


def test_a_server_on_this_machine_is_asked_without_a_proxy(proxy: Any) -> None:
    with chat_server("a fat cat") as server:
        proxy(HTTP_PROXY="http://127.0.0.1:9", ALL_PROXY="http://127.0.0.1:9")
        assert Endpoint(url=server.url, model="m").ask([]) == "a fat cat"


def test_a_proxy_that_is_not_there_is_an_error_of_its_own(proxy: Any) -> None:
    proxy(HTTP_PROXY="http://127.0.0.1:9")
    with pytest.raises(InferenceError, match=r"the server ai\.example cannot be reached, three times"):
        Endpoint(url="http://ai.example", model="m", first_wait_s=0.01).ask([])


def test_a_compressed_answer_is_not_unpacked() -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    with chat_server(lambda handler: send(handler, 200, bomb, {"Content-Encoding": "gzip"})) as server:
        with pytest.raises(InferenceError, match="did not answer with a chat completion"):
            Endpoint(url=server.url, model="m").ask([])
        assert server.asked[0].headers["accept-encoding"] == "identity"


def test_attempts_share_a_connection() -> None:
    ports: list[int] = []

    def busy(handler: BaseHTTPRequestHandler) -> None:
        ports.append(handler.client_address[1])
        send(handler, 503, {}, {"Retry-After": "0"})

    with chat_server(busy) as server, pytest.raises(InferenceError, match="answered 503"):
        Endpoint(url=server.url, model="m").ask([])
    assert len(ports) == 3
    assert len(set(ports)) == 1


def hanging(server: list[ChatServer]) -> Any:
    return lambda handler: (server[0].released.wait(120), None)[1]


def dripping(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(200):
        handler.wfile.write(b" ")
        time.sleep(0.05)


@pytest.mark.parametrize("kind", ["hang", "drip"])
def test_a_server_that_does_not_come_to_an_end_is_left(kind: str) -> None:
    servers: list[ChatServer] = []
    with chat_server(hanging(servers) if kind == "hang" else dripping) as server:
        servers.append(server)
        with pytest.raises(InferenceError, match=r"did not answer within 0\.4 s"):
            Endpoint(url=server.url, model="m", timeout_s=0.4).ask([])
        assert len(server.asked) == 1


def test_a_job_that_waits_for_a_server_can_be_cancelled() -> None:
    servers: list[ChatServer] = []
    with chat_server(hanging(servers)) as server, sketching(server, expand_timeout_s=60.0) as engine:
        servers.append(server)
        job = engine.submit(ExpandRequest(prompt="a cat"))
        while not server.asked:
            time.sleep(0.01)
        job.cancel()
        with pytest.raises(CancelledError):
            job.result()
        server.answers[:] = ["a fat cat"]
        assert expanded(engine) == ("a fat cat",)  # the worker is free again, long before the time was up


def test_a_server_that_is_not_there_is_told() -> None:
    with pytest.raises(InferenceError, match=r"the server 127.0.0.1:9 cannot be reached, three times"):
        Endpoint(url="http://127.0.0.1:9", model="m", first_wait_s=0.01).ask([])


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("file:///etc/passwd", "not the address of a server"),
        ("http://", "not the address of a server"),
        ("http://host:99999/", "not the address of a server"),
        ("http://a b/", "not the address of a server"),
        ("http://me:secret@host/", "not contain a password"),
    ],
)
def test_an_address_that_cannot_be_one_is_refused_when_the_request_comes(url: str, words: str) -> None:
    with engine_with(plugin, expand_backend=url) as engine, pytest.raises(SettingsError, match=words) as caught:
        engine.submit(ExpandRequest(prompt="a cat", model_family="flux"))
    assert "secret" not in str(caught.value)


def test_a_key_is_not_shown() -> None:
    assert "k1" not in repr(Endpoint(url="http://127.0.0.1", model="m", key="k1"))
    with engine_with(plugin, expand_api_key="k1") as engine:
        assert "k1" not in repr(engine.settings)


def test_own_templates_and_styles_reach_the_server() -> None:
    own = {
        "expand_system_prompt": "In {WORD_LIMIT} words. {MODEL_NOTES} Keep {braces}.",
        "expand_batch_prompt": "{N} of {WORD_LIMIT}.",
        "expand_families": {"sketch": {"word_limit": 9, "style_notes": "Be brief."}},
    }
    with chat_server("a fat cat", '["a", "b"]') as server, sketching(server, **own) as engine:
        expanded(engine, model="sketch:v1")
        expanded(engine, model="sketch:v1", variations=2)
    told = [asked.body["messages"][0]["content"] for asked in server.asked]
    assert told == ["In 9 words. Be brief. Keep {braces}.", "2 of 9."]


def test_errors_are_molds_own_whatever_the_server_does() -> None:
    closing = threading.Event()

    def close(handler: BaseHTTPRequestHandler) -> None:
        closing.set()
        handler.close_connection = True
        handler.connection.close()

    with chat_server(close) as server, pytest.raises(MoldError, match="broke the connection off, three times"):
        Endpoint(url=server.url, model="m", first_wait_s=0.01).ask([])
    assert closing.is_set()
