"""Weight files of any format → tensors by name. Formats are told by content, never by a file's name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from mold_core.errors import CheckpointError
from mold_core.weights.gguf_files import GGUF
from mold_core.weights.safetensors_files import SAFETENSORS
from mold_core.weights.source import TensorSource

if TYPE_CHECKING:
    from torch import Tensor

    from mold_core.hookspecs import WeightLoader
    from mold_core.weights.packed import PackedTensor

__all__ = ["BUILT_IN", "open_weights", "read_weights"]

BUILT_IN: tuple[WeightLoader, ...] = (GGUF, SAFETENSORS)

# What stands beside an fp8 `weight`: the scale to multiply it with, that to divide inputs by, and what is not needed.
_SCALES = ("weight_scale", "scale_weight")
_INPUT_SCALES = ("input_scale", "scale_input")
_UNUSED = ("comfy_quant",)
_MARK = "scaled_fp8"


def open_weights(path: Path, loaders: Iterable[WeightLoader] = ()) -> Mapping[str, TensorSource]:
    """Return the tensors of a weight file by name: shapes, types and sizes from its header, numbers when read.

    `loaders` are tried after mold's own, for safetensors and GGUF. Raises CheckpointError naming the path for a file
    that is unreadable, damaged, or of another format; files of pickled objects, which can run code, are never read.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise CheckpointError("%s: the file cannot be read: %s", path, error) from None
    for loader in (*BUILT_IN, *loaders):
        if loader.recognises(path, head):
            return loader.open(path)
    if head.startswith((b"PK\x03\x04", b"\x80")):
        raise CheckpointError(
            "%s: this is a pickle file (.pt, .pth, .ckpt, .bin), which can run code when it is loaded;"
            " mold reads safetensors and GGUF files only",
            path,
        )
    raise CheckpointError(
        "%s: %s", path, "this is neither a safetensors nor a GGUF file" if head else "the file is empty"
    )


def read_weights(path: Path, loaders: Iterable[WeightLoader] = ()) -> dict[str, Tensor | PackedTensor]:
    """Return all tensors of a file by name, sharing the memory of the mapped file.

    Quantised ones are PackedTensors. What some files store beside an fp8 weight goes with it: its scale
    (``weight_scale`` or ``scale_weight``) and that of its input become its own, marks are left out. Raises
    CheckpointError as `open_weights` does.
    """
    tensors = {name: source.read() for name, source in open_weights(path, loaders).items()}
    try:
        return _with_scales(tensors)
    except CheckpointError as error:
        raise CheckpointError("%s: %s", path, error) from None


def _with_scales(tensors: dict[str, Tensor | PackedTensor]) -> dict[str, Tensor | PackedTensor]:
    from torch import Tensor

    from mold_core.weights.packed import PackedTensor

    fp8 = [name for name, tensor in tensors.items() if isinstance(tensor, PackedTensor) and tensor.type.torch_dtype]
    if not fp8:
        return tensors
    found = {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[2] != _MARK}
    for name in fp8:
        stem, _, kind = name.rpartition(".")
        tensor = found.get(name)
        if kind != "weight" or not isinstance(tensor, PackedTensor):
            continue
        for unused in _UNUSED:
            found.pop(f"{stem}.{unused}", None)
        for scale_name in _SCALES:
            if f"{stem}.{scale_name}" in found:
                tensor = _scaled(tensor, found.pop(f"{stem}.{scale_name}"), f"{stem}.{scale_name}")
        for scale_name in _INPUT_SCALES:
            input_scale = found.pop(f"{stem}.{scale_name}", None)
            if isinstance(input_scale, Tensor) and input_scale.is_floating_point() and input_scale.numel() == 1:
                tensor = attrs.evolve(tensor, input_scale=input_scale.float().reshape(()).clone())
        found[name] = tensor
    return found


def _scaled(weight: PackedTensor, scale: Tensor | PackedTensor, name: str) -> PackedTensor:
    from torch import Tensor

    rows = len(weight.data)
    if not isinstance(scale, Tensor) or not scale.is_floating_point() or scale.numel() not in (1, rows):
        raise CheckpointError(f"{name} must be one number, or one for each of {rows} rows")
    shaped = scale.float().reshape(()) if scale.numel() == 1 else scale.float().reshape(rows, 1)
    return attrs.evolve(weight, scale=shaped.clone())
