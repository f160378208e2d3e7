"""Chat completions of an OpenAI-compatible server (Ollama, llama.cpp, vLLM, OpenAI), over httpx2.

No redirect is followed, as it could carry the key elsewhere, and no content is decompressed, so that the limit on its
size holds. httpx2 has timeouts for each read but none for a whole answer: a question is one asyncio task with a
deadline, and cancelling that task closes its connection at once.
"""

from __future__ import annotations

import asyncio
import email.utils
import http.client
import json
import logging
import random
import socket
import ssl
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

import attrs

from mold_core import InferenceError, SettingsError

if TYPE_CHECKING:
    import httpx2

__all__ = ["Endpoint"]

log = logging.getLogger("mold.expand")

_MOST_BYTES = 1024 * 1024
_ATTEMPTS = 3
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_WAIT_S = 30.0
_POLL_S = 0.1
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_NO_CHECK: Callable[[], object] = lambda: None  # noqa: E731


@attrs.frozen
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


@attrs.frozen(kw_only=True)
class Endpoint:
    """A server that completes chats. `timeout_s` limits one question as a whole: attempts and pauses together.

    `url` is its root, with or without /v1; `key` is sent as a bearer token if given. HTTP_PROXY, HTTPS_PROXY,
    ALL_PROXY and NO_PROXY are honoured, except for servers on this machine.
    """

    url: str
    model: str
    key: str | None = attrs.field(default=None, repr=False)
    timeout_s: float = 60.0
    first_wait_s: float = 0.5

    def __attrs_post_init__(self) -> None:
        parts = _split(self.url)
        if self.key and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            log.warning("the key for prompt expansion is sent unencrypted: %s is not an https address", parts.netloc)

    def ask(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        check: Callable[[], object] = _NO_CHECK,
        **options: Any,
    ) -> str:
        """Return the model's answer. `options` are further fields of the request (temperature, max_tokens, …).

        Retries busy and failing servers (429, 5xx) and broken connections, three attempts in all, after the pause that
        Retry-After names. `check` is called while waiting and may raise. Raises InferenceError.
        """
        fields = {"model": self.model, "messages": list(messages), "stream": False, **options}
        return _run(self._ask(json.dumps(fields).encode("ascii")), check)

    async def _ask(self, body: bytes) -> str:
        import httpx2

        try:
            async with asyncio.timeout(self.timeout_s), self._client() as client:
                return await self._attempts(client, body, asyncio.get_running_loop().time() + self.timeout_s)
        except TimeoutError:
            raise self._failed(f"did not answer within {self.timeout_s:g} s") from None
        except httpx2.InvalidURL:
            raise _no_address(self.url) from None

    async def _attempts(self, client: httpx2.AsyncClient, body: bytes, deadline: float) -> str:
        for attempt in range(1, _ATTEMPTS + 1):
            wait_s = self.first_wait_s * 2 ** (attempt - 1) * random.uniform(0.8, 1.2)
            result = await self._attempt(client, body, attempt)
            if isinstance(result, _Answer):
                if result.status == 200:
                    return _content(result, self._failed)
                problem = _status(result)
                wait_s = _retry_after_s(result.headers.get("retry-after"), wait_s)
            else:
                problem = result
            if attempt == _ATTEMPTS:
                raise self._failed(f"{problem}, three times")
            if wait_s > min(_LONGEST_WAIT_S, deadline - asyncio.get_running_loop().time()):
                raise self._failed(f"{problem}, and asks to wait {wait_s:.0f} s" if wait_s >= 1 else problem)
            await asyncio.sleep(wait_s)
        raise AssertionError("unreachable")

    async def _attempt(self, client: httpx2.AsyncClient, body: bytes, attempt: int) -> _Answer | str:
        """Return an answer, or why there is none. Raises InferenceError for what another attempt cannot mend."""
        import httpx2

        try:
            answer = await _exchange(client, _address(self.url), body)
        except httpx2.TransportError as error:
            log.warning(
                "prompt expansion: attempt %d of %d failed: %s: %s", attempt, _ATTEMPTS, type(error).__name__, error
            )
            if _caused_by(error, ssl.SSLCertVerificationError):
                raise self._failed("has a certificate that cannot be trusted") from None
            unreachable = _caused_by(error, ConnectionRefusedError, socket.gaierror) or isinstance(
                error, httpx2.ProxyError
            )
            return "cannot be reached" if unreachable else "broke the connection off"
        if answer.status != 200:
            log.warning(
                "prompt expansion: attempt %d of %d: %s: %s", attempt, _ATTEMPTS, _status(answer), answer.body[:500]
            )
            if answer.status not in _RETRIED:
                raise self._failed(_status(answer), hint=_HINTS.get(answer.status))
        return answer

    def _client(self) -> httpx2.AsyncClient:
        import httpx2

        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "mold",
        }
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        use_proxy = _split(self.url).hostname not in _LOOPBACK
        return httpx2.AsyncClient(headers=headers, timeout=None, trust_env=use_proxy, follow_redirects=False)

    def _failed(self, problem: str, hint: str | None = None) -> InferenceError:
        where = _split(self.url).netloc
        return InferenceError(f"prompt expansion failed: the server {where} {problem}", hint=hint)


_HINTS = {
    401: "check MOLD_EXPAND_API_KEY",
    403: "check MOLD_EXPAND_API_KEY",
    404: "check MOLD_EXPAND_BACKEND, and that the server has the model of MOLD_EXPAND_API_MODEL",
}


def _run(question: Coroutine[Any, Any, str], check: Callable[[], object]) -> str:
    """Run a coroutine in a loop of its own."""
    # NOTE: asyncio.run() would wait for a name that is still being looked up; closing the loop does not.
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(_checked(question, check))
    finally:
        loop.close()


async def _checked(question: Coroutine[Any, Any, str], check: Callable[[], object]) -> str:
    """Await a coroutine; call `check` meanwhile, and cancel the coroutine when that raises."""
    task = asyncio.ensure_future(question)
    try:
        while not (await asyncio.wait({task}, timeout=_POLL_S))[0]:
            check()
        return task.result()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task


async def _exchange(client: httpx2.AsyncClient, url: str, body: bytes) -> _Answer:
    """Send one request and return the answer; its body is cut a little above the limit. Raises TransportError."""
    content = b""
    async with client.stream("POST", url, content=body) as response:
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > _MOST_BYTES:
                break
    return _Answer(response.status_code, response.headers, content)


def _caused_by(error: BaseException, *kinds: type[BaseException]) -> bool:
    return any(isinstance(cause, kinds) for cause in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it was raised for, in groups too, as anyio raises them for several addresses."""
    while error is not None:
        yield error
        for inner in getattr(error, "exceptions", ()):
            yield from _causes(inner)
        error = error.__cause__ or error.__context__


def _no_address(url: str) -> SettingsError:
    return SettingsError(
        f"the expansion backend {url[:80]!r} is not the address of a server",
        field="expand_backend",
        hint="give http://host:port, https://host, or local",
    )


def _address(url: str) -> str:
    parts = _split(url)
    path = parts.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path = f"{path}/chat/completions" if path.endswith("/v1") else f"{path}/v1/chat/completions"
    return parts._replace(path=path).geturl()


def _split(url: str) -> SplitResult:
    """Return the parts of a URL. Raises SettingsError unless it is http(s), and for one that holds a password."""
    try:
        parts = urlsplit(url.strip())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or any(char.isspace() for char in url.strip()):
        raise _no_address(url)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise SettingsError(
            "the address of the expansion backend must not hold a password, query or fragment",
            field="expand_backend",
            hint="give a key as MOLD_EXPAND_API_KEY",
        )
    return parts


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
        raise failed("did not answer with a chat completion") from None
    if not isinstance(content, str) or not content.strip():
        raise failed("answered with an empty text")
    return content


def _status(answer: _Answer) -> str:
    if 300 <= answer.status < 400:
        return f"redirects elsewhere ({answer.status}), which is not followed"
    reason = http.client.responses.get(answer.status, "")
    return f"answered {answer.status} {reason}".rstrip()


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
