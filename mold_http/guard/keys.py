"""API keys: who may use the server."""

from __future__ import annotations

import hmac
from pathlib import Path

from mold_core.errors import SettingsError

__all__ = ["Keys", "read_keys"]


def read_keys(setting: str | None) -> tuple[bytes, ...]:
    """Return the keys that MOLD_API_KEY names: one, several with commas, or ``@file`` with one a line.

    In a file blank lines and what follows a ``#`` at the start of a line do not count. Raises SettingsError when the
    file cannot be read or holds no key, since a server that was meant to be locked must not start open.
    """
    text = (setting or "").strip()
    if not text.startswith("@"):
        return tuple(part.strip().encode() for part in text.split(",") if part.strip())
    path = Path(text[1:]).expanduser()
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise SettingsError(
            f"MOLD_API_KEY names {path}, which cannot be read: {error.strerror}", field="api_key"
        ) from None
    keys = tuple(line.strip() for line in lines if line.strip() and not line.strip().startswith(b"#"))
    if not keys:
        raise SettingsError(f"MOLD_API_KEY names {path}, which holds no key", field="api_key", hint="one key a line")
    return keys


class Keys:
    """The keys of a server. Without any, everybody is let in."""

    def __init__(self, keys: tuple[bytes, ...]) -> None:
        self._keys = keys

    @property
    def required(self) -> bool:
        """Whether a key is asked for."""
        return bool(self._keys)

    def knows(self, given: bytes) -> bool:
        """Say whether a key is one of ours; how long that takes tells nothing of which one or how far it matched."""
        # NOTE: bytes, because compare_digest refuses text beyond ASCII; and no early end, which would tell the place.
        known = 0
        for key in self._keys:
            known |= hmac.compare_digest(key, given)
        return bool(known)
