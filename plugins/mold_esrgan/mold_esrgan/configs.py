"""The sizes of the two networks, apart from them so that recognising a file needs no torch."""

from __future__ import annotations

from attrs import frozen

__all__ = ["CompactConfig", "RRDBConfig"]


@frozen(kw_only=True)
class RRDBConfig:
    """The sizes of an RRDBNet. `unshuffle` is the side of the pixel blocks that are first folded into channels."""

    blocks: int = 23
    features: int = 64
    growth: int = 32
    stages: int = 2
    unshuffle: int = 1

    @property
    def scale(self) -> int:
        """How many times larger the image becomes."""
        return (1 << self.stages) // self.unshuffle


@frozen(kw_only=True)
class CompactConfig:
    """The sizes of an SRVGGNetCompact: `convs` counts the convolutions between the first and the last."""

    features: int = 64
    convs: int = 16
    scale: int = 4
