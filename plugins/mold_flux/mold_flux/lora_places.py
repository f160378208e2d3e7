"""Where the weights of a low-rank adapter go: the names that trainers write → layers of our networks, and their rows.

Three ways to name a layer are in use: the official one (``double_blocks.0.img_attn.qkv``), diffusers'
(``transformer_blocks.0.attn.to_q``), and either with underscores for dots (kohya's ``lora_unet_double_blocks_0_…``).
So names are compared with underscores.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from attrs import frozen
from torch import nn

from mold_flux.diffusers_layout import layer_names, target
from mold_flux.transformer import FluxTransformer

__all__ = ["Key", "Place", "component_of", "places_of", "read_key"]


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
    """The name of a tensor of an adapter, taken apart.

    `layer` is the layer's name with underscores and without prefixes, `component` the network that has it, and `part`
    says which part of a pair it is: down, up or alpha.
    """

    layer: str
    component: str
    part: str


_PARTS = (
    (re.compile(r"\.lora_A(\.\w+)?\.weight$"), "down"),
    (re.compile(r"\.lora_B(\.\w+)?\.weight$"), "up"),
    (re.compile(r"\.(lora_down|lora\.down|lora_linear_layer\.down)\.weight$"), "down"),
    (re.compile(r"\.(lora_up|lora\.up|lora_linear_layer\.up)\.weight$"), "up"),
    (re.compile(r"\.alpha$"), "alpha"),
)

# What trainers put before the names of layers, in underscores. Names with a text encoder's prefix are that encoder's.
_TEXT = {
    "lora_te1_": "clip_encoder",
    "lora_te2_": "t5_encoder",
    "lora_te3_": "t5_encoder",
    "lora_te_": "clip_encoder",
    "text_encoder_2_": "t5_encoder",
    "text_encoder_": "clip_encoder",
    "text_encoders_t5xxl_transformer_": "t5_encoder",
    "text_encoders_clip_l_transformer_": "clip_encoder",
}
_TRANSFORMER = (
    "base_model_model_",
    "model_diffusion_model_",
    "diffusion_model_",
    "lora_unet_",
    "lora_transformer_",
    "transformer_",
    "unet_",
)


def read_key(name: str) -> Key | None:
    """Return the name of an adapter's tensor taken apart, or None if it is none of a pair's."""
    for pattern, part in _PARTS:
        found = pattern.search(name)
        if found:
            stem = name[: found.start()]
            return Key(layer=_layer(_flat(stem)), component=component_of(name), part=part)
    return None


def component_of(name: str) -> str:
    """Return which network a tensor of an adapter is for: transformer, clip_encoder or t5_encoder."""
    flat = _flat(name)
    return next((component for prefix, component in _TEXT.items() if flat.startswith(prefix)), "transformer")


def _layer(name: str) -> str:
    """Return a layer's name, in underscores, without the prefixes before it."""
    for prefix in _TEXT:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    while not name.startswith("transformer_blocks_"):
        prefix = next((prefix for prefix in _TRANSFORMER if name.startswith(prefix)), None)
        if prefix is None:
            break
        name = name.removeprefix(prefix)
    return name


def places_of(network: nn.Module) -> dict[str, Place]:
    """Return every linear layer of a network, or part of one, by all its names, with underscores for dots."""
    places = dict(_own_names(network))
    if not isinstance(network, FluxTransformer):
        return places
    config = network.config
    for name in layer_names(config.depth_double, config.depth_single):
        where = target(f"{name}.weight")
        whole = places.get(_flat(where.name.removesuffix(".weight")))
        if whole is None:  # the guidance embedder of a model without one
            continue
        widths = [whole.rows // where.of] * where.of
        if where.of == 4:  # a single block's query, key, value and MLP
            widths = [config.hidden_size] * 3 + [config.mlp_size]
        first, rows = sum(widths[: where.place]), widths[where.place]
        places[_flat(name)] = Place(
            layer=whole.layer, first=first, rows=rows, columns=whole.columns, swapped=where.swapped
        )
    return places


def _own_names(network: nn.Module) -> Iterator[tuple[str, Place]]:
    for name, module in network.named_modules():
        if hasattr(module, "out_features"):  # dense layers and packed ones
            yield _flat(name), Place(layer=name, first=0, rows=module.out_features, columns=module.in_features)


def _flat(name: str) -> str:
    return name.replace(".", "_")
