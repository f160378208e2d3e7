"""Converts exceptions of plugins to mold's errors."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from mold_core.errors import InferenceError, MoldError

__all__ = ["wrap_plugin_errors"]


@contextmanager
def wrap_plugin_errors(what: str) -> Iterator[None]:
    """Convert exceptions of a plugin, except mold's errors, to an InferenceError that starts with `what` failed."""
    try:
        yield
    except MoldError:
        raise
    except (Exception, SystemExit) as error:
        traceback.clear_frames(error.__traceback__)  # a stored error must not keep the tensors in its frames alive
        raise InferenceError("%s: %s", what, error) from error
