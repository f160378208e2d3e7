"""The sizes of LTX-2's networks. A file does not tell them all, so they are written down; a spec may say others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

__all__ = ["OFFICIAL", "Version", "version_of"]

# LTX-2 19B, as its release says.
OFFICIAL: Mapping[str, Mapping[str, Any]] = {
    "transformer": {},  # diffusers' defaults are LTX-2's
    "connectors": {"rope_type": "interleaved"},
    "vae": {"decoder_causal": False, "spatial_compression_ratio": 32, "temporal_compression_ratio": 8},
    "audio_vae": {},
    "vocoder": {},
}


@frozen(kw_only=True)
class Version:
    """What differs between models beside sizes.

    `cross_timestep`: whether what passes between video and sound is modulated by the other's noise level.
    `stg_blocks`: the blocks whose self-attention is skipped for spatio-temporal guidance.
    """

    cross_timestep: bool
    stg_blocks: tuple[int, ...]


_VERSIONS = {
    "2.0": Version(cross_timestep=False, stg_blocks=(29,)),
    "2.3": Version(cross_timestep=True, stg_blocks=(28,)),
}


def version_of(options: Mapping[str, Any]) -> Version:
    """Return what the option `version` of a spec stands for."""
    return _VERSIONS[options.get("version", "2.0")]
