"""The two architectures of Real-ESRGAN. Imports torch only to load a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mold_core import UpscalerArchitecture, UpscalerNetwork
from mold_esrgan.layouts import compact_config, compact_tensors, rrdb_config, rrdb_tensors

if TYPE_CHECKING:
    from mold_core import LoadContext
    from mold_core.weights import TensorSource

__all__ = ["COMPACT_FEATHER", "RRDB", "RRDB_FEATHER", "RRDB_OVERLAP", "Compact", "compact_overlap"]

# The receptive field of an RRDBNet is hundreds of pixels. That of trained networks was measured (docs/upscaling.md):
# cropping at a distance of 12 pixels changes the result of RealESRGAN_x4plus by up to 96 levels of 255, at 48 pixels by
# up to 7. Where two tiles are blended, both have at least 48 pixels of context, and 56 where their weights are equal.
RRDB_OVERLAP, RRDB_FEATHER = 112, 16

# PERF: overlaps are computed twice: half of all pixels with tiles of 640 pixels, three quarters with 480. Computing
# takes 3.4 GB of memory; with less, tiles are smaller.
RRDB_TILE = 640
COMPACT_FEATHER = 2


class RRDB(UpscalerArchitecture):
    """RRDBNet: RealESRGAN_x4plus, x2plus, the anime model with 6 blocks, and ESRGAN's own files."""

    name = "RRDBNet"

    def recognises(self, tensors: Mapping[str, TensorSource]) -> bool:
        """Return whether the tensors are an RRDBNet, in any of its layouts."""
        return rrdb_tensors(tensors) is not None

    def load(self, tensors: Mapping[str, TensorSource], context: LoadContext) -> UpscalerNetwork:
        """Return the network. Raises CheckpointError for tensors that are missing or of the wrong shape."""
        from mold_esrgan.loading import load_network
        from mold_esrgan.networks import RRDBNet

        named = rrdb_tensors(tensors) or {}
        config = rrdb_config(named)
        module, size_bytes, close = load_network(RRDBNet, config, named, context)
        return UpscalerNetwork(
            module=module,
            scale=config.scale,
            size_bytes=size_bytes,
            multiple=config.unshuffle,
            min_side=config.unshuffle,
            # Sizes are in pixels after unshuffling, which has fewer.
            overlap=RRDB_OVERLAP * config.unshuffle,
            feather=RRDB_FEATHER * config.unshuffle,
            tile=RRDB_TILE * config.unshuffle,
            bytes_per_pixel=_rrdb_bytes(config.features, config.stages, config.unshuffle),
            close=close,
        )


class Compact(UpscalerArchitecture):
    """SRVGGNetCompact: realesr-animevideov3, realesr-general-x4v3 and esrgan-nano-x4."""

    name = "SRVGGNetCompact"

    def recognises(self, tensors: Mapping[str, TensorSource]) -> bool:
        """Return whether the tensors are an SRVGGNetCompact."""
        return compact_tensors(tensors) is not None

    def load(self, tensors: Mapping[str, TensorSource], context: LoadContext) -> UpscalerNetwork:
        """Return the network. Raises CheckpointError for tensors that are missing or of the wrong shape."""
        from mold_esrgan.loading import load_network
        from mold_esrgan.networks import SRVGGNetCompact

        named = compact_tensors(tensors) or {}
        config = compact_config(named)
        module, size_bytes, close = load_network(SRVGGNetCompact, config, named, context)
        return UpscalerNetwork(
            module=module,
            scale=config.scale,
            size_bytes=size_bytes,
            overlap=compact_overlap(config.convs),
            feather=COMPACT_FEATHER,
            tile=320,
            bytes_per_pixel=8 * config.features + 3 * config.scale**2 * 14,
            close=close,
        )


def compact_overlap(convs: int) -> int:
    """Return the exact overlap of tiles of an SRVGGNetCompact: each convolution adds one pixel of context."""
    return 2 * (convs + 2) + COMPACT_FEATHER


def _rrdb_bytes(features: int, stages: int, unshuffle: int) -> int:
    """Return the working memory for each pixel of the input: before the last convolution, at the size of the result."""
    return (8 * features << 2 * stages) // unshuffle**2
