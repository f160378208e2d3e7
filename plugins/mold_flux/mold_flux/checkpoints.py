"""Map checkpoint files to the tensor names of mold's FLUX.1 modules, and derive model sizes from shapes.

Transformer files come in two layouts, Black Forest Labs' (the modules' own; ComfyUI puts a prefix before each name)
and diffusers'; autoencoder files in latent diffusion's (the modules' own) and diffusers'; T5 files with Hugging Face's
names (the modules' own) or llama.cpp's. Tensors may be quantised; they are renamed and joined without dequantizing.
Sizes depend on shapes only, so a file's header is enough. No tensor is dropped silently: unknown names are kept, and
`load_weights` refuses them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor

from mold_core import CheckpointError
from mold_core.weights import PackedTensor, load_weights
from mold_flux.autoencoder import AutoencoderConfig
from mold_flux.diffusers_layout import autoencoder_name, from_diffusers, some
from mold_flux.text_encoders import ClipConfig, T5Config
from mold_flux.transformer import FluxConfig
from mold_flux.variants import refuse_other_models

__all__ = [
    "autoencoder_config",
    "autoencoder_tensors",
    "clip_config",
    "clip_tensors",
    "component_tensors",
    "lacks_embeddings",
    "load_weights",
    "t5_config",
    "t5_tensors",
    "transformer_config",
    "transformer_tensors",
    "with_embeddings_of",
]

Shapes = Mapping[str, Sequence[int]]
Weight = Tensor | PackedTensor
Weights = Mapping[str, Weight]
T = TypeVar("T")

# Prefixes of each component's tensors in files of whole models.
_TRANSFORMER = ("model.diffusion_model.", "diffusion_model.")
_AUTOENCODER = ("first_stage_model.", "vae.")
_CLIP = (
    "text_encoders.clip_l.transformer.",
    "text_encoders.clip_l.",
    "cond_stage_model.transformer.",
    "cond_stage_model.",
    "conditioner.embedders.0.transformer.",
)
_T5 = ("text_encoders.t5xxl.transformer.", "text_encoders.t5xxl.")
_COMPONENT_PREFIXES = (*_TRANSFORMER, *_AUTOENCODER, *_CLIP, *_T5)
_STABLE_DIFFUSION = ("cond_stage_model.", "conditioner.", "first_stage_model.")
_PREFIXES = {"transformer": _TRANSFORMER, "vae": _AUTOENCODER, "clip_encoder": _CLIP, "t5_encoder": _T5}


def transformer_tensors(tensors: Weights) -> dict[str, Weight]:
    """Return a FLUX.1 transformer's tensors with the names of `FluxTransformer`, from either layout.

    The official layout is only renamed. diffusers' separate query, key and value are joined, which copies them.
    """
    found = _unprefixed(tensors, _TRANSFORMER)
    refuse_other_models(found)
    if any(name.startswith("double_blocks.") for name in found):
        return found
    if any(name.startswith("transformer_blocks.") for name in found):
        return from_diffusers(found)
    raise CheckpointError(f"this is no FLUX.1 transformer: there are no double blocks among {some(found)}")


# Layers that some GGUF files of fine-tunes omit, because they are the same in all of them.
_EMBEDDINGS = ("img_in.", "txt_in.", "time_in.", "vector_in.")


def lacks_embeddings(tensors: Weights) -> bool:
    """Return whether a transformer, with the names of `FluxTransformer`, lacks the layers that fine-tunes share."""
    return not all(any(name.startswith(layer) for name in tensors) for layer in _EMBEDDINGS)


def with_embeddings_of(tensors: Weights, donor: Weights) -> dict[str, Weight]:
    """Return a transformer's tensors, with missing embedding layers taken from `donor`.

    Both have the names of `FluxTransformer`.
    """
    lent = (*_EMBEDDINGS, "guidance_in.")
    return {**{name: tensor for name, tensor in donor.items() if name.startswith(lent)}, **tensors}


def autoencoder_tensors(tensors: Weights) -> dict[str, Weight]:
    """Return an autoencoder's tensors with the names of `Autoencoder`, from either layout."""
    found = _unprefixed(tensors, _AUTOENCODER)
    if "decoder.conv_in.weight" not in found:
        raise CheckpointError(f"this is no FLUX.1 autoencoder: there is no decoder.conv_in among {some(found)}")
    if any(name.startswith("decoder.up_blocks.") for name in found):
        levels = _count(found, "decoder.up_blocks")
        found = {autoencoder_name(name, levels): tensor for name, tensor in found.items()}
    pointwise = re.compile(r"mid\.attn_1\.(q|k|v|proj_out)\.weight$")  # linear layers in some files
    return {
        name: _pointwise(tensor) if pointwise.search(name) and tensor.ndim == 2 else tensor
        for name, tensor in found.items()
    }


def clip_tensors(tensors: Weights) -> dict[str, Weight]:
    """Return a CLIP text encoder's tensors with the names of `ClipTextEncoder`.

    The image encoder and projections of a whole CLIP, which FLUX.1 does not use, are left out.
    """
    unused = re.compile(r"(vision_model\.|visual_projection\.|text_projection|logit_scale|.*\.position_ids$)")
    found = {name: tensor for name, tensor in _unprefixed(tensors, _CLIP).items() if not unused.match(name)}
    if not any(name.endswith("embeddings.token_embedding.weight") for name in found):
        raise CheckpointError(f"this is no CLIP text encoder: there is no token_embedding among {some(found)}")
    return {name if name.startswith("text_model.") else f"text_model.{name}": tensor for name, tensor in found.items()}


def t5_tensors(tensors: Weights) -> dict[str, Weight]:
    """Return a T5 encoder's tensors with the names of `T5Encoder`, from files with Hugging Face's names or GGUF's.

    The decoder of a whole T5, and the tokenizer in some fp8 files, are left out.
    """
    unused = re.compile(r"(decoder\.|lm_head\.|dec\.|output\.weight$|spiece_model$)")
    unprefixed = _unprefixed(tensors, _T5)
    if any(name.startswith("enc.blk.") for name in unprefixed):
        unprefixed = {_t5_name(name): tensor for name, tensor in unprefixed.items()}
    found = {name: tensor for name, tensor in unprefixed.items() if not unused.match(name)}
    twin = found.pop("encoder.embed_tokens.weight", None)  # the same embedding under another name
    if twin is not None:
        found.setdefault("shared.weight", twin)
    if "shared.weight" not in found:
        raise CheckpointError(f"this is no T5 encoder: there is no shared.weight among {some(found)}")
    return found


def transformer_config(shapes: Shapes, **known: Any) -> FluxConfig:
    """Return the sizes of a transformer, from the shapes of the tensors of `transformer_tensors`.

    `known` overrides fields. It must include `axes_dim` if heads do not have FLUX.1's 128 channels.
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
    """Return the sizes of an autoencoder, from the shapes of the tensors of `autoencoder_tensors`.

    `known` overrides fields. `groups`, `scale` and `shift` are not in the weights; their defaults are FLUX.1's.
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
    """Return the sizes of a CLIP text encoder, from the shapes of the tensors of `clip_tensors`.

    `known` overrides fields. Not in the weights are `heads` (default: one per 64 channels, as in all published ones),
    `activation` (default: CLIP-L's) and `eos_id` (default: the last of the vocabulary).
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
    """Return the sizes of a T5 encoder, from the shapes of the tensors of `t5_tensors`. `known` overrides fields."""
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


def component_tensors(component: str, tensors: Mapping[str, T]) -> dict[str, T]:
    """Return the tensors of a component in a file, without the prefix that files of whole models have."""
    return _unprefixed(tensors, _PREFIXES[component])


def _unprefixed(tensors: Mapping[str, T], prefixes: tuple[str, ...]) -> dict[str, T]:
    """Return the tensors with one of the prefixes, which is removed, and those without any component's prefix.

    Files of Stable Diffusion also have schedules and averages, which belong to no component.
    """
    prefix = next((prefix for prefix in prefixes if any(name.startswith(prefix) for name in tensors)), None)
    alone = (prefix or "").startswith(_STABLE_DIFFUSION)
    return {
        name.removeprefix(prefix or ""): tensor
        for name, tensor in tensors.items()
        if (prefix and name.startswith(prefix)) or not (alone or name.startswith(_COMPONENT_PREFIXES))
    }


# llama.cpp's names of the layers of a T5 encoder in GGUF files. GELU is applied to the gate of the MLP.
_T5_LAYERS = {
    "attn_q": "0.SelfAttention.q",
    "attn_k": "0.SelfAttention.k",
    "attn_v": "0.SelfAttention.v",
    "attn_o": "0.SelfAttention.o",
    "attn_rel_b": "0.SelfAttention.relative_attention_bias",
    "attn_norm": "0.layer_norm",
    "ffn_gate": "1.DenseReluDense.wi_0",
    "ffn_up": "1.DenseReluDense.wi_1",
    "ffn_down": "1.DenseReluDense.wo",
    "ffn_norm": "1.layer_norm",
}


def _t5_name(name: str) -> str:
    """Return the new name of a tensor of a GGUF T5 encoder; unknown names do not change."""
    block = re.fullmatch(r"enc\.blk\.(\d+)\.(\w+)\.weight", name)
    if block and block[2] in _T5_LAYERS:
        return f"encoder.block.{block[1]}.layer.{_T5_LAYERS[block[2]]}.weight"
    top = {"token_embd.weight": "shared.weight", "enc.output_norm.weight": "encoder.final_layer_norm.weight"}
    return top.get(name, name)


def _pointwise(tensor: Weight) -> Tensor:
    """Return a linear layer's weight as the weight of a 1 x 1 convolution."""
    return (tensor if isinstance(tensor, Tensor) else tensor.expand())[:, :, None, None]


def _count(names: Iterable[str], prefix: str) -> int:
    """Return the count of distinct numbers that follow `prefix` in the names."""
    return len({name.removeprefix(f"{prefix}.").split(".")[0] for name in names if name.startswith(f"{prefix}.")})


@contextmanager
def _missing_is_an_error() -> Iterator[None]:
    """Convert the KeyError for a tensor's name to a CheckpointError."""
    try:
        yield
    except KeyError as error:
        raise CheckpointError(f"the checkpoint lacks {error.args[0]}") from None
