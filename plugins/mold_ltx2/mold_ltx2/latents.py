"""Latents of a clip, and the tokens of the transformer."""

from __future__ import annotations

from typing import Any

import torch
from attrs import frozen
from torch import Tensor

__all__ = ["Geometry", "frame_positions", "pack", "pack_audio", "unpack", "unpack_audio"]


@frozen(kw_only=True)
class Geometry:
    """The size of a clip in latents: `frames` x `height` x `width` of video, `audio` of audio.

    `strides` are the frames and pixels that a latent covers. The first latent covers one frame.
    """

    frames: int
    height: int
    width: int
    audio: int
    fps: float
    strides: tuple[int, int]

    @classmethod
    def of(cls, vae: Any, audio_vae: Any, *, frames: int, width: int, height: int, fps: float) -> Geometry:
        """Return the geometry of a clip of a size in frames and pixels."""
        time, stride = vae.temporal_compression_ratio, vae.spatial_compression_ratio
        config = audio_vae.config
        per_second = config.sample_rate / config.mel_hop_length / audio_vae.temporal_compression_ratio
        return cls(
            frames=(frames - 1) // time + 1,
            height=height // stride,
            width=width // stride,
            audio=round(frames / fps * per_second),
            fps=fps,
            strides=(time, stride),
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
    """Return tokens as video latents [B, C, F, H, W]; appended tokens are left out."""
    shape = (geometry.frames, geometry.height, geometry.width)
    latents: Tensor = tokens[:, : geometry.tokens].transpose(1, 2).unflatten(2, shape)
    return latents


def pack_audio(latents: Tensor) -> Tensor:
    """Return audio latents [B, C, L, M] as tokens [B, L, C·M]."""
    return latents.transpose(1, 2).flatten(2)


def unpack_audio(tokens: Tensor, channels: int) -> Tensor:
    """Return tokens as audio latents [B, C, L, M]."""
    latents: Tensor = tokens.unflatten(2, (channels, -1))
    return latents.transpose(1, 2)


def frame_positions(geometry: Geometry, frame: float, device: str) -> Tensor:
    """Return the positions of the tokens of an image at a frame: start and end [1, 3, H·W, 2], in seconds and pixels.

    The image lasts one frame, at any frame. Source: Lightricks' VideoConditionByKeyframeIndex, as in diffusers 0.42.
    """
    stride = geometry.strides[1]
    rows = torch.arange(geometry.height, dtype=torch.float32, device=device) * stride
    columns = torch.arange(geometry.width, dtype=torch.float32, device=device) * stride
    y, x = (axis.flatten() for axis in torch.meshgrid(rows, columns, indexing="ij"))
    time = torch.full_like(y, float(frame))
    begins = torch.stack([time, y, x])
    ends = torch.stack([time + 1, y + stride, x + stride])
    positions = torch.stack([begins, ends], dim=-1)[None]
    positions[:, 0] /= geometry.fps
    return positions
