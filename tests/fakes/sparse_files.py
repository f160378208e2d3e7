"""Weight files of real sizes that take no room on the disk: a whole header, and zeros that were never written."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

__all__ = ["Layout", "layout_of", "write_sparse"]

# Type and shape by name.
Layout = Mapping[str, tuple[str, tuple[int, ...]]]

_BYTES = {"BF16": 2, "F16": 2, "F32": 4, "F8_E4M3": 1}


def write_sparse(path: Path, layout: Layout) -> Path:
    """Write a safetensors file of zeros with these tensors."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (type_, shape) in layout.items():
        start, end = end, end + math.prod(shape) * _BYTES[type_]
        header[name] = {"dtype": type_, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return path


def layout_of(
    tensors: nn.Module | Mapping[str, torch.Tensor],
    type_: str,
    *,
    prefix: str = "",
    fp8: str = "",
    scaled: bool = False,
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the tensors of a network; matrices with `fp8` in their names in fp8, `scaled` with their scales."""
    state = tensors.state_dict() if isinstance(tensors, nn.Module) else tensors
    layout: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, tensor in state.items():
        quantised = bool(fp8) and fp8 in name and name.endswith(".weight") and tensor.ndim == 2
        layout[prefix + name] = ("F8_E4M3" if quantised else type_, tuple(tensor.shape))
        if quantised and scaled:
            layout[f"{prefix}{name}_scale"] = ("F32", ())
            layout[f"{prefix}{name.removesuffix('weight')}input_scale"] = ("F32", ())
    return layout
