"""Checkpoint files → tensors under the names that mold's FLUX.1 modules have, and the sizes those tensors tell.

Transformer files come in two layouts, Black Forest Labs' (the modules' own; ComfyUI puts a prefix before each name)
and diffusers'; autoencoder files in latent diffusion's (the modules' own) and diffusers'. Sizes are read off shapes
alone, so a file's header is enough. Nothing is dropped in silence: what is not named here stays, and `fill` refuses it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from mold_core import CheckpointError
from mold_flux.autoencoder import AutoencoderConfig
from mold_flux.text_encoders import ClipConfig, T5Config
from mold_flux.transformer import FluxConfig

__all__ = [
    "autoencoder_config",
    "autoencoder_tensors",
    "clip_config",
    "clip_tensors",
    "fill",
    "t5_config",
    "t5_tensors",
    "transformer_config",
    "transformer_tensors",
]

Shapes = Mapping[str, Sequence[int]]

# What files that hold a whole model put before the names of each part's tensors.
_TRANSFORMER = ("model.diffusion_model.", "diffusion_model.")
_AUTOENCODER = ("first_stage_model.", "vae.")
_CLIP = ("text_encoders.clip_l.transformer.", "text_encoders.clip_l.")
_T5 = ("text_encoders.t5xxl.transformer.", "text_encoders.t5xxl.")
_PARTS = (*_TRANSFORMER, *_AUTOENCODER, *_CLIP, *_T5)


def transformer_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a FLUX.1 transformer's tensors by the names of `FluxTransformer`, from either layout.

    The official layout is only renamed; diffusers' separate query, key and value are joined, which copies them.
    """
    found = _part(tensors, _TRANSFORMER)
    if any(name.startswith("double_blocks.") for name in found):
        return found
    if any(name.startswith("transformer_blocks.") for name in found):
        return _from_diffusers(found)
    raise CheckpointError(f"this is no FLUX.1 transformer: there are no double blocks among {_some(found)}")


def autoencoder_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return an autoencoder's tensors by the names of `Autoencoder`, from either layout."""
    found = _part(tensors, _AUTOENCODER)
    if "decoder.conv_in.weight" not in found:
        raise CheckpointError(f"this is no FLUX.1 autoencoder: there is no decoder.conv_in among {_some(found)}")
    if not any(name.startswith("decoder.up_blocks.") for name in found):
        return found
    levels = _count(found, "decoder.up_blocks")
    renamed = {_autoencoder_name(name, levels): tensor for name, tensor in found.items()}
    pointwise = re.compile(r"mid\.attn_1\.(q|k|v|proj_out)\.weight$")  # diffusers has linear layers here
    return {
        name: tensor[:, :, None, None] if pointwise.search(name) and tensor.ndim == 2 else tensor
        for name, tensor in renamed.items()
    }


def clip_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a CLIP text encoder's tensors by the names of `ClipTextEncoder`.

    A whole CLIP's image half and projections, which FLUX.1 does not use, are left out.
    """
    unused = re.compile(r"(vision_model\.|visual_projection\.|text_projection|logit_scale|.*\.position_ids$)")
    found = {name: tensor for name, tensor in _part(tensors, _CLIP).items() if not unused.match(name)}
    if not any(name.endswith("embeddings.token_embedding.weight") for name in found):
        raise CheckpointError(f"this is no CLIP text encoder: there is no token_embedding among {_some(found)}")
    return {name if name.startswith("text_model.") else f"text_model.{name}": tensor for name, tensor in found.items()}


def t5_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a T5 encoder's tensors by the names of `T5Encoder`. A whole T5's decoder is left out."""
    unused = re.compile(r"(decoder\.|lm_head\.)")
    found = {name: tensor for name, tensor in _part(tensors, _T5).items() if not unused.match(name)}
    twin = found.pop("encoder.embed_tokens.weight", None)  # the same embedding, under its other name
    if twin is not None:
        found.setdefault("shared.weight", twin)
    if "shared.weight" not in found:
        raise CheckpointError(f"this is no T5 encoder: there is no shared.weight among {_some(found)}")
    return found


def transformer_config(shapes: Shapes, **known: Any) -> FluxConfig:
    """Return the sizes of a transformer, from the shapes of what `transformer_tensors` returned.

    `known` overrides fields; `axes_dim` must be among them where heads do not have FLUX.1's 128 channels.
    """
    with _missing_is_an_error():
        hidden, in_channels = shapes["img_in.weight"]
        (head_dim,) = shapes["double_blocks.0.img_attn.norm.query_norm.scale"]
        if "axes_dim" not in known and head_dim != 128:
            raise CheckpointError(
                f"heads have {head_dim} channels, and how they are shared among the axes is not in the weights;"
                " say it as axes_dim"
            )
        sizes = {
            "in_channels": in_channels,
            "out_channels": shapes["final_layer.linear.weight"][0],
            "hidden_size": hidden,
            "heads": hidden // head_dim,
            "depth_double": _count(shapes, "double_blocks"),
            "depth_single": _count(shapes, "single_blocks"),
            "context_dim": shapes["txt_in.weight"][1],
            "pooled_dim": shapes["vector_in.in_layer.weight"][1],
            "guidance_embed": "guidance_in.in_layer.weight" in shapes,
            "mlp_ratio": shapes["double_blocks.0.img_mlp.0.weight"][0] / hidden,
        }
    return FluxConfig(**{**sizes, **known})


def autoencoder_config(shapes: Shapes, **known: Any) -> AutoencoderConfig:
    """Return the sizes of an autoencoder, from the shapes of what `autoencoder_tensors` returned.

    `known` overrides fields; `groups`, `scale` and `shift` are not in the weights and else are FLUX.1's.
    """
    with _missing_is_an_error():
        levels = _count(shapes, "decoder.up")
        sizes = {
            "block_channels": tuple(shapes[f"decoder.up.{level}.block.0.conv1.weight"][0] for level in range(levels)),
            "layers_per_block": _count(shapes, "encoder.down.0.block"),
            "latent_channels": shapes["decoder.conv_in.weight"][1],
        }
    return AutoencoderConfig(**{**sizes, **known})


def clip_config(shapes: Shapes, **known: Any) -> ClipConfig:
    """Return the sizes of a CLIP text encoder, from the shapes of what `clip_tensors` returned.

    `known` overrides fields. Not in the weights: `heads` (else one per 64 channels, as in all published ones),
    `activation` (else CLIP-L's) and `eos_id` (else the last of the vocabulary).
    """
    with _missing_is_an_error():
        vocabulary, hidden = shapes["text_model.embeddings.token_embedding.weight"]
        sizes = {
            "hidden_size": hidden,
            "mlp_size": shapes["text_model.encoder.layers.0.mlp.fc1.weight"][0],
            "heads": hidden // 64,
            "depth": _count(shapes, "text_model.encoder.layers"),
            "vocabulary": vocabulary,
            "positions": shapes["text_model.embeddings.position_embedding.weight"][0],
            "eos_id": vocabulary - 1,
        }
    return ClipConfig(**{**sizes, **known})


def t5_config(shapes: Shapes, **known: Any) -> T5Config:
    """Return the sizes of a T5 encoder, from the shapes of what `t5_tensors` returned. `known` overrides fields."""
    with _missing_is_an_error():
        vocabulary, hidden = shapes["shared.weight"]
        attention = "encoder.block.0.layer.0.SelfAttention"
        buckets, heads = shapes[f"{attention}.relative_attention_bias.weight"]
        sizes = {
            "hidden_size": hidden,
            "mlp_size": shapes["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"][0],
            "heads": heads,
            "head_dim": shapes[f"{attention}.q.weight"][0] // heads,
            "depth": _count(shapes, "encoder.block"),
            "vocabulary": vocabulary,
            "buckets": buckets,
        }
    return T5Config(**{**sizes, **known})


def fill(module: nn.Module, tensors: Mapping[str, Tensor], source: object) -> None:
    """Make `tensors` the weights of `module`, without a copy; every one must be there and none left over.

    Raises CheckpointError naming `source` (a path) and the first of the tensors that do not fit.
    """
    wanted = {name: tensor.shape for name, tensor in module.state_dict().items()}
    problems = [
        *(f"lacks {name}" for name in wanted if name not in tensors),
        *(f"has {name}, which the model does not" for name in tensors if name not in wanted),
        *(
            f"has {name} of shape {list(tensor.shape)} where {list(wanted[name])} is needed"
            for name, tensor in tensors.items()
            if name in wanted and tensor.shape != wanted[name]
        ),
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(f"{source} is of another model: it {'; it '.join(problems[:3])}{more}")
    module.load_state_dict(tensors, assign=True)


def _part(tensors: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the tensors that have one of the prefixes, without it, and those that have no part's prefix."""
    prefix = next((prefix for prefix in prefixes if any(name.startswith(prefix) for name in tensors)), None)
    return {
        name.removeprefix(prefix or ""): tensor
        for name, tensor in tensors.items()
        if (prefix and name.startswith(prefix)) or not name.startswith(_PARTS)
    }


@frozen
class _Target:
    """Where a tensor of diffusers' layout goes: to `name`, as the rows numbered `place` of the `of` joined there."""

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


def _target(name: str) -> _Target:
    """Return where a tensor of diffusers' layout goes; an unknown one stays under its name."""
    layer, _, kind = name.rpartition(".")
    if layer in _TOP:
        return _Target(f"{_TOP[layer]}.{kind}")
    if layer == "norm_out.linear":  # diffusers has scale before shift
        return _Target(f"final_layer.adaLN_modulation.1.{kind}", swapped=True)
    block = re.fullmatch(r"(single_)?transformer_blocks\.(\d+)\.(.+)", layer)
    if block is None:
        return _Target(name)
    single, number, inner = block.groups()
    own = f"{'single' if single else 'double'}_blocks.{number}"
    if inner in (_SINGLE if single else _DOUBLE):
        renamed = (_SINGLE if single else _DOUBLE)[inner]
        return _Target(f"{own}.{renamed}.{'scale' if renamed.endswith('_norm') else kind}")
    if single and inner in _SINGLE_PARTS:
        return _Target(f"{own}.linear1.{kind}", _SINGLE_PARTS.index(inner), 4)
    if not single and inner in _DOUBLE_QKV:
        joined, place = _DOUBLE_QKV[inner]
        return _Target(f"{own}.{joined}.{kind}", place, 3)
    return _Target(name)


def _from_diffusers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of diffusers' layout in the official one, rows of several joined in order."""
    rows: dict[str, dict[int, str]] = defaultdict(dict)
    targets = {name: _target(name) for name in tensors}
    for name, where in targets.items():
        rows[where.name][where.place] = name
    joined = {}
    for name, sources in rows.items():
        where = targets[next(iter(sources.values()))]
        lacking = where.of - len(sources)
        if lacking:
            raise CheckpointError(
                f"{name} lacks {lacking} of its {where.of} parts: there is only {_some(sources.values())}"
            )
        parts = [tensors[sources[place]] for place in range(where.of)]
        if where.swapped:
            parts = list(reversed(parts[0].chunk(2)))
        joined[name] = parts[0] if len(parts) == 1 else torch.cat(parts)
    return joined


def _autoencoder_name(name: str, levels: int) -> str:
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


def _count(names: Iterable[str], prefix: str) -> int:
    """Return how many different numbers follow `prefix` in the names."""
    return len({name.removeprefix(f"{prefix}.").split(".")[0] for name in names if name.startswith(f"{prefix}.")})


def _some(names: Iterable[str]) -> str:
    return ", ".join(islice(names, 3)) or "its tensors, of which there are none"


@contextmanager
def _missing_is_an_error() -> Iterator[None]:
    """Turn the KeyError for a tensor's name into a CheckpointError."""
    try:
        yield
    except KeyError as error:
        raise CheckpointError(f"the checkpoint lacks {error.args[0]}") from None
