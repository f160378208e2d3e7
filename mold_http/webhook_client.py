"""Posts webhooks over httpx2: pooled connections, proxies of the environment, no redirects and no cookies."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING
from urllib.parse import SplitResult

if TYPE_CHECKING:
    import httpx2

__all__ = ["WebhookClient"]

_TIMEOUT_S = 10.0

# A body up to this size is read, so that its connection can be used again; otherwise the connection is closed.
_MAX_READ_BYTES = 4096

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


class WebhookClient:
    """One pool of connections; its methods may be called from any thread. httpx2 is imported by the first post."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._client: httpx2.Client | None = None

    def post(self, url: SplitResult, body: bytes, headers: Mapping[str, str]) -> int:
        """Post JSON and return the status of the response. Raises httpx2.TransportError, and InvalidURL."""
        import httpx2

        # NOTE: built from the checked components, so that a different URL parser cannot choose another host.
        target = httpx2.URL(
            scheme=url.scheme,
            host=url.hostname or "",
            port=url.port,
            raw_path=((url.path or "/") + (f"?{url.query}" if url.query else "")).encode("ascii"),
        )
        sent = {"Content-Type": "application/json", "User-Agent": "mold", **headers}
        with self._opened().stream("POST", target, content=body, headers=sent) as response:
            length = response.headers.get("content-length", "")
            if length.isdecimal() and int(length) <= _MAX_READ_BYTES:
                _drain(response)
            return response.status_code

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            if self._client is not None:
                self._client.close()

    def _opened(self) -> httpx2.Client:
        import httpx2

        with self._lock:
            if self._client is None:
                self._client = httpx2.Client(
                    timeout=_TIMEOUT_S,
                    follow_redirects=False,
                    mounts={f"all://{host}": None for host in _LOOPBACK},  # this machine is never behind a proxy
                )
                self._client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=()))
            return self._client


def _drain(response: httpx2.Response) -> None:
    import httpx2

    try:
        for _ in response.iter_raw():
            pass
    except httpx2.TransportError:
        return  # only the status matters, and it has been received
