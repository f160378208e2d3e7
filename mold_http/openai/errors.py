"""Errors in the form of OpenAI's API."""

from __future__ import annotations

from typing import Any

from mold_core.errors import MoldError

__all__ = ["openai_error", "openai_headers"]

# Statuses that OpenAI's API answers with where mold has another.
_STATUSES = {422: 400}
_NO_MODEL = frozenset({"UNKNOWN_MODEL", "MODEL_NOT_FOUND"})

# Errors that a later retry may solve.
_WORTH_A_RETRY = frozenset({"RATE_LIMITED", "QUEUE_FULL", "INSUFFICIENT_MEMORY"})


def openai_error(error: MoldError) -> tuple[int, dict[str, Any]]:
    """Return the status and body of an error in the form of OpenAI's API."""
    status = 404 if error.code in _NO_MODEL else _STATUSES.get(error.http_status, error.http_status)
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    code = "model_not_found" if error.code in _NO_MODEL else error.code.lower()
    if status == 401:
        code = "invalid_api_key"
    body = {"message": error.to_json()["error"], "type": kind, "param": error.field, "code": code}
    return status, {"error": body}


def openai_headers(error: MoldError) -> dict[str, str]:
    """Return headers that stop OpenAI's clients from retrying, which they do by default after 409 and 500."""
    return {} if error.code in _WORTH_A_RETRY else {"X-Should-Retry": "false"}
