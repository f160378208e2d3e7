"""Headers of trusted proxies: the address of the client, and the scheme, host and path of its request.

Any client can send X-Forwarded headers, so they are used only if the connection comes from an address in the setting
`trusted_proxies`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

import attrs
import falcon.asgi

from mold_core.errors import SettingsError
from mold_http.disconnect import App, Message, Receive, Send

__all__ = ["Proxies", "Site", "behind", "site_of"]

_KEY = "mold.site"
_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]{1,100}){1,10}")


@attrs.frozen
class Site:
    """The URL of the server as the client sees it. `prefix` is its path: empty, or such as ``/mold``."""

    scheme: str
    host: str
    prefix: str = ""

    @property
    def url(self) -> str:
        """URL of the server, without a slash at the end."""
        return f"{self.scheme}://{self.host}{self.prefix}"


def site_of(req: falcon.asgi.Request) -> Site:
    """Return the URL of the server as the client sees it."""
    forwarded: Site | None = req.scope.get(_KEY)
    return forwarded or Site(req.scheme, req.netloc)


class Proxies:
    """The trusted proxies, by address or network such as ``10.0.0.0/8``. Raises SettingsError."""

    def __init__(self, trusted: Iterable[str]) -> None:
        self._networks = tuple(map(_network, trusted))

    def __bool__(self) -> bool:
        return bool(self._networks)

    def trusts(self, address: str) -> bool:
        """Return whether an address is that of a trusted proxy."""
        ip = _ip(address)
        return ip is not None and any(ip in network for network in self._networks)

    def read(self, scope: Message) -> Message:
        """Return the scope of a request as a trusted proxy describes it, or unchanged."""
        peer, port = scope.get("client") or ("", 0)
        if not self.trusts(peer):
            return scope
        headers = _headers(scope)
        scheme = headers.get("x-forwarded-proto", "").lower()
        host, prefix = headers.get("x-forwarded-host", ""), headers.get("x-forwarded-prefix", "").rstrip("/")
        site = Site(
            scheme if scheme in ("http", "https") else scope["scheme"],
            host if _HOST.fullmatch(host) else headers.get("host", ""),
            prefix if _PREFIX.fullmatch(prefix) and not {"/.", "/.."} & set(re.findall("/[^/]*", prefix)) else "",
        )
        client = self._client(scope, peer)
        return {**scope, "scheme": site.scheme, "client": (client, port if client == peer else 0), _KEY: site}

    def _client(self, scope: Message, peer: str) -> str:
        """Return the last address that is not a trusted proxy; addresses before it may be forged."""
        client = peer
        for address in reversed(_values(scope, b"x-forwarded-for")):
            ip = _ip(address)
            if ip is None:
                return client
            client = str(ip)
            if not self.trusts(client):
                return client
        return client


def behind(proxies: Proxies, app: App) -> App:
    """Return `app` with the headers of trusted proxies applied."""

    async def described(scope: Message, receive: Receive, send: Send) -> None:
        await app(proxies.read(scope) if scope["type"] == "http" else scope, receive, send)

    return described if proxies else app


def _headers(scope: Message) -> dict[str, str]:
    """Return headers by name. Of several values the first, which the proxy nearest to the client has set."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1"), value.decode("latin-1").partition(",")[0].strip())
    return found


def _values(scope: Message, header: bytes) -> list[str]:
    texts = [value.decode("latin-1") for name, value in scope["headers"] if name == header]
    return [value.strip() for value in ",".join(texts).split(",") if value.strip()]


def _ip(text: str) -> IPv4Address | IPv6Address | None:
    """Parse an address with an optional port. An IPv4 address mapped into IPv6 becomes IPv4."""
    host = text[1:].partition("]")[0] if text.startswith("[") else text
    host = host.partition(":")[0] if host.count(":") == 1 else host
    try:
        ip: Any = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped: IPv4Address | None = getattr(ip, "ipv4_mapped", None)
    return mapped or ip


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text.strip(), strict=False)
    except ValueError:
        raise SettingsError(
            f"MOLD_TRUSTED_PROXIES must have addresses or networks, not {text!r}",
            field="trusted_proxies",
            value=text,
            hint="such as 127.0.0.1 or 10.0.0.0/8",
        ) from None
