"""The names of tensors in files of low-rank LoRAs, and what a family says of them.

Trainers name a layer as the checkpoint does, as diffusers does, or either with underscores for dots (kohya's
``lora_unet_…``). So names of layers are compared with underscores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Protocol

from attrs import frozen
from torch import nn

from mold_core.weights.lora_keys import flat

__all__ = ["LoraNames", "Place", "flat", "linear_layers", "main_parameter", "parameter_layers"]


@frozen(kw_only=True)
class Place:
    """A layer, or some rows of a linear one: `rows` of them from `first` on, `columns` numbers each.

    `swapped`: the halves of the rows stand the other way round in the adapter.
    """

    layer: str
    first: int
    rows: int
    columns: int
    swapped: bool = False


class LoraNames(Protocol):
    """What a family knows of how LoRAs name its layers. All names have underscores for dots."""

    def component_of(self, name: str) -> str:
        """Return which network a tensor of a LoRA is for."""

    def layer_of(self, name: str) -> str:
        """Return the name of a layer without what trainers put before it."""

    def places_of(self, network: nn.Module) -> Mapping[str, Place]:
        """Return every linear layer of a network, or part of one, by all its names."""


def linear_layers(network: nn.Module) -> Iterator[tuple[str, Place]]:
    """Yield every linear layer of a network, dense or packed, by its own name."""
    for name, module in network.named_modules():
        if hasattr(module, "out_features"):
            yield flat(name), Place(layer=name, first=0, rows=module.out_features, columns=module.in_features)


def parameter_layers(network: nn.Module) -> Iterator[tuple[str, Place]]:
    """Yield every module with dense parameters of its own that is no linear layer (norms, convolutions), by its name.

    `rows` is the first dimension of its main parameter, `columns` the product of the others.
    """
    for name, module in network.named_modules():
        parameter = None if hasattr(module, "out_features") else main_parameter(module)
        if parameter is not None:
            shape = module._parameters[parameter].shape
            yield flat(name), Place(layer=name, first=0, rows=shape[0], columns=math.prod(shape[1:]))


def main_parameter(module: nn.Module) -> str | None:
    """Return the name of a module's weights: its only floating-point parameter besides a bias; None without one."""
    names = [
        name
        for name, parameter in module._parameters.items()
        if name != "bias" and parameter is not None and parameter.ndim and parameter.is_floating_point()
    ]
    return names[0] if len(names) == 1 else None
