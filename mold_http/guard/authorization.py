"""Keys in the header Authorization, for routes whose clients send none in X-Api-Key."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable

from mold_http.routes.route import Route, Scheme

__all__ = ["Authorization"]


class Authorization:
    """Finds the key in the header, by the scheme of the route: a bearer token, or the password of basic."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._schemes: list[tuple[re.Pattern[str], Scheme]] = [(re.compile("/v1/.*", re.DOTALL), "bearer")]
        for route in routes:
            if route.scheme is not None:
                self._schemes.append((_pattern(route), route.scheme))

    def key_of(self, path: str, header: str | None) -> str | None:
        """Return the key; None without one, and for a path or a scheme where the header does not count."""
        if header is None:
            return None
        scheme, _, credentials = header.partition(" ")
        for pattern, expected in self._schemes:
            if expected == scheme.lower() and pattern.fullmatch(path):
                return credentials.strip() if expected == "bearer" else _password(credentials)
        return None


def _pattern(route: Route) -> re.Pattern[str]:
    """Return the pattern of the paths of a route; the parameter `rest` may contain slashes."""
    fixed, *pairs = re.split(r"{(\w+)}", route.path)
    pattern = re.escape(fixed)
    for name, text in zip(pairs[::2], pairs[1::2], strict=True):
        pattern += (".+" if name == route.rest else "[^/]+") + re.escape(text)
    return re.compile(pattern)


def _password(credentials: str) -> str | None:
    """Return the password of basic credentials, or the name if the password is empty; None for malformed ones."""
    try:
        # Latin-1, like X-Api-Key: the key is compared byte by byte.
        name, _, password = base64.b64decode(credentials.strip(), validate=True).decode("latin-1").partition(":")
    except (binascii.Error, ValueError):
        return None
    return password or name
