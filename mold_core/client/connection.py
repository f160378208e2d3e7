"""The HTTP connection of the client: requests with the API key, JSON, errors, server-sent events.

It uses only the standard library, so that a client needs no packages beyond the core.
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

# The server sends a comment into silent streams every ten seconds, so a minute without data means it is gone.
_CONNECT_TIMEOUT_S = 10.0
_STREAM_TIMEOUT_S = 60.0

_MAX_ERROR_BYTES = 64 * 1024


def server_address(host: str) -> str:
    """Return the URL of a server: ``name`` and ``name:port`` mean http, with 7680 as the default port.

    Brackets around IPv6 addresses are optional. Raises SettingsError for an invalid address.
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
            f"{host!r} is not a server address",
            field="host",
            value=host,
            hint="use a name or URL such as gpu-box or http://10.0.0.5:7680",
        )
    if "://" not in text and port is None:
        port = DEFAULT_PORT
    host_and_port = authority(parts.hostname, port or 0).removesuffix(":0")
    credentials, at, _ = parts.netloc.rpartition("@")
    return f"{parts.scheme}://{credentials}{at}{host_and_port}{parts.path}".rstrip("/")


def _bracketed(text: str) -> str:
    """Return a bare IPv6 address in brackets, and any other text unchanged."""
    try:
        return f"[{IPv6Address(text.replace('%25', '%', 1))}]"
    except ValueError:
        return text


@attrs.frozen
class Frame:
    """One server-sent event: its name and its decoded JSON data."""

    event: str
    data: Any


@attrs.frozen
class Connection:
    """The URL and API key of a server. Every request opens its own connection, so threads may share the object."""

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
        """Return body and headers of the response. Raises the error that the server responds with, or UnreachableError.

        `timeout_s` limits the silence between two received packets, not the whole request.
        """
        with self._response(method, path, body, headers or {}, timeout_s) as response:
            return response.read(), response.headers

    def json(self, method: str, path: str, body: object = None, *, timeout_s: float | None = _STREAM_TIMEOUT_S) -> Any:
        """Return the decoded JSON of the response. Raises as `ask` does."""
        data, _ = self.ask(method, path, body, timeout_s=timeout_s, headers={"Accept": "application/json"})
        return self.decoded(data)

    def frames(self, method: str, path: str, body: object = None) -> Generator[Frame]:
        """Yield the events of a stream. Closing the iterator closes the connection. Raises as `ask` does."""
        with self._response(method, path, body, {"Accept": "text/event-stream"}, _STREAM_TIMEOUT_S) as response:
            event, data = "message", b""
            while line := response.readline():
                name, _, value = line.rstrip(b"\r\n").partition(b":")
                if name == b"event":
                    event = value.strip().decode("utf-8", "replace")
                elif name == b"data":
                    data += value
                elif not line.strip() and data:
                    yield Frame(event, self.decoded(data))
                    event, data = "message", b""

    @contextmanager
    def _response(
        self, method: str, path: str, body: object, headers: Mapping[str, str], timeout_s: float | None
    ) -> Iterator[http.client.HTTPResponse]:
        """Yield the response to a request. Network errors inside the block become UnreachableError."""
        connection = self._connect()
        try:
            data = None if body is None else json.dumps(body).encode()
            all_headers = dict(headers)
            if data is not None:
                all_headers["Content-Type"] = "application/json"
            if self.api_key:
                # NOTE: http.client encodes header text as latin-1 only, and a key may contain any characters.
                all_headers["X-Api-Key"] = self.api_key.encode().decode("latin-1")
            connection.request(method, self._prefix() + path, data, all_headers)
            if connection.sock is not None:
                connection.sock.settimeout(timeout_s)
            # NOTE: a response that was not read completely keeps the socket open after connection.close().
            with closing(connection.getresponse()) as response:
                if response.status >= 400:
                    raise self._refusal(response)
                yield response
        except ConnectionRefusedError:
            refused = UnreachableError(f"there is no server at {self.address}", hint="start one there: mold serve")
            refused.refused = True
            raise refused from None
        except TimeoutError:
            raise UnreachableError(f"the server at {self.address} does not respond") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise UnreachableError(f"the server at {self.address} cannot be reached: {reason}") from None
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.address)
        assert parts.hostname is not None  # server_address checks it
        if parts.scheme == "https":
            return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=_CONNECT_TIMEOUT_S)
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=_CONNECT_TIMEOUT_S)

    def _prefix(self) -> str:
        return urlsplit(self.address).path.rstrip("/")

    def decoded(self, data: bytes) -> Any:
        """Return the decoded JSON of a body. Raises ServerError if it is not JSON."""
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise ServerError(f"{self.address} does not respond like a mold server", hint="check the address") from None

    def _refusal(self, response: http.client.HTTPResponse) -> MoldError:
        """Return the error that an error response stands for."""
        try:
            envelope = json.loads(response.read(_MAX_ERROR_BYTES))
            code, message = str(envelope["code"]), str(envelope["error"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return ServerError(f"the server at {self.address} responded with {response.status} {response.reason}")
        if code == "UNAUTHORIZED":
            message += "; set MOLD_API_KEY to a key of the server"
        return error_of(code, message)
