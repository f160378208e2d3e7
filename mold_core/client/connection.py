"""HTTP as the client needs it: requests with the key, errors from envelopes, server-sent events as they come.

The standard library does all of it, so a client is installed with the core alone.
"""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from ipaddress import IPv6Address
from typing import Any
from urllib.parse import urlsplit

import attrs

from mold_core.addresses import authority
from mold_core.client.envelopes import error_of
from mold_core.errors import MoldError, ServerError, SettingsError, UnreachableError

__all__ = ["Connection", "Frame", "server_address"]

DEFAULT_PORT = 7680

# Connecting is quick or not at all. A stream is never silent for long: the server sends a comment every ten seconds.
_CONNECT_TIMEOUT_S = 10.0
_STREAM_TIMEOUT_S = 60.0

_MAX_ERROR_BYTES = 64 * 1024


def server_address(host: str) -> str:
    """Return the address that a name means: ``name`` and ``name:port`` are http, the port 7680 where none is named.

    IPv6 addresses may stand without brackets. Raises SettingsError for what cannot be an address.
    """
    text = host.strip()
    address = text if "://" in text else f"http://{_bracketed(text)}"
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"\s|[^\x20-\x7e]", text):
        raise SettingsError(
            f"{host!r} is no address of a server",
            field="host",
            value=host,
            hint="such as gpu-box or http://10.0.0.5:7680",
        )
    if "://" not in text and port is None:
        port = DEFAULT_PORT
    called = authority(parts.hostname, port or 0).removesuffix(":0")
    credentials, at, _ = parts.netloc.rpartition("@")
    return f"{parts.scheme}://{credentials}{at}{called}{parts.path}".rstrip("/")


def _bracketed(text: str) -> str:
    """Return a bare IPv6 address in brackets, and all else as it is."""
    try:
        return f"[{IPv6Address(text.replace('%25', '%', 1))}]"
    except ValueError:
        return text


@attrs.frozen
class Frame:
    """One server-sent event: its name and its data, decoded."""

    event: str
    data: Any


@attrs.frozen
class Connection:
    """Where a server is and its key. Every request has a connection of its own, so threads may share it."""

    address: str
    api_key: str | None = attrs.field(default=None, repr=False)

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        timeout_s: float | None = _STREAM_TIMEOUT_S,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[bytes, http.client.HTTPMessage]:
        """Return body and headers of the answer. Raises the error that the server answers with, or UnreachableError."""
        with self._answer(method, path, body, headers or {}, timeout_s) as answer:
            return answer.read(), answer.headers

    def json(self, method: str, path: str, body: object = None, *, timeout_s: float | None = _STREAM_TIMEOUT_S) -> Any:
        """Return the JSON of the answer. Raises as `ask` does."""
        data, _ = self.ask(method, path, body, timeout_s=timeout_s, headers={"Accept": "application/json"})
        return self.decoded(data)

    def frames(self, method: str, path: str, body: object = None) -> Generator[Frame]:
        """Yield the events of a stream. Closing the iterator closes the connection. Raises as `ask` does."""
        with self._answer(method, path, body, {"Accept": "text/event-stream"}, _STREAM_TIMEOUT_S) as answer:
            event, data = "message", b""
            while line := answer.readline():
                name, _, value = line.rstrip(b"\r\n").partition(b":")
                if name == b"event":
                    event = value.strip().decode("utf-8", "replace")
                elif name == b"data":
                    data += value
                elif not line.strip() and data:
                    yield Frame(event, self.decoded(data))
                    event, data = "message", b""

    @contextmanager
    def _answer(
        self, method: str, path: str, body: object, headers: Mapping[str, str], timeout_s: float | None
    ) -> Iterator[http.client.HTTPResponse]:
        """Give the answer to a request; only network trouble inside the block becomes UnreachableError."""
        connection = self._connect()
        try:
            data = None if body is None else json.dumps(body).encode()
            sent = dict(headers)
            if data is not None:
                sent["Content-Type"] = "application/json"
            if self.api_key:
                # NOTE: http.client takes text as latin-1 only, and a key may be any text.
                sent["X-Api-Key"] = self.api_key.encode().decode("latin-1")
            connection.request(method, self._prefix() + path, data, sent)
            if connection.sock is not None:
                connection.sock.settimeout(timeout_s)
            # NOTE: an answer that was not read to its end keeps the socket open after connection.close().
            with closing(connection.getresponse()) as answer:
                if answer.status >= 400:
                    raise self._refusal(answer)
                yield answer
        except ConnectionRefusedError:
            refused = UnreachableError(f"there is no server at {self.address}", hint="start one there: mold serve")
            refused.refused = True
            raise refused from None
        except TimeoutError:
            raise UnreachableError(f"the server at {self.address} does not answer") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise UnreachableError(f"the server at {self.address} cannot be reached: {reason}") from None
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.address)
        assert parts.hostname is not None  # server_address has looked
        if parts.scheme == "https":
            return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=_CONNECT_TIMEOUT_S)
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=_CONNECT_TIMEOUT_S)

    def _prefix(self) -> str:
        return urlsplit(self.address).path.rstrip("/")

    def decoded(self, data: bytes) -> Any:
        """Return the JSON of a body. Raises ServerError for what is none."""
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise ServerError(
                f"{self.address} does not answer as a server of mold does", hint="check the address"
            ) from None

    def _refusal(self, answer: http.client.HTTPResponse) -> MoldError:
        """Return the error that an answer means."""
        try:
            envelope = json.loads(answer.read(_MAX_ERROR_BYTES))
            code, words = str(envelope["code"]), str(envelope["error"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return ServerError(f"the server at {self.address} answered {answer.status} {answer.reason}")
        if code == "UNAUTHORIZED":
            words += "; set MOLD_API_KEY to a key of the server"
        return error_of(code, words)
