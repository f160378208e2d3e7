"""Parses host names and IP addresses, with or without brackets, port, scope or scheme."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

__all__ = ["authority", "canonical_host", "listen_address"]

# Addresses that mean all interfaces → the address for clients on this machine.
_ANY = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}


def listen_address(text: str) -> tuple[str, int | None]:
    """Return host (without brackets) and port (or None) of an address to listen on.

    Raises ValueError for an invalid address.
    """
    text = text.strip()
    scheme, separator, rest = text.rpartition("://")
    if separator and scheme.lower() != "http":
        raise ValueError("only http:// is supported")
    rest = rest.removesuffix("/") if separator else rest
    if _is_ipv6(rest):
        return canonical_host(rest), None
    parts = urlsplit(f"//{rest}")
    if parts.path or parts.query or parts.fragment or "@" in rest or (separator and not parts.hostname):
        raise ValueError("it must be a host with an optional port")
    return canonical_host(parts.hostname or ""), parts.port


def canonical_host(host: str) -> str:
    """Return a host in its canonical spelling, without brackets. An IPv6 scope is `%eth0`, in URLs also `%25eth0`."""
    host = host.removeprefix("[").removesuffix("]").replace("%25", "%", 1)
    try:
        ip = ip_address(host)
    except ValueError:
        return host
    return str(ip)


def authority(host: str, port: int) -> str:
    """Return host and port for a URL. Addresses that mean all interfaces become the address of this machine."""
    host = _ANY.get(canonical_host(host), canonical_host(host))
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_ipv6(text: str) -> bool:
    """Return whether a text is an IPv6 address without brackets."""
    try:
        return isinstance(ip_address(text.replace("%25", "%", 1)), IPv6Address)
    except ValueError:
        return False
