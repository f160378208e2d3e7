"""Latents to frames and sound, and pictures to latents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mold_core import Sound

__all__ = ["Autoencoders"]


class Autoencoders:
    """The autoencoders of video and sound, and the vocoder. Outside, latents are as the transformer has them."""

    def __init__(self, vae: Any, audio_vae: Any, vocoder: Any, device: str) -> None:
        self.vae = vae
        self.audio_vae = audio_vae
        self.vocoder = vocoder
        self._device = device

    def normalised(self, latents: Tensor) -> Tensor:
        """Return the autoencoder's latents [B, C, F, H, W] as the transformer has them."""
        mean, std = self._statistics(latents)
        return (latents - mean) * self.vae.config.scaling_factor / std

    def plain(self, latents: Tensor) -> Tensor:
        """Return the transformer's latents as the autoencoder has them."""
        mean, std = self._statistics(latents)
        return latents * std / self.vae.config.scaling_factor + mean

    def frames(self, latents: Tensor, skip: int = 0) -> Iterator[Image.Image]:
        """Yield the frames of latents [1, C, F, H, W] after the first `skip`."""
        with torch.inference_mode():
            pixels = self.vae.decode(self.plain(latents).to(self.vae.dtype), return_dict=False)[0][0]
        for frame in pixels[:, skip:].unbind(1):
            levels = frame.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
            yield Image.fromarray(levels.permute(1, 2, 0).contiguous().cpu().numpy())

    def sound(self, latents: Tensor, seconds: float, skip_seconds: float = 0.0) -> Sound:
        """Return the sound of latents [1, C, L, M] from `skip_seconds` on, exactly as long as the frames are."""
        config = self.audio_vae.config
        mean, std = (
            value.to(latents).unflatten(0, (config.latent_channels, -1))[None, :, None]
            for value in (self.audio_vae.latents_mean, self.audio_vae.latents_std)
        )
        with torch.inference_mode():
            spectrum = self.audio_vae.decode((latents * std + mean).to(self.audio_vae.dtype), return_dict=False)[0]
            waves = self.vocoder(spectrum.to(next(self.vocoder.parameters()).dtype))[0].float().cpu()
        rate = self.vocoder.config.output_sampling_rate
        first, last = round(skip_seconds * rate), round(seconds * rate)
        waves = F.pad(waves, (0, max(0, last - waves.shape[1])))[:, first:last]
        return Sound(samples=np.ascontiguousarray(waves.clamp(-1, 1).numpy()), sample_rate=rate)

    def encode_picture(self, picture: Image.Image, width: int, height: int) -> Tensor:
        """Return a picture, cropped to fill the size, as one latent frame [1, C, 1, H, W]."""
        return self.encode_frames([_filling(picture, width, height)])

    def encode_frames(self, frames: list[Image.Image]) -> Tensor:
        """Return frames, 8n+1 of them, as latents [1, C, n+1, H, W]."""
        pixels = torch.from_numpy(np.stack([np.asarray(frame.convert("RGB")) for frame in frames]))
        video = pixels.permute(3, 0, 1, 2)[None].to(self._device).float().div(127.5).sub(1)
        with torch.inference_mode():
            latents = self.vae.encode(video.to(self.vae.dtype)).latent_dist.mode()
        return self.normalised(latents.float())

    def _statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(  # type: ignore[return-value]
            value.to(latents)[None, :, None, None, None] for value in (self.vae.latents_mean, self.vae.latents_std)
        )


def _filling(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Return a picture scaled to cover width x height, cut evenly at its longer sides."""
    scale = max(width / picture.width, height / picture.height)
    size = (max(round(picture.width * scale), width), max(round(picture.height * scale), height))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    resized = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    return resized.crop((left, top, left + width, top + height))
