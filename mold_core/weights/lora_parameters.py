"""Changes of LoRA files to modules that are not linear layers: norms and convolutions. Parameters are exchanged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from mold_core.errors import CheckpointError
from mold_core.weights.lora_layers import LayerShape, LayerTensors, layer_change
from mold_core.weights.lora_linear import ParameterDelta
from mold_core.weights.lora_names import main_parameter

__all__ = ["parameter_deltas"]


def parameter_deltas(
    entries: LayerTensors, module: nn.Module, copy: Callable[[Tensor], Tensor], source: str
) -> Iterator[ParameterDelta]:
    """Yield the additions of a layer's tensors to a module's parameters; `copy` moves tensors to the module's device.

    Raises CheckpointError naming the tensor that does not fit.
    """
    name = main_parameter(module)
    assert name is not None  # modules without one have no Place
    weight = module._parameters[name]
    assert weight is not None
    if weight.ndim == 1:
        yield from _of_norm(entries, name, len(weight), copy, source)
    else:
        shape = LayerShape(rows=weight.shape[0], columns=math.prod(weight.shape[1:]), kernel=tuple(weight.shape[2:]))
        done = layer_change(entries, shape, lambda: weight.detach().flatten(1).float())
        if done.change is not None:
            change = done.change.moved(lambda numbers: copy(numbers).float())
            yield ParameterDelta(
                name=name,
                difference=lambda numbers: change.difference(numbers.flatten(1)).view(numbers.shape),
                numbers=tuple(map(copy, done.change.tensors())),
                source=source,
            )
    if {"bias", "up_bias"} & set(entries.names):
        bias = module._parameters.get("bias")
        if bias is None:
            raise CheckpointError(f"{next(iter(entries.names.values()))} has a bias, and the model's layer has none")
        yield _addition("bias", _bias_of(entries, len(bias)), copy, source)


def _of_norm(
    entries: LayerTensors, name: str, count: int, copy: Callable[[Tensor], Tensor], source: str
) -> Iterator[ParameterDelta]:
    for role, tensor_name in entries.names.items():
        if role not in ("diff", "value", "bias"):
            raise CheckpointError(f"{tensor_name} is not understood for a layer of {count} numbers")
    if "value" in entries:
        value = copy(entries.vector("value", count))
        yield ParameterDelta(
            name=name, difference=lambda numbers: value.float() - numbers, numbers=(value,), source=source
        )
    if "diff" in entries:
        yield _addition(name, entries.vector("diff", count), copy, source)


def _bias_of(entries: LayerTensors, count: int) -> Tensor:
    total = torch.zeros(count)
    if "bias" in entries:
        total = total + entries.vector("bias", count)
    if "up_bias" in entries:
        total = total + entries.vector("up_bias", count) * entries.scale(len(entries.array("down")))
    return total


def _addition(name: str, values: Tensor, copy: Callable[[Tensor], Tensor], source: str) -> ParameterDelta:
    numbers = copy(values)
    return ParameterDelta(
        name=name,
        difference=lambda parameter: numbers.float().view(parameter.shape),
        numbers=(numbers,),
        source=source,
    )
