"""The sizes of LTX-2's networks. Files do not contain all of them; a catalog entry may have others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from attrs import frozen

from mold_core import CheckpointError

__all__ = ["OFFICIAL", "Version", "VersionName", "recognise_version", "version_of"]

VersionName = Literal["2.0", "2.3"]

_VIDEO_LATENTS = {"spatial_compression_ratio": 32, "temporal_compression_ratio": 8}
_CONNECTORS = {"rope_type": "split", "caption_channels": 3840, "text_proj_in_factor": 49}

# LTX-2 19B and LTX-2.3 22B, where they differ from the defaults of diffusers. Source:
# diffusers' scripts/convert_ltx2_to_diffusers.py.
OFFICIAL: Mapping[VersionName, Mapping[str, Mapping[str, Any]]] = {
    "2.0": {
        "transformer": {"rope_type": "split"},
        "connectors": _CONNECTORS,
        "vae": {**_VIDEO_LATENTS, "decoder_causal": False},
        "audio_vae": {},
        "vocoder": {},
    },
    "2.3": {
        "transformer": {
            "rope_type": "split",
            "gated_attn": True,
            "cross_attn_mod": True,
            "audio_gated_attn": True,
            "audio_cross_attn_mod": True,
            "use_prompt_embeddings": False,
            "perturbed_attn": True,
        },
        "connectors": {
            **_CONNECTORS,
            "video_connector_num_attention_heads": 32,
            "video_connector_num_layers": 8,
            "video_gated_attn": True,
            "audio_connector_num_attention_heads": 32,
            "audio_connector_attention_head_dim": 64,
            "audio_connector_num_layers": 8,
            "audio_gated_attn": True,
            "per_modality_projections": True,
            "proj_bias": True,
        },
        "vae": {
            **_VIDEO_LATENTS,
            "decoder_causal": False,
            "block_out_channels": (256, 512, 1024, 1024),
            "decoder_block_out_channels": (256, 512, 512, 1024),
            "layers_per_block": (4, 6, 4, 2, 2),
            "decoder_layers_per_block": (4, 6, 4, 2, 2),
            "decoder_spatio_temporal_scaling": (True,) * 4,
            "decoder_inject_noise": (False,) * 5,
            "upsample_type": ("spatiotemporal", "spatiotemporal", "temporal", "spatial"),
            "upsample_residual": (False,) * 4,
            "upsample_factor": (2, 2, 1, 2),
            "decoder_spatial_padding_mode": "zeros",
        },
        "audio_vae": {},
        "vocoder": {},  # diffusers' LTX2VocoderWithBWE is that of LTX-2.3
    },
}


@frozen(kw_only=True)
class Version:
    """What differs between models beside sizes.

    `cross_timestep`: whether what passes between video and sound is modulated by the other's noise level.
    `stg_blocks`: the blocks whose self-attention is skipped for spatio-temporal guidance.
    """

    name: VersionName
    cross_timestep: bool
    stg_blocks: tuple[int, ...]


_VERSIONS: Mapping[VersionName, Version] = {
    "2.0": Version(name="2.0", cross_timestep=False, stg_blocks=(29,)),
    "2.3": Version(name="2.3", cross_timestep=True, stg_blocks=(28,)),
}


def version_of(name: VersionName) -> Version:
    """Return a version by its name."""
    return _VERSIONS[name]


def recognise_version(names: Iterable[str]) -> VersionName:
    """Return the version of a transformer by the names of its tensors, official or diffusers'.

    LTX-2.3 modulates the prompt by the noise level. Raises CheckpointError for LTX-2.5, which does so with a table
    alone.
    """
    table = False
    for name in names:
        if "prompt_adaln" in name:
            return "2.3"
        table = table or "prompt_scale_shift_table" in name
    if table:
        raise CheckpointError(
            "this is an LTX-2.5 model, which mold cannot run", hint="LTX-2 and LTX-2.3 models are in mold list"
        )
    return "2.0"
