"""Chat completions of an OpenAI-compatible server (Ollama, llama.cpp, vLLM, OpenAI), over the standard library's HTTP.

http.client does what is needed here and no more: it follows no redirects, which could carry the key elsewhere, and
decodes nothing by itself. What it lacks is a limit on the time of a whole answer: the exchange runs in a thread of its
own, and its connection is closed when time is up or nobody waits any more.
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import json
import logging
import queue
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

import attrs

from mold_core import InferenceError, SettingsError

__all__ = ["Endpoint"]

log = logging.getLogger("mold.expand")

_MOST_BYTES = 1024 * 1024
_ATTEMPTS = 3
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_WAIT_S = 30.0
_POLL_S = 0.1
_NO_CHECK: Callable[[], object] = lambda: None  # noqa: E731


@attrs.frozen
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


@attrs.frozen(kw_only=True)
class Endpoint:
    """A server that completes chats. `timeout_s` is for one question in all, attempts and waits together.

    `url` is its root, with or without /v1; `key` is sent as a bearer token where it is given.
    """

    url: str
    model: str
    key: str | None = attrs.field(default=None, repr=False)
    timeout_s: float = 60.0
    first_wait_s: float = 0.5

    def __attrs_post_init__(self) -> None:
        parts = _split(self.url)
        if self.key and parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
            log.warning("the key for prompt expansion is sent unencrypted: %s is no https address", parts.netloc)

    def ask(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        check: Callable[[], object] = _NO_CHECK,
        **options: Any,
    ) -> str:
        """Return what the model answers. `options` are further fields of the request (temperature, max_tokens, …).

        Busy and failing servers (429, 5xx) and connections that fail are tried again, up to three times in all and as
        they ask with Retry-After. `check` is called while waiting and may raise. Raises InferenceError.
        """
        fields = {"model": self.model, "messages": list(messages), "stream": False, **options}
        body = json.dumps(fields).encode("ascii")
        deadline = time.monotonic() + self.timeout_s
        for attempt in range(1, _ATTEMPTS + 1):
            problem: str
            wait_s = self.first_wait_s * 2 ** (attempt - 1) * random.uniform(0.8, 1.2)
            try:
                answer = self._exchange(body, deadline, check)
            except (OSError, http.client.HTTPException) as error:
                log.warning(
                    "prompt expansion: attempt %d of %d failed: %s: %s", attempt, _ATTEMPTS, type(error).__name__, error
                )
                if isinstance(error, TimeoutError | ssl.SSLCertVerificationError):
                    raise self._failed(_reason(error, self.timeout_s)) from None
                problem = _reason(error, self.timeout_s)
            else:
                if answer.status == 200:
                    return _content(answer, self._failed)
                problem = _status(answer)
                log.warning(
                    "prompt expansion: attempt %d of %d: %s: %s", attempt, _ATTEMPTS, problem, answer.body[:500]
                )
                if answer.status not in _RETRIED:
                    raise self._failed(problem, hint=_HINTS.get(answer.status))
                wait_s = _retry_after_s(answer.headers.get("retry-after"), wait_s)
            if attempt == _ATTEMPTS:
                raise self._failed(f"{problem}, three times")
            if wait_s > min(_LONGEST_WAIT_S, deadline - time.monotonic()):
                raise self._failed(f"{problem}, and asks to wait {wait_s:.0f} s" if wait_s >= 1 else problem)
            _sleep(wait_s, check)
        raise AssertionError("unreachable")

    def _failed(self, problem: str, hint: str | None = None) -> InferenceError:
        where = _split(self.url).netloc
        return InferenceError(f"prompt expansion failed: the server {where} {problem}", hint=hint)

    def _exchange(self, body: bytes, deadline: float, check: Callable[[], object]) -> _Answer:
        """Send one request and return the answer. Raises OSError, among it TimeoutError, and HTTPException."""
        parts = _split(self.url)
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        secure = parts.scheme == "https"
        connection: http.client.HTTPConnection = (
            http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=left_s)
            if secure
            else http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=left_s)
        )
        done: queue.SimpleQueue[_Answer | BaseException] = queue.SimpleQueue()
        line: list[socket.socket] = []
        arguments = (connection, line, _path(parts), body, self._headers(), done)
        threading.Thread(target=_talk, args=arguments, daemon=True, name="mold-expand").start()
        try:
            while True:
                check()
                with contextlib.suppress(queue.Empty):
                    result = done.get(timeout=_POLL_S)
                    break
                if time.monotonic() > deadline:
                    raise TimeoutError
        finally:
            _hang_up(line)
        if isinstance(result, BaseException):
            raise result
        return result

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "mold"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        return headers


_HINTS = {
    401: "check MOLD_EXPAND_API_KEY",
    403: "check MOLD_EXPAND_API_KEY",
    404: "check MOLD_EXPAND_BACKEND, and that the server has the model of MOLD_EXPAND_API_MODEL",
}


def _split(url: str) -> SplitResult:
    """Return the parts of a URL. Raises SettingsError for one that is not http(s), or holds a password."""
    try:
        parts = urlsplit(url.strip())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or any(char.isspace() for char in url.strip()):
        raise SettingsError(
            f"the expansion backend {url[:80]!r} is no address of a server",
            field="expand_backend",
            hint="give http://host:port, https://host, or local",
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise SettingsError(
            "the address of the expansion backend may hold no password, query or fragment",
            field="expand_backend",
            hint="give a key as MOLD_EXPAND_API_KEY",
        )
    return parts


def _path(parts: SplitResult) -> str:
    path = parts.path.rstrip("/")
    if path.endswith("/chat/completions"):
        return path
    return f"{path}/chat/completions" if path.endswith("/v1") else f"{path}/v1/chat/completions"


def _talk(
    connection: http.client.HTTPConnection,
    line: list[socket.socket],
    path: str,
    body: bytes,
    headers: Mapping[str, str],
    done: queue.SimpleQueue[_Answer | BaseException],
) -> None:
    try:
        connection.connect()
        line.append(connection.sock)
        connection.request("POST", path, body, dict(headers))
        response = connection.getresponse()
        content = response.read(_MOST_BYTES + 1)
        done.put(_Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, content))
    except BaseException as error:  # it goes to the thread that waits
        done.put(error)
    finally:
        connection.close()


def _hang_up(line: list[socket.socket]) -> None:
    """End a connection that another thread may be reading from; closing alone would not wake that thread."""
    for sock in line:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def _content(answer: _Answer, failed: Callable[[str], InferenceError]) -> str:
    """Return the text of a chat completion."""
    if len(answer.body) > _MOST_BYTES:
        raise failed("sent more than 1 MiB")
    try:
        document = json.loads(answer.body)
        content = document["choices"][0]["message"]["content"]
        if isinstance(content, list):
            content = "".join(part["text"] for part in content if part.get("type") == "text")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        log.warning("prompt expansion: no chat completion: %s", answer.body[:500])
        raise failed("answered with something else than a chat completion") from None
    if not isinstance(content, str) or not content.strip():
        raise failed("answered with an empty text")
    return content


def _status(answer: _Answer) -> str:
    if 300 <= answer.status < 400:
        return f"redirects elsewhere ({answer.status}), which is not followed"
    reason = http.client.responses.get(answer.status, "")
    return f"answered {answer.status} {reason}".rstrip()


def _reason(error: Exception, timeout_s: float) -> str:
    if isinstance(error, TimeoutError):
        return f"did not answer within {timeout_s:g} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return "has a certificate that cannot be trusted"
    if isinstance(error, ConnectionRefusedError | socket.gaierror):
        return "cannot be reached"
    return "broke the connection off"


def _retry_after_s(value: str | None, otherwise_s: float) -> float:
    """Return the seconds that a Retry-After header names, as a number or a date."""
    if value is None:
        return otherwise_s
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return otherwise_s


def _sleep(seconds: float, check: Callable[[], object]) -> None:
    end = time.monotonic() + seconds
    while (left_s := end - time.monotonic()) > 0:
        check()
        time.sleep(min(_POLL_S, left_s))
