"""Errors of plugins, turned into mold's own."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from mold_core.errors import InferenceError, MoldError

__all__ = ["wrap_plugin_errors"]


@contextmanager
def wrap_plugin_errors(what: str) -> Iterator[None]:
    """Turn what a plugin raises, unless it is mold's own, into an InferenceError that says what was being done."""
    try:
        yield
    except MoldError:
        raise
    except (Exception, SystemExit) as error:
        traceback.clear_frames(error.__traceback__)  # whoever keeps the error shall not keep the tensors of its frames
        raise InferenceError("%s: %s", what, error) from error
