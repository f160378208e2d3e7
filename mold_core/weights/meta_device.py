"""Networks without weights, to be filled from a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["empty_modules"]


@contextmanager
def empty_modules() -> Iterator[None]:
    """Let modules that are built inside have no memory (they are on the meta device) and draw no random weights.

    PERF: on the meta device the first draw would import torch's compiler, which takes two seconds.
    """
    with torch.device("meta"), _WithoutInitialising():
        yield


class _WithoutInitialising(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))
