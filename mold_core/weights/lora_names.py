"""The names of layers in LoRA files, and the mapping that a family provides for them.

Trainers name a layer as the checkpoint does or as diffusers does, sometimes with underscores for dots (kohya's
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
    """A layer, or some rows of a linear layer: `rows` rows from `first` on, of `columns` numbers each.

    `swapped`: the LoRA has the two halves of the rows in the opposite order.
    """

    layer: str
    first: int
    rows: int
    columns: int
    swapped: bool = False


class LoraNames(Protocol):
    """How LoRAs name the layers of a family. All names have underscores for dots."""

    def component_of(self, name: str) -> str:
        """Return the network that a tensor of a LoRA belongs to."""

    def layer_of(self, name: str) -> str:
        """Return the name of a layer without the prefixes of trainers."""

    def places_of(self, network: nn.Module) -> Mapping[str, Place]:
        """Return every linear layer of a network, or some of its rows, by all its names."""


def linear_layers(network: nn.Module) -> Iterator[tuple[str, Place]]:
    """Yield every linear layer of a network, dense or packed, by its own name."""
    for name, module in network.named_modules():
        if hasattr(module, "out_features"):
            yield flat(name), Place(layer=name, first=0, rows=module.out_features, columns=module.in_features)


def parameter_layers(network: nn.Module) -> Iterator[tuple[str, Place]]:
    """Yield every module with own dense parameters that is not a linear layer (norms, convolutions), by its name.

    `rows` is the first dimension of its main parameter, `columns` the product of the others.
    """
    for name, module in network.named_modules():
        parameter = None if hasattr(module, "out_features") else main_parameter(module)
        if parameter is not None:
            shape = module._parameters[parameter].shape
            yield flat(name), Place(layer=name, first=0, rows=shape[0], columns=math.prod(shape[1:]))


def main_parameter(module: nn.Module) -> str | None:
    """Return the name of a module's weights: its only floating-point parameter except a bias; None if there is none."""
    names = [
        name
        for name, parameter in module._parameters.items()
        if name != "bias" and parameter is not None and parameter.ndim and parameter.is_floating_point()
    ]
    return names[0] if len(names) == 1 else None
