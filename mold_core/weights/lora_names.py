"""The names of tensors in files of low-rank LoRAs, and what a family says of them.

Trainers name a layer as the checkpoint does, as diffusers does, or either with underscores for dots (kohya's
``lora_unet_…``). So names of layers are compared with underscores.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Protocol

from attrs import frozen
from torch import nn

from mold_core.weights.lora_keys import flat

__all__ = ["Key", "LoraNames", "Place", "flat", "linear_layers", "read_key"]


@frozen(kw_only=True)
class Place:
    """A linear layer, or some of its rows: `rows` of them from `first` on, `columns` numbers each.

    `swapped`: the halves of the rows stand the other way round in the adapter.
    """

    layer: str
    first: int
    rows: int
    columns: int
    swapped: bool = False


@frozen(kw_only=True)
class Key:
    """The name of a tensor of a LoRA, taken apart.

    `layer` is the layer's name with underscores and without prefixes, `component` the network that has it, and `part`
    says which part of a pair it is: down, up or alpha.
    """

    layer: str
    component: str
    part: str


class LoraNames(Protocol):
    """What a family knows of how LoRAs name its layers. All names have underscores for dots."""

    def component_of(self, name: str) -> str:
        """Return which network a tensor of a LoRA is for."""

    def layer_of(self, name: str) -> str:
        """Return the name of a layer without what trainers put before it."""

    def places_of(self, network: nn.Module) -> Mapping[str, Place]:
        """Return every linear layer of a network, or part of one, by all its names."""


_PARTS = (
    (re.compile(r"\.lora_A(\.\w+)?\.weight$"), "down"),
    (re.compile(r"\.lora_B(\.\w+)?\.weight$"), "up"),
    (re.compile(r"\.(lora_down|lora\.down|lora_linear_layer\.down)\.weight$"), "down"),
    (re.compile(r"\.(lora_up|lora\.up|lora_linear_layer\.up)\.weight$"), "up"),
    (re.compile(r"\.alpha$"), "alpha"),
)


def read_key(name: str, names: LoraNames) -> Key | None:
    """Return the name of a LoRA's tensor taken apart, or None if it is none of a pair's."""
    for pattern, part in _PARTS:
        found = pattern.search(name)
        if found:
            stem = flat(name[: found.start()])
            return Key(layer=names.layer_of(stem), component=names.component_of(flat(name)), part=part)
    return None


def linear_layers(network: nn.Module) -> Iterator[tuple[str, Place]]:
    """Yield every linear layer of a network, dense or packed, by its own name."""
    for name, module in network.named_modules():
        if hasattr(module, "out_features"):
            yield flat(name), Place(layer=name, first=0, rows=module.out_features, columns=module.in_features)
