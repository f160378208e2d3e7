"""Addresses as people write them: names, IPv4 and IPv6, in brackets or not, with a port, a scope or a scheme."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

__all__ = ["authority", "canonical_host", "listen_address"]

# Addresses that mean every one of a machine, and that one to call it by.
_ANY = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}


def listen_address(text: str) -> tuple[str, int | None]:
    """Return host, without brackets, and port (None where none is named) of an address to listen on.

    Raises ValueError for what is none.
    """
    text = text.strip()
    scheme, separator, rest = text.rpartition("://")
    if separator and scheme.lower() != "http":
        raise ValueError("only http:// can be listened on")
    rest = rest.removesuffix("/") if separator else rest
    if _is_ipv6(rest):
        return canonical_host(rest), None
    parts = urlsplit(f"//{rest}")
    if parts.path or parts.query or parts.fragment or "@" in rest or (separator and not parts.hostname):
        raise ValueError("it must be a host and perhaps a port")
    return canonical_host(parts.hostname or ""), parts.port


def canonical_host(host: str) -> str:
    """Return a host in one spelling, without brackets; an IPv6 scope is `%eth0`, which URLs may write `%25eth0`."""
    host = host.removeprefix("[").removesuffix("]").replace("%25", "%", 1)
    try:
        ip = ip_address(host)
    except ValueError:
        return host
    return str(ip)


def authority(host: str, port: int) -> str:
    """Return host and port as they stand in a URL that calls the host; addresses that mean all become this machine."""
    host = _ANY.get(canonical_host(host), canonical_host(host))
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_ipv6(text: str) -> bool:
    """Say whether a text is an IPv6 address without brackets."""
    try:
        return isinstance(ip_address(text.replace("%25", "%", 1)), IPv6Address)
    except ValueError:
        return False
