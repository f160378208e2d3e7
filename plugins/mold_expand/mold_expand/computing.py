"""The dtype and the number of threads that a language model computes with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from mold_core.families import compute_threads
from mold_core.weights import wide_dtype
from mold_expand.checkpoints import SMALL

if TYPE_CHECKING:
    from mold_core import ExpandContext
    from mold_expand.qwen3 import Qwen3

__all__ = ["precision_of", "threads_for"]


def precision_of(device: str) -> torch.dtype:
    """Return the dtype that large models compute in. Qwen3 was trained in bf16, and its values overflow fp16."""
    if device.startswith("cuda"):
        return wide_dtype(device, torch.cuda.get_device_capability(device))
    return torch.float16 if device.startswith("mps") else torch.bfloat16


@contextmanager
def threads_for(model: Qwen3, context: ExpandContext) -> Iterator[None]:
    """Compute with the threads of the settings inside; by default, a small model with one, which is faster."""
    count = context.threads
    if count is None and sum(parameter.numel() for parameter in model.parameters()) < SMALL:
        count = 1
    with compute_threads(count):
        yield
