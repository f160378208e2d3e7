"""The entry point of the plugin: spandrel's architectures, if spandrel is installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from mold_core import hookimpl

if TYPE_CHECKING:
    from mold_core import UpscalerArchitecture

__all__ = ["mold_upscalers"]


@hookimpl
def mold_upscalers() -> list[UpscalerArchitecture]:
    """Return one architecture, which covers all of spandrel's."""
    if find_spec("spandrel") is None:
        return []
    from mold_spandrel.architectures import Spandrel

    return [Spandrel()]
