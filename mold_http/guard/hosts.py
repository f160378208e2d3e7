"""Checks the Host and Origin of requests.

A web page can make a browser call a server on localhost, including by DNS rebinding. So on the loopback interface the
Host header must name this machine, and changing requests from pages of other sites are refused. On other interfaces
with API keys, only the key decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

import falcon.asgi

from mold_core.errors import MalformedError
from mold_http.errors import ForbiddenError
from mold_http.guard.proxies import site_of

__all__ = ["HostRules", "is_loopback"]

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
_READING = frozenset({"GET", "HEAD", "OPTIONS"})


def is_loopback(address: str) -> bool:
    """Return whether an address or name is a loopback one."""
    if address == "localhost":
        return True
    try:
        ip = ip_address(address.strip("[]"))
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    return bool((mapped or ip).is_loopback)


class HostRules:
    """The allowed values of Host and Origin.

    `bind` is the address that the server listens on, `allowed` has further names with or without a port, `cors_origin`
    is a site whose pages may use the server.
    """

    def __init__(
        self, *, bind: str, port: int, keyed: bool, allowed: Iterable[str] = (), cors_origin: str | None = None
    ) -> None:
        names = [*_LOOPBACK_NAMES, *(name.lower() for name in allowed)]
        if is_loopback(bind):
            names.append(f"[{bind}]" if ":" in bind and not bind.startswith("[") else bind)
        self._hosts = frozenset({*names, *(f"{name}:{port}" for name in names)})
        self._check_host = is_loopback(bind)
        self._check_origin = is_loopback(bind) or not keyed
        self._cors_origin = cors_origin

    def check(self, req: falcon.asgi.Request) -> None:
        """Raise ForbiddenError for a request with another host or from another site's page.

        Raises MalformedError for an invalid Origin.
        """
        if _is_plain_health_check(req):
            return
        host = (req.get_header("Host") or "").lower()
        if self._check_host and host not in self._hosts:
            raise ForbiddenError(
                "the Host header must name this machine", hint="use localhost, or add the name to MOLD_ALLOWED_HOSTS"
            )
        origin = req.get_header("Origin")
        site = _site(origin) if origin is not None else host
        if not self._check_origin or req.method in _READING:
            return
        if origin is not None and origin == self._cors_origin:
            return
        foreign = site not in (host, site_of(req).host.lower())
        if foreign or req.get_header("Sec-Fetch-Site") == "cross-site":
            raise ForbiddenError(
                "pages of other sites may not use this server", hint="set MOLD_CORS_ORIGIN to allow one"
            )


def _site(origin: str) -> str:
    """Return host and port of an origin."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        raise MalformedError("the Origin header cannot be read") from None


def _is_plain_health_check(req: falcon.asgi.Request) -> bool:
    """Return whether this is HAProxy's default check: HTTP/1.0 without a Host header. Browsers never send that."""
    return req.path == "/health" and req.scope["http_version"] == "1.0" and req.get_header("Host") is None
