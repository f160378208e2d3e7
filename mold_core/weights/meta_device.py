"""Build networks without weights, which are loaded from a file later."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["empty_modules"]


@contextmanager
def empty_modules() -> Iterator[None]:
    """Build modules inside the block on the meta device, without memory and random weights.

    PERF: on the meta device the first random numbers would import torch's compiler, which takes two seconds.
    """
    with torch.device("meta"), _WithoutInitialising():
        yield


class _WithoutInitialising(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))
