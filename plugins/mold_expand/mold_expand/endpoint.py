"""Chat completions of an OpenAI-compatible server (Ollama, llama.cpp, vLLM, OpenAI), over httpx2.

Redirects are not followed, because they could send the key to another server. Content is not decompressed, so its size
is limited. httpx2 has timeouts for each read but none for a whole response, so a request is one asyncio task with a
deadline; cancelling the task closes its connection at once.
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
class _Response:
    status: int
    headers: Mapping[str, str]
    body: bytes


@attrs.frozen(kw_only=True)
class Endpoint:
    """A server with chat completions. `timeout_s` limits a request as a whole, including attempts and pauses.

    `url` is its root, with or without /v1; `key` is sent as a bearer token. HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and
    NO_PROXY apply, except to servers on this machine.
    """

    url: str
    model: str
    key: str | None = attrs.field(default=None, repr=False)
    timeout_s: float = 60.0
    first_wait_s: float = 0.5

    def __attrs_post_init__(self) -> None:
        url_parts = _split(self.url)
        if self.key and url_parts.scheme == "http" and url_parts.hostname not in _LOOPBACK:
            log.warning(
                "the key for prompt expansion is sent unencrypted: %s is not an https address", url_parts.netloc
            )

    def ask(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        check: Callable[[], object] = _NO_CHECK,
        **options: Any,
    ) -> str:
        """Return the model's response. `options` are other fields of the request (temperature, max_tokens, …).

        Retries busy and failing servers (429, 5xx) and broken connections, up to three attempts, after the pause in
        Retry-After. `check` is called while waiting and may raise. Raises InferenceError.
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
            if isinstance(result, _Response):
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

    async def _attempt(self, client: httpx2.AsyncClient, body: bytes, attempt: int) -> _Response | str:
        """Return the response, or the reason for its failure. Raises InferenceError if another attempt is useless."""
        import httpx2

        try:
            response = await _exchange(client, _address(self.url), body)
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
        if response.status != 200:
            log.warning(
                "prompt expansion: attempt %d of %d: %s: %s", attempt, _ATTEMPTS, _status(response), response.body[:500]
            )
            if response.status not in _RETRIED:
                raise self._failed(_status(response), hint=_HINTS.get(response.status))
        return response

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
    """Run a coroutine in its own event loop."""
    # NOTE: asyncio.run() would wait for a DNS lookup to end; closing the loop does not.
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(_checked(question, check))
    finally:
        loop.close()


async def _checked(question: Coroutine[Any, Any, str], check: Callable[[], object]) -> str:
    """Await a coroutine. Call `check` from time to time, and cancel the coroutine when it raises."""
    task = asyncio.ensure_future(question)
    try:
        while not (await asyncio.wait({task}, timeout=_POLL_S))[0]:
            check()
        return task.result()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task


async def _exchange(client: httpx2.AsyncClient, url: str, body: bytes) -> _Response:
    """Send one request and return the response, whose body is cut just above the limit. Raises TransportError."""
    content = b""
    async with client.stream("POST", url, content=body) as response:
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > _MOST_BYTES:
                break
    return _Response(response.status_code, response.headers, content)


def _caused_by(error: BaseException, *kinds: type[BaseException]) -> bool:
    return any(isinstance(cause, kinds) for cause in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes, including those in groups, which anyio raises for several addresses."""
    while error is not None:
        yield error
        for inner in getattr(error, "exceptions", ()):
            yield from _causes(inner)
        error = error.__cause__ or error.__context__


def _no_address(url: str) -> SettingsError:
    return SettingsError(
        f"the expansion backend {url[:80]!r} is not the address of a server",
        field="expand_backend",
        hint="use http://host:port, https://host, or local",
    )


def _address(url: str) -> str:
    url_parts = _split(url)
    path = url_parts.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path = f"{path}/chat/completions" if path.endswith("/v1") else f"{path}/v1/chat/completions"
    return url_parts._replace(path=path).geturl()


def _split(url: str) -> SplitResult:
    """Return the url_parts of a URL. Raises SettingsError unless it is http(s), and if it contains a password."""
    try:
        url_parts = urlsplit(url.strip())
        usable = (
            url_parts.scheme in ("http", "https")
            and bool(url_parts.hostname)
            and (url_parts.port is None or url_parts.port > 0)
        )
    except ValueError:
        usable = False
    if not usable or any(char.isspace() for char in url.strip()):
        raise _no_address(url)
    if url_parts.username or url_parts.password or url_parts.query or url_parts.fragment:
        raise SettingsError(
            "the address of the expansion backend must not contain a password, query or fragment",
            field="expand_backend",
            hint="set a key with MOLD_EXPAND_API_KEY",
        )
    return url_parts


def _content(response: _Response, failed: Callable[[str], InferenceError]) -> str:
    """Return the text of a chat completion."""
    if len(response.body) > _MOST_BYTES:
        raise failed("sent more than 1 MiB")
    try:
        document = json.loads(response.body)
        content = document["choices"][0]["message"]["content"]
        if isinstance(content, list):
            content = "".join(item["text"] for item in content if item.get("type") == "text")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        log.warning("prompt expansion: no chat completion: %s", response.body[:500])
        raise failed("did not answer with a chat completion") from None
    if not isinstance(content, str) or not content.strip():
        raise failed("answered with an empty text")
    return content


def _status(response: _Response) -> str:
    if 300 <= response.status < 400:
        return f"redirects elsewhere ({response.status}), which is not followed"
    reason = http.client.responses.get(response.status, "")
    return f"answered {response.status} {reason}".rstrip()


def _retry_after_s(value: str | None, otherwise_s: float) -> float:
    """Return the seconds of a Retry-After header, which has a number or a date."""
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
