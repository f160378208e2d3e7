"""The official layout of LTX-2's files: one file holds every network but the text encoder, each under a prefix.

Names on the right are those of diffusers' modules. Source of the names: Lightricks' checkpoints as diffusers 0.42 maps
them (`loaders/single_file_utils.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from mold_core import CheckpointError

__all__ = ["component_of", "diffusers_name", "official_names"]

T = TypeVar("T")

_DOWN_BLOCK = re.compile(r"encoder\.down_blocks\.(\d+)")
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)(\.resnets)?")

_TRANSFORMER_PREFIXES = ("model.diffusion_model.", "diffusion_model.")
# Official names, and those of a file with diffusers' own.
_CONNECTOR_PREFIXES = (
    "video_embeddings_connector.",
    "audio_embeddings_connector.",
    "text_embedding_projection.",
    "connectors.",
    "video_connector.",
    "audio_connector.",
    "text_proj_in.",
    "video_text_proj_in.",
    "audio_text_proj_in.",
)
_OTHERS = ("audio_vae", "vae", "vocoder")

_IN_TRANSFORMER = (
    ("patchify_proj", "proj_in"),
    ("av_ca_video_scale_shift_adaln_single", "av_cross_attn_video_scale_shift"),
    ("av_ca_a2v_gate_adaln_single", "av_cross_attn_video_a2v_gate"),
    ("av_ca_audio_scale_shift_adaln_single", "av_cross_attn_audio_scale_shift"),
    ("av_ca_v2a_gate_adaln_single", "av_cross_attn_audio_v2a_gate"),
    ("scale_shift_table_a2v_ca_video", "video_a2v_cross_attn_scale_shift_table"),
    ("scale_shift_table_a2v_ca_audio", "audio_a2v_cross_attn_scale_shift_table"),
    ("prompt_adaln_single", "prompt_adaln"),
    ("adaln_single", "time_embed"),
    ("q_norm", "norm_q"),
    ("k_norm", "norm_k"),
)
_IN_CONNECTORS = (
    ("connectors.", ""),
    ("text_embedding_projection.aggregate_embed", "text_proj_in"),
    ("text_embedding_projection.video_aggregate_embed", "video_text_proj_in"),
    ("text_embedding_projection.audio_aggregate_embed", "audio_text_proj_in"),
    ("video_embeddings_connector", "video_connector"),
    ("audio_embeddings_connector", "audio_connector"),
    ("transformer_1d_blocks", "transformer_blocks"),
    ("q_norm", "norm_q"),
    ("k_norm", "norm_k"),
)
_IN_VOCODER = (
    ("conv_pre", "conv_in"),
    ("conv_post", "conv_out"),
    ("act_post", "act_out"),
    ("resblocks", "resnets"),
    ("downsample.lowpass", "downsample"),
)
_UPSAMPLER = re.compile(r"(^|\.)ups\.")
_STATISTICS = (
    ("per_channel_statistics.mean-of-means", "latents_mean"),
    ("per_channel_statistics.std-of-means", "latents_std"),
)
# Statistics that networks do not use, such as mean-of-stds_over_std-of-means.
_UNUSED_STATISTICS = re.compile(r"per_channel_statistics\.(?!(mean|std)-of-means$)")


def component_of(name: str) -> str:
    """Return the network that a tensor of a combined file belongs to; by default the transformer."""
    for component in _OTHERS:
        if name.startswith(f"{component}."):
            return component
    return "connectors" if _without(name, _TRANSFORMER_PREFIXES).startswith(_CONNECTOR_PREFIXES) else "transformer"


def official_names(component: str, tensors: Mapping[str, T], *, separate: bool = False) -> dict[str, T]:
    """Return the tensors of one network in a file, renamed to diffusers' names if they have others.

    `own`: the file holds only this network, so its names need no prefix. Raises CheckpointError if the file has none
    of its tensors.
    """
    selected = {name: tensor for name, tensor in tensors.items() if component_of(name) == component}
    if separate and not selected:
        selected = dict(tensors)
    renamed = _video_vae_namer(selected) if component == "vae" else _NAMERS[component]
    found = {new: tensor for name, tensor in selected.items() if (new := renamed(name)) is not None}
    if not found:
        raise CheckpointError(f"this file holds no {component.replace('_', ' ')} of LTX-2")
    return found


def diffusers_name(name: str) -> str:
    """Return diffusers' name of a layer of the transformer, with dots or underscores."""
    return _replaced(_without(name, _TRANSFORMER_PREFIXES), _IN_TRANSFORMER)


def _connector_name(name: str) -> str | None:
    return _replaced(_without(name, _TRANSFORMER_PREFIXES), _IN_CONNECTORS)


def _video_vae_namer(names: Iterable[str]) -> Callable[[str], str | None]:
    """Return the function that renames the tensors of a video autoencoder.

    In the official layout, blocks and the samplers between them have one sequence of numbers. The middle block is the
    encoder's last and the decoder's first.
    """
    diffusers_layout = any("mid_block" in name for name in names)  # diffusers'
    middle = max((int(found[1]) for name in names if (found := _DOWN_BLOCK.search(name))), default=0)

    def block(found: re.Match[str]) -> str:
        side, index, resnets = found[1], int(found[2]), found[3] or ""
        if index == (middle if side == "down" else 0):
            return f"mid_block{resnets}"
        number = index // 2 if side == "down" else (index - 1) // 2
        return f"{side}_blocks.{number}" + (resnets or f".{side}samplers.0")

    def renamed(name: str) -> str | None:
        name = name.removeprefix("vae.")
        if _UNUSED_STATISTICS.match(name):
            return None
        name = _replaced(name, (*_STATISTICS, ("res_blocks", "resnets")))
        return name if diffusers_layout else _BLOCK.sub(block, name)

    return renamed


def _audio_vae_name(name: str) -> str | None:
    name = name.removeprefix("audio_vae.")
    return None if _UNUSED_STATISTICS.match(name) else _replaced(name, _STATISTICS)


def _vocoder_name(name: str) -> str | None:
    """Rename a tensor of a vocoder. That of LTX-2.3 contains another vocoder, for the lower frequencies."""
    bare = name.removeprefix("vocoder.")
    if bare.startswith("resampler."):  # diffusers computes it
        return None
    return _UPSAMPLER.sub(r"\1upsamplers.", _replaced(bare, _IN_VOCODER))


_NAMERS: Mapping[str, Callable[[str], str | None]] = {
    "transformer": diffusers_name,
    "connectors": _connector_name,
    "audio_vae": _audio_vae_name,
    "vocoder": _vocoder_name,
}


def _without(name: str, prefixes: tuple[str, ...]) -> str:
    for prefix in prefixes:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name


def _replaced(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for old, new in pairs:
        name = name.replace(old, new)
    return name
