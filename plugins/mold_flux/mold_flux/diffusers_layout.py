"""Convert FLUX.1 tensors from diffusers' layout to the official one, which joins some layers."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from attrs import frozen
from torch import Tensor

from mold_core import CheckpointError
from mold_core.weights import PackedTensor, concatenate

__all__ = ["Target", "autoencoder_name", "from_diffusers", "layer_names", "norm_names", "some", "target"]

Weight = Tensor | PackedTensor


@frozen
class Target:
    """The destination of a tensor of diffusers' layout: `name`, as number `place` of the `of` tensors joined there."""

    name: str
    place: int = 0
    of: int = 1
    swapped: bool = False


_TOP = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "proj_out": "final_layer.linear",
}
_DOUBLE = {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
}
_SINGLE = {
    "norm.linear": "modulation.lin",
    "attn.norm_q": "norm.query_norm",
    "attn.norm_k": "norm.key_norm",
    "proj_out": "linear2",
}
_DOUBLE_QKV = {
    **{f"attn.to_{one}": ("img_attn.qkv", place) for place, one in enumerate("qkv")},
    **{f"attn.add_{one}_proj": ("txt_attn.qkv", place) for place, one in enumerate("qkv")},
}
_SINGLE_PARTS = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")


def target(name: str) -> Target:
    """Return the destination of a tensor of diffusers' layout; unknown names do not change."""
    layer, _, kind = name.rpartition(".")
    if layer in _TOP:
        return Target(f"{_TOP[layer]}.{kind}")
    if layer == "norm_out.linear":  # diffusers has scale before shift
        return Target(f"final_layer.adaLN_modulation.1.{kind}", swapped=True)
    block = re.fullmatch(r"(single_)?transformer_blocks\.(\d+)\.(.+)", layer)
    if block is None:
        return Target(name)
    single, number, inner = block.groups()
    own = f"{'single' if single else 'double'}_blocks.{number}"
    if inner in (_SINGLE if single else _DOUBLE):
        renamed = (_SINGLE if single else _DOUBLE)[inner]
        return Target(f"{own}.{renamed}.{'scale' if renamed.endswith('_norm') else kind}")
    if single and inner in _SINGLE_PARTS:
        return Target(f"{own}.linear1.{kind}", _SINGLE_PARTS.index(inner), 4)
    if not single and inner in _DOUBLE_QKV:
        joined, place = _DOUBLE_QKV[inner]
        return Target(f"{own}.{joined}.{kind}", place, 3)
    return Target(name)


def layer_names(doubles: int, singles: int) -> Iterator[str]:
    """Yield the names of all linear layers of a transformer with these numbers of blocks, in diffusers' layout."""
    yield from (*_TOP, "norm_out.linear")
    for number in range(doubles):
        yield from (
            f"transformer_blocks.{number}.{inner}" for inner in (*_DOUBLE, *_DOUBLE_QKV) if "norm_" not in inner
        )
    for number in range(singles):
        inners = (*(inner for inner in _SINGLE if "norm_" not in inner), *_SINGLE_PARTS)
        yield from (f"single_transformer_blocks.{number}.{inner}" for inner in inners)


def norm_names(doubles: int, singles: int) -> Iterator[str]:
    """Yield the names of all norms with weights, in diffusers' layout."""
    for number in range(doubles):
        yield from (f"transformer_blocks.{number}.{inner}" for inner in _DOUBLE if "norm_" in inner)
    for number in range(singles):
        yield from (f"single_transformer_blocks.{number}.{inner}" for inner in _SINGLE if "norm_" in inner)


def from_diffusers(tensors: Mapping[str, Weight]) -> dict[str, Weight]:
    """Return tensors of diffusers' layout in the official layout, with the rows of joined layers in order."""
    rows: dict[str, dict[int, str]] = defaultdict(dict)
    targets = {name: target(name) for name in tensors}
    for name, where in targets.items():
        rows[where.name][where.place] = name
    joined = {}
    for name, sources in rows.items():
        where = targets[next(iter(sources.values()))]
        lacking = where.of - len(sources)
        if lacking:
            raise CheckpointError(
                f"{name} lacks {lacking} of its {where.of} parts: there is only {some(sources.values())}"
            )
        parts = [tensors[sources[place]] for place in range(where.of)]
        if where.swapped:
            parts = list(reversed(parts[0].chunk(2)))
        joined[name] = parts[0] if len(parts) == 1 else concatenate(parts)
    return joined


def autoencoder_name(name: str, levels: int) -> str:
    """Return the latent diffusion name of a tensor of diffusers' autoencoder."""
    name = re.sub(r"up_blocks\.(\d+)", lambda found: f"up.{levels - 1 - int(found[1])}", name)
    name = re.sub(r"mid_block\.resnets\.(\d+)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    for theirs, ours in (
        ("down_blocks", "down"),
        ("resnets", "block"),
        ("downsamplers.0", "downsample"),
        ("upsamplers.0", "upsample"),
        ("conv_shortcut", "nin_shortcut"),
        ("conv_norm_out", "norm_out"),
        ("mid_block.attentions.0", "mid.attn_1"),
        ("group_norm", "norm"),
        ("to_out.0", "proj_out"),
    ):
        name = name.replace(f"{theirs}.", f"{ours}.")
    return re.sub(r"\.to_([qkv])\.", r".\1.", name)


def some(names: Iterable[str]) -> str:
    """Return the first names, for an error message."""
    return ", ".join(islice(names, 3)) or "its tensors, of which there are none"
