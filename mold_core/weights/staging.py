"""Copies of mapped weights to a GPU through pinned memory.

A GPU cannot copy from a mapped file by itself: the driver copies each piece to pinned memory first and waits for it.
Here the host fills one pinned buffer while the GPU copies from the others, so reading the file and the transfer
overlap. Numbers are converted on the GPU, after the transfer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from attrs import Factory, define
from torch import Tensor

__all__ = ["copier_to"]

log = logging.getLogger("mold.weights")

_BUFFER_BYTES = 64 * 2**20
_BUFFERS = 3


def copier_to(device: str | torch.device | None) -> Callable[[Tensor], Tensor]:
    """Return a function that copies tensors to a device: to a CUDA device through pinned buffers, if available.

    Without a device it returns tensors unchanged. Copies are ordered before later work on the device's current stream.
    """
    if device is None:
        return lambda tensor: tensor
    if torch.device(device).type == "cuda":
        try:
            return _StagedCopier(device).copy
        except RuntimeError as error:  # pinning failed
            log.info("weights are copied without pinned memory: %s", str(error).partition("\n")[0])
    return lambda tensor: tensor.to(device)


@define(eq=False)
class _Buffer:
    """Pinned memory, and the event that is recorded after the GPU has read it."""

    memory: Tensor
    read: Any = Factory(lambda: torch.cuda.Event())


class _StagedCopier:
    """Copies tensors to one CUDA device. Its buffers are freed with it, once the GPU has read them."""

    def __init__(self, device: str | torch.device) -> None:
        self._device = device
        self._buffers = [
            _Buffer(torch.empty(_BUFFER_BYTES, dtype=torch.uint8, pin_memory=True)) for _ in range(_BUFFERS)
        ]
        self._next = 0

    def __del__(self) -> None:
        for buffer in self._buffers if hasattr(self, "_buffers") else ():
            buffer.read.synchronize()

    def copy(self, tensor: Tensor) -> Tensor:
        """Return a copy of a host tensor on the device, with the same dtype and shape."""
        if tensor.device.type != "cpu" or not tensor.numel():
            return tensor.to(self._device)
        out = torch.empty(tensor.shape, dtype=tensor.dtype, device=self._device)
        source, target = tensor.contiguous().view(-1).view(torch.uint8), out.view(-1).view(torch.uint8)
        for first in range(0, source.numel(), _BUFFER_BYTES):
            piece = source[first : first + _BUFFER_BYTES]
            self._send(piece, target[first : first + _BUFFER_BYTES])
        return out

    def _send(self, piece: Tensor, target: Tensor) -> None:
        buffer = self._buffers[self._next]
        self._next = (self._next + 1) % len(self._buffers)
        buffer.read.synchronize()  # returns immediately if the event was never recorded
        staged = buffer.memory[: piece.numel()]
        staged.copy_(piece)
        target.copy_(staged, non_blocking=True)
        buffer.read.record(torch.cuda.current_stream(self._device))
