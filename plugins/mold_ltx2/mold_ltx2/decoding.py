"""Decode latents to frames and audio; encode frames and audio to latents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mold_core import Sound
from mold_core.families import images_from_pixels, like_weights, pixels_from_images
from mold_core.media import resampled
from mold_core.weights import LoadedComponents, check_finite
from mold_ltx2.spectrum import log_mel
from mold_ltx2.tiles import decoded, encoded

if TYPE_CHECKING:
    from mold_core import ProgressEvent

__all__ = ["Autoencoders"]

Report = Callable[["ProgressEvent"], object]


def _silently(event: ProgressEvent) -> None:
    """Discard an event."""


class Autoencoders:
    """The autoencoders of video and audio, and the vocoder. Its callers use latents in the scale of the transformer.

    `vae`, `audio_vae` and `vocoder` have no weights; they provide sizes. Components of these names have the weights.
    `statistics` are mean and standard deviation of the latents of video [C] and of audio [C·M].
    `image_crf` is the quality, in x264's scale, to which images are compressed before they are encoded; 0 for none.
    """

    def __init__(
        self,
        components: LoadedComponents,
        *,
        vae: Any,
        audio_vae: Any,
        vocoder: Any,
        statistics: Mapping[str, tuple[Tensor, Tensor]],
        device: str,
        image_crf: int = 0,
    ) -> None:
        self.vae = vae
        self.audio_vae = audio_vae
        self.vocoder = vocoder
        self._components = components
        self._latent_statistics = statistics
        self._device = device
        self._image_crf = image_crf

    def normalised(self, latents: Tensor) -> Tensor:
        """Return the autoencoder's latents [B, C, F, H, W] in the scale of the transformer."""
        mean, std = self._statistics(latents)
        output: Tensor = (latents - mean) * self.vae.config.scaling_factor / std
        return output

    def plain(self, latents: Tensor) -> Tensor:
        """Return the transformer's latents in the scale of the autoencoder."""
        mean, std = self._statistics(latents)
        output: Tensor = latents * std / self.vae.config.scaling_factor + mean
        return output

    def frames(self, latents: Tensor, skip: int = 0, report: Report = _silently) -> Iterator[Image.Image]:
        """Yield the frames of latents [1, C, F, H, W] after the first `skip`. `report` gets the progress of loading."""
        with self._components.use(
            "vae", report
        ) as vae:  # the weights have no gradients, so inference mode is not needed
            for pixels in decoded(vae, like_weights(self.plain(latents), vae)):
                check_finite("VAE", pixels, network=vae)
                for frame in pixels[:, skip:].unbind(1):  # one at a time: a video of bytes and floats is large
                    yield from images_from_pixels(frame[None])
                skip = max(0, skip - pixels.shape[1])

    def sound(self, latents: Tensor, seconds: float, skip_seconds: float = 0.0, report: Report = _silently) -> Sound:
        """Return the audio of latents [1, C, L, M] from `skip_seconds` to `seconds`, exactly."""
        mean, std = self._sound_statistics(latents)
        with self._network("audio_vae", report) as audio_vae:
            spectrum = audio_vae.decode(like_weights(latents * std + mean, audio_vae), return_dict=False)[0]
            check_finite("audio VAE", spectrum, network=audio_vae)
        with self._network("vocoder", report) as vocoder:
            waves = vocoder(like_weights(spectrum, vocoder))[0].float().cpu()
            check_finite("vocoder", waves, network=vocoder)
        rate = self.vocoder.config.output_sampling_rate
        first, last = round(skip_seconds * rate), round(seconds * rate)
        waves = F.pad(waves, (0, max(0, last - waves.shape[1])))[:, first:last]
        return Sound(samples=np.ascontiguousarray(waves.clamp(-1, 1).numpy()), sample_rate=rate)

    @property
    def spectra_per_second(self) -> float:
        """Spectra per second of audio; each latent after the first covers several."""
        return float(self.audio_vae.config.sample_rate / self.audio_vae.config.mel_hop_length)

    def sound_latents(self, seconds: float) -> int:
        """Return the number of latents of audio of a duration."""
        stride: int = self.audio_vae.temporal_compression_ratio
        return round(seconds * self.spectra_per_second / stride)

    def encode_sound(self, sound: Sound, count: int) -> Tensor:
        """Return audio, with silence after its end, as latents [1, C, count, M]."""
        config, stride = self.audio_vae.config, self.audio_vae.temporal_compression_ratio
        waves = torch.from_numpy(resampled(sound, config.sample_rate)).expand(config.in_channels, -1)
        length = count * stride * config.mel_hop_length
        waves = F.pad(waves, (0, max(0, length - waves.shape[1])))[None, :, :length]
        spectra = log_mel(waves, sample_rate=config.sample_rate, hop=config.mel_hop_length, bands=config.mel_bins)[
            :, :, : stride * (count - 1) + 1
        ]
        with self._network("audio_vae") as audio_vae:
            latents = audio_vae.encode(like_weights(spectra, audio_vae)).latent_dist.mode().to(self._device).float()
            check_finite("audio VAE", latents, network=audio_vae, when="while it encoded the audio")
        mean, std = self._sound_statistics(latents)
        output: Tensor = (latents - mean) / std
        return output

    def as_compressed(self, image: Image.Image) -> Image.Image:
        """Return an image with the compression artifacts of the videos that the model was trained on."""
        if not self._image_crf:
            return image
        from diffusers.pipelines.ltx2.utils import apply_image_conditioning_crf

        return Image.fromarray(apply_image_conditioning_crf(np.asarray(image), self._image_crf))

    def encode_video(self, frames: Sequence[Image.Image], width: int, height: int) -> Tensor:
        """Return frames, 8n+1 of them, cropped to fill the size, as latents [1, C, n+1, H, W]."""
        return self.encode_frames([_cropped_to(frame, width, height) for frame in frames])

    def encode_image(self, image: Image.Image, width: int, height: int) -> Tensor:
        """Return an image, cropped to fill the size, as one latent frame [1, C, 1, H, W]."""
        return self.encode_frames([_cropped_to(image, width, height)])

    def encode_frames(self, frames: list[Image.Image]) -> Tensor:
        """Return frames, 8n+1 of them, as latents [1, C, n+1, H, W]."""
        video = pixels_from_images(frames).transpose(0, 1)[None]
        with self._network("vae") as vae:
            latents = encoded(vae, like_weights(video, vae)).to(self._device)
            check_finite("VAE", latents, network=vae, when="while it encoded the source")
        return self.normalised(latents.float())

    def _sound_statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (
            value.to(latents).unflatten(0, (self.audio_vae.config.latent_channels, -1))[None, :, None]
            for value in self._latent_statistics["audio_vae"]
        )
        return mean, std

    @contextmanager
    def _network(self, name: str, report: Report = _silently) -> Iterator[Any]:
        with self._components.use(name, report) as network, torch.inference_mode():
            yield network

    def _statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (value.to(latents)[None, :, None, None, None] for value in self._latent_statistics["vae"])
        return mean, std


def _cropped_to(image: Image.Image, width: int, height: int) -> Image.Image:
    """Return an image scaled to cover width x height and cropped around its centre."""
    scale = max(width / image.width, height / image.height)
    size = (max(round(image.width * scale), width), max(round(image.height * scale), height))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    resized = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    return resized.crop((left, top, left + width, top + height))
