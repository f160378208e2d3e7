"""Spandrel's registry of architectures, imported without torchvision if that is missing.

Two of spandrel's architectures need torchvision: LaMa (inpainting) and RestoreFormer (face restoration). Neither is an
upscaler, and torchvision must match the build of torch. The other architectures work without it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

__all__ = ["registry"]

_REPLACED = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")


@cache
def registry() -> Any:
    """Return the registry, including non-commercial architectures if `spandrel_extra_arches` is installed."""
    with _without_torchvision():
        spandrel = import_module("spandrel")
        if find_spec("spandrel_extra_arches") is not None:
            import_module("spandrel_extra_arches").install(ignore_duplicates=True)
    return spandrel.MAIN_REGISTRY


@contextmanager
def _without_torchvision() -> Iterator[None]:
    """Define the names that spandrel imports from torchvision, if torchvision cannot be imported."""
    if "torchvision" in sys.modules or _works("torchvision"):
        yield
        return
    for name in _REPLACED:
        sys.modules[name] = ModuleType(name)
    functional: Any = sys.modules[_REPLACED[-1]]
    functional.InterpolationMode = type("InterpolationMode", (), {"BILINEAR": "bilinear"})
    functional.rotate = functional.normalize = None
    try:
        yield
    finally:
        for name in _REPLACED:
            sys.modules.pop(name, None)


def _works(name: str) -> bool:
    if find_spec(name) is None:
        return False
    try:
        import_module(name)
    except Exception:  # a build for another torch fails in several ways
        return False
    return True
