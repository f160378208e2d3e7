"""Weights into networks: every tensor finds its place, or the file is of another model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mold_core.errors import CheckpointError
from mold_core.weights.layers import PackedEmbedding, PackedLinear
from mold_core.weights.packed import PackedTensor, Scratch
from mold_core.weights.source import shown

__all__ = ["fill"]


def fill(
    module: nn.Module,
    tensors: Mapping[str, Tensor | PackedTensor],
    source: object,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    expand: bool = False,
    as_stored: bool = False,
) -> None:
    """Make `tensors` the weights of `module`, best one built on the meta device.

    Linear layers and embeddings with quantised weights are replaced by packed ones, or with `expand` made dense once;
    any other quantised tensor is made dense. Plain tensors are used themselves, without a copy, if they have `dtype`
    (with `as_stored`: whatever they have) and lie on `device` already. Every tensor must be there, none left over, all
    of the right shape: else CheckpointError names `source` (a path) and the first tensors that do not fit, and the
    module is as it was.
    """
    _check(module, tensors, source)
    scratch = Scratch()
    dense: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor):
            wanted = dtype if tensor.is_floating_point() and not as_stored else None
            dense[name] = tensor.to(device=device, dtype=wanted)
            continue
        packed = tensor if device is None else tensor.to(device)
        if expand or not _take(module, name, packed, dtype or torch.bfloat16, scratch):
            dense[name] = packed.expand(dtype or torch.bfloat16)
    module.load_state_dict(dense, assign=True, strict=False)


def _take(module: nn.Module, name: str, weight: PackedTensor, dtype: torch.dtype, scratch: Scratch) -> bool:
    """Replace the layer that a tensor is the weight of by a packed one; say whether it is of a kind that can be."""
    path, _, kind = name.rpartition(".")
    layer = module.get_submodule(path)
    if kind != "weight" or len(weight.shape) != 2:
        return False
    if type(layer) is nn.Linear:
        module.set_submodule(path, PackedLinear(weight, layer.bias, scratch))
    elif type(layer) is nn.Embedding:
        module.set_submodule(path, PackedEmbedding(weight, dtype))
    else:
        return False
    return True


def _check(module: nn.Module, tensors: Mapping[str, Tensor | PackedTensor], source: object) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    problems = [
        *(f"lacks {name}" for name in wanted if name not in tensors),
        *(f"has {shown(name)[1:-1]}, which the model does not" for name in tensors if name not in wanted),
        *(
            f"has {name} of shape {list(tensor.shape)} where {list(wanted[name])} is needed"
            for name, tensor in tensors.items()
            if name in wanted and tuple(tensor.shape) != wanted[name]
        ),
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(f"{source} is of another model: it {'; it '.join(problems[:3])}{more}")
