"""Error envelopes of the HTTP API → the errors that they stand for."""

from __future__ import annotations

from mold_core.errors import MoldError, ServerError, UnreachableError

__all__ = ["error_of"]


def error_of(code: str, message: str) -> MoldError:
    """Return the error that an envelope of the HTTP API means; one with a code of its own is a ServerError."""
    cls = _classes_by_code(MoldError).get(code)
    if cls is not None and cls is not UnreachableError:
        return cls(message)
    error = ServerError(message)
    error.code = code
    return error


def _classes_by_code(root: type[MoldError]) -> dict[str, type[MoldError]]:
    """Return the errors of mold_core, by code."""
    found = {root.code: root} if root.__module__ == MoldError.__module__ else {}
    for cls in root.__subclasses__():
        found |= _classes_by_code(cls)
    return found
