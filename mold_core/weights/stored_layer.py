"""A layer of a file: a quantised weight, and the tensors of the same stem that describe it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from torch import Tensor

from mold_core.errors import CheckpointError
from mold_core.weights.packed import PackedTensor

__all__ = ["StoredLayer", "Tensors"]

Tensors = dict[str, "Tensor | PackedTensor"]


@attrs.frozen(eq=False)
class StoredLayer:
    """The tensors STEM.* among `tensors`, from which `take` removes them. `config` is the layer's configuration."""

    tensors: Tensors
    stem: str
    config: Mapping[str, Any] = attrs.Factory(dict)

    @property
    def weight_name(self) -> str:
        """The name of the weight."""
        return self.name("weight")

    def name(self, kind: str) -> str:
        """Return the name of another tensor of the layer."""
        return f"{self.stem}.{kind}" if self.stem else kind

    def weight(self, *dtypes: str) -> Tensor:
        """Return the matrix as stored in the file, [rows, stored columns]. Raises for other dtypes."""
        tensor = self.tensors[self.weight_name]
        raw, dtype = _raw(tensor)
        if dtype not in dtypes or raw.ndim != 2 or not raw.numel():
            raise CheckpointError(
                f"{self.weight_name} has the dtype {dtype} and the shape {list(raw.shape)} where a matrix of"
                f" {' or '.join(dtypes)} is needed"
            )
        return raw

    def take(self, *kinds: str) -> Tensor:
        """Remove and return the tensor under the first name that exists. Raises CheckpointError if none does."""
        found = self.find(*kinds)
        if found is None:
            raise CheckpointError(f"{self.name(kinds[0])} is missing, without which {self.weight_name} cannot be read")
        return found

    def find(self, *kinds: str) -> Tensor | None:
        """Do the same, but return None if there is none."""
        for kind in kinds:
            tensor = self.tensors.pop(self.name(kind), None)
            if tensor is not None:
                return _raw(tensor)[0]
        return None

    def numbers(self, kind: str, tensor: Tensor, *shapes: tuple[int, ...]) -> Tensor:
        """Return a floating-point tensor in the first of `shapes`. Raises CheckpointError for any other tensor."""
        if not tensor.is_floating_point() or tuple(tensor.shape) not in shapes:
            needed = " or ".join(str(list(shape)) for shape in shapes)
            raise CheckpointError(
                f"{self.name(kind)} has the dtype {_name(tensor)} and the shape {list(tensor.shape)} where"
                f" floating-point numbers of shape {needed} are needed"
            )
        return tensor.reshape(shapes[0]).clone()

    def option(self, key: str, default: int) -> int:
        """Return an integer of the configuration, which may be nested under "params"."""
        value = self._options().get(key, default)
        if type(value) is not int or value < 1:
            raise CheckpointError(f"{self.name('comfy_quant')} has {key} {value!r:.40} where a whole number is needed")
        return value

    def flag(self, key: str) -> bool:
        """Return a boolean of the configuration."""
        return bool(self._options().get(key, False))

    def _options(self) -> Mapping[str, Any]:
        nested = self.config.get("params")
        return {**nested, **self.config} if isinstance(nested, dict) else self.config


def _raw(tensor: Tensor | PackedTensor) -> tuple[Tensor, str]:
    """Return a tensor of a file in its stored dtype, including fp8, and the name of the dtype."""
    import torch

    if isinstance(tensor, PackedTensor):
        dtype = getattr(torch, tensor.type.torch_dtype or "uint8")
        return tensor.data.view(dtype).reshape(tensor.shape), _name(dtype)
    return tensor, _name(tensor)


def _name(value: Any) -> str:
    return str(getattr(value, "dtype", value)).removeprefix("torch.")
