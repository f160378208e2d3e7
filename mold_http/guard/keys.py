"""API keys."""

from __future__ import annotations

import hmac
import time

from mold_core.settings.api_keys import read_api_keys
from mold_http.errors import RateLimitedError, UnauthorizedError
from mold_http.guard.rates import Bucket, Rate, network_of

__all__ = ["KeyGuard", "Keys", "read_keys"]

# Burst and rate per minute of wrong keys from one address.
_WRONG_KEYS = Rate(30, 60.0, 30)


def read_keys(setting: str | None) -> tuple[bytes, ...]:
    """Return the keys in MOLD_API_KEY, as clients send them. Raises SettingsError; see `read_api_keys`."""
    return tuple(key.encode() for key in read_api_keys(setting))


class Keys:
    """The keys of a server. Without keys, every client is allowed."""

    def __init__(self, keys: tuple[bytes, ...]) -> None:
        self._keys = keys

    @property
    def required(self) -> bool:
        """Whether a key is required."""
        return bool(self._keys)

    def knows(self, candidate: bytes) -> bool:
        """Return whether a key is valid, in constant time."""
        # NOTE: bytes, because compare_digest refuses text outside of ASCII; no early exit, which would reveal the
        # index.
        known = 0
        for key in self._keys:
            known |= hmac.compare_digest(key, candidate)
        return bool(known)


class KeyGuard:
    """Refuses requests without a valid key. Wrong keys have their own rate limit for each address.

    A valid key is accepted regardless of wrong ones from its address, because clients behind a proxy share an address.
    """

    def __init__(self, keys: Keys, rate: Rate = _WRONG_KEYS) -> None:
        self._keys = keys
        self._wrong = Bucket(rate)

    def check(self, key: str | None, address: str) -> None:
        """Raise UnauthorizedError for a missing or a wrong key, RateLimitedError for too many wrong ones."""
        if not self._keys.required:
            return
        if key is None:
            raise UnauthorizedError("missing X-Api-Key header")
        if self._keys.knows(key.encode("latin-1", "replace")):
            return
        wait_s = self._wrong.take(network_of(address), time.monotonic())
        if wait_s > 0:
            raise RateLimitedError("too many wrong API keys", headers={"Retry-After": str(int(wait_s) + 1)})
        raise UnauthorizedError("invalid API key")
