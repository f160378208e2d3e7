"""Latents of a clip and the tokens that the transformer sees of them."""

from __future__ import annotations

from typing import Any

import torch
from attrs import frozen
from torch import Tensor

__all__ = ["Geometry", "frame_tokens", "pack", "pack_audio", "unpack", "unpack_audio"]


@frozen(kw_only=True)
class Geometry:
    """How many latents a clip has: `frames` x `height` x `width` of video, `audio` of sound.

    `strides` are frames and pixels that a latent stands for, after the first latent of one frame.
    """

    frames: int
    height: int
    width: int
    audio: int
    fps: float
    strides: tuple[int, int]

    @classmethod
    def of(cls, vae: Any, audio_vae: Any, *, frames: int, width: int, height: int, fps: float) -> Geometry:
        """Return the latents of a clip of so many frames and pixels."""
        time, space = vae.temporal_compression_ratio, vae.spatial_compression_ratio
        config = audio_vae.config
        per_second = config.sample_rate / config.mel_hop_length / audio_vae.temporal_compression_ratio
        return cls(
            frames=(frames - 1) // time + 1,
            height=height // space,
            width=width // space,
            audio=round(frames / fps * per_second),
            fps=fps,
            strides=(time, space),
        )

    @property
    def pixel_frames(self) -> int:
        """Frames of the clip."""
        return (self.frames - 1) * self.strides[0] + 1

    @property
    def tokens(self) -> int:
        """Tokens of the video."""
        return self.frames * self.height * self.width


def pack(latents: Tensor) -> Tensor:
    """Return video latents [B, C, F, H, W] as tokens [B, F·H·W, C]."""
    return latents.flatten(2).transpose(1, 2)


def unpack(tokens: Tensor, geometry: Geometry) -> Tensor:
    """Return tokens as video latents [B, C, F, H, W]; tokens behind those of the video are left out."""
    shape = (geometry.frames, geometry.height, geometry.width)
    latents: Tensor = tokens[:, : geometry.tokens].transpose(1, 2).unflatten(2, shape)
    return latents


def pack_audio(latents: Tensor) -> Tensor:
    """Return sound latents [B, C, L, M] as tokens [B, L, C·M]."""
    return latents.transpose(1, 2).flatten(2)


def unpack_audio(tokens: Tensor, channels: int) -> Tensor:
    """Return tokens as sound latents [B, C, L, M]."""
    latents: Tensor = tokens.unflatten(2, (channels, -1))
    return latents.transpose(1, 2)


def frame_tokens(geometry: Geometry, frame: float, device: str) -> Tensor:
    """Return where one image at frame `frame` lies in time and space: [1, 3, H·W, 2], in seconds and pixels.

    It takes one frame's time, wherever it is; source: Lightricks' VideoConditionByKeyframeIndex, as in diffusers 0.42.
    """
    space = geometry.strides[1]
    rows = torch.arange(geometry.height, dtype=torch.float32, device=device) * space
    columns = torch.arange(geometry.width, dtype=torch.float32, device=device) * space
    y, x = (axis.flatten() for axis in torch.meshgrid(rows, columns, indexing="ij"))
    time = torch.full_like(y, float(frame))
    begins = torch.stack([time, y, x])
    ends = torch.stack([time + 1, y + space, x + space])
    places = torch.stack([begins, ends], dim=-1)[None]
    places[:, 0] /= geometry.fps
    return places
