"""Stop networks between two blocks when their job is cancelled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from mold_core.cancelling import check_cancelled

__all__ = ["check_before_block", "check_between_blocks"]

# PERF: a check takes 2 µs, a layer with this many weights at least 100 µs.
_LARGE = 2**15


def check_between_blocks(module: nn.Module) -> None:
    """Make a network call `check_cancelled` before each of its repeated blocks and its large convolutions.

    On a CPU, a step of a large transformer takes a minute, and one block a second. The check is a forward hook, so
    it does not affect code that is compiled block by block.
    """
    for block in _blocks(module):
        if check_before_block not in block._forward_pre_hooks.values():
            block.register_forward_pre_hook(check_before_block)


def check_before_block(module: nn.Module, arguments: Any) -> None:
    """Raise CancelledError if the job was cancelled; the hook that `check_between_blocks` registers."""
    if not torch.compiler.is_compiling():  # compiled code has no checks
        check_cancelled()


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the blocks and large layers in lists and sequences, and all large convolutions."""
    for parent in module.modules():
        if isinstance(parent, _ConvNd) and _is_large(parent):
            yield parent
        elif isinstance(parent, nn.ModuleList | nn.Sequential):
            yield from (block for block in parent if any(block.children()) or _is_large(block))


def _is_large(layer: nn.Module) -> bool:
    return sum(weight.numel() for weight in layer.parameters(recurse=False)) >= _LARGE
