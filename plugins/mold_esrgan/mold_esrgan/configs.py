"""The sizes of the two networks, in a module without torch, so recognising a file does not import it."""

from __future__ import annotations

from attrs import frozen

__all__ = ["CompactConfig", "RRDBConfig"]


@frozen(kw_only=True)
class RRDBConfig:
    """The sizes of an RRDBNet. `unshuffle` is the side of the blocks of pixels that become channels first."""

    blocks: int = 23
    features: int = 64
    growth: int = 32
    stages: int = 2
    unshuffle: int = 1

    @property
    def scale(self) -> int:
        """The factor by which images are enlarged."""
        return (1 << self.stages) // self.unshuffle


@frozen(kw_only=True)
class CompactConfig:
    """The sizes of an SRVGGNetCompact: `convs` counts the convolutions between the first and the last."""

    features: int = 64
    convs: int = 16
    scale: int = 4
