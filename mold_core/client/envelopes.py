"""Converts JSON errors of the HTTP API to exceptions."""

from __future__ import annotations

from mold_core.errors import MoldError, ServerError, UnreachableError

__all__ = ["error_of"]


def error_of(code: str, message: str) -> MoldError:
    """Return the exception for an error code. A code that no class of mold_core has becomes a ServerError."""
    cls = _classes_by_code(MoldError).get(code)
    if cls is not None and cls is not UnreachableError:
        return cls(message)
    error = ServerError(message)
    error.code = code
    return error


def _classes_by_code(root: type[MoldError]) -> dict[str, type[MoldError]]:
    """Return the error classes of mold_core by code."""
    found = {root.code: root} if root.__module__ == MoldError.__module__ else {}
    for cls in root.__subclasses__():
        found |= _classes_by_code(cls)
    return found
