"""Conditioning inputs of a clip: its prefix, fixed frames and audio, images at given frames."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from attrs import frozen
from PIL import Image
from torch import Tensor

from mold_core import decode_image
from mold_core.media import decode_clip, decode_sound
from mold_ltx2.latents import Geometry

if TYPE_CHECKING:
    from mold_core import GenerateRequest, Sound
    from mold_ltx2.decoding import Autoencoders

__all__ = ["ClipPrefix", "Conditioning", "ConditioningImage", "FixedLatents", "prefix_frames"]

# Strength of an image that follows the prefix of a clip, as published.
_LATER_STRENGTH = 0.4


@frozen(kw_only=True, eq=False)
class ConditioningImage:
    """An image to show at a frame. `strength` is 1 for exactly this image, 0 for no influence.

    `appended`: its tokens follow those of the clip, instead of replacing those of a frame.
    """

    frame: float
    image: Image.Image
    strength: float
    appended: bool


@frozen(kw_only=True, eq=False)
class ClipPrefix:
    """Latents that a clip begins with, unchanged: of video [1, C, n, H, W] and of audio [1, C, L, M]."""

    video: Tensor
    audio: Tensor


@frozen(kw_only=True, eq=False)
class FixedLatents:
    """Latents from the beginning of a clip, along their third axis. `mask`, bool [n], selects those that stay."""

    latents: Tensor
    mask: Tensor


def prefix_frames(frames: int, stride: int) -> int:
    """Return how many of a video's frames are the prefix of a clip: a whole number of latents."""
    return (frames - 1) // stride * stride + 1


class Conditioning:
    """Conditioning of a clip by its request and the previous clip. Files are decoded and encoded on first use."""

    def __init__(
        self, request: GenerateRequest, codec: Autoencoders, prefix: ClipPrefix | None, *, doubled: bool
    ) -> None:
        self._request = request
        self._codec = codec
        self._prefix = prefix
        self._doubled = doubled
        self._encoded_sound: dict[int, Tensor] = {}

    def video(self, geometry: Geometry) -> FixedLatents | None:
        """Return the latents of the fixed frames, at the size of a pass."""
        if self._prefix is not None:
            latents = _at(self._prefix.video, geometry)
            return FixedLatents(latents=latents, mask=torch.ones(latents.shape[2], dtype=torch.bool))
        if self._request.source_video is None or self._in_context:
            return None
        latents = self._encoded_frames(geometry.width, geometry.height, geometry)
        times = _latent_times(latents.shape[2], geometry.strides[0], geometry.fps)
        return FixedLatents(latents=latents, mask=self._outside(times))

    def reference_video(self, geometry: Geometry, downscale: int) -> Tensor:
        """Return the latents of the reference video of in-context LoRAs, `downscale` times smaller than the clip."""
        return self._encoded_frames(max(geometry.width // downscale, 1), max(geometry.height // downscale, 1), geometry)

    def audio(self, geometry: Geometry) -> FixedLatents | None:
        """Return the latents of the fixed audio."""
        if self._prefix is not None:
            return FixedLatents(
                latents=self._prefix.audio, mask=torch.ones(self._prefix.audio.shape[2], dtype=torch.bool)
            )
        if self.sound is not None:
            count = geometry.audio
            return FixedLatents(latents=self._latents_of(self.sound, count), mask=torch.ones(count, dtype=torch.bool))
        sound = None if self._in_context else self._source_sound
        if sound is None:
            return None
        count = min(self._codec.sound_latents(self._seconds_of_source), geometry.audio)
        times = _latent_times(count, self._codec.audio_vae.temporal_compression_ratio, self._codec.spectra_per_second)
        return FixedLatents(latents=self._latents_of(sound, count), mask=self._outside(times))

    def _latents_of(self, sound: Sound, count: int) -> Tensor:
        if count not in self._encoded_sound:  # the same in every pass
            self._encoded_sound[count] = self._codec.encode_sound(sound, count)
        return self._encoded_sound[count]

    @cached_property
    def sound(self) -> Sound | None:
        """The sound that the video is generated for."""
        data, name = self._request.audio_file, "audio_file"
        return None if data is None else decode_sound(data, max_seconds=self._seconds, name=name)

    @cached_property
    def images(self) -> tuple[ConditioningImage, ...]:
        """Keyframes, and the source image: the first frame, or the first frame after the prefix."""
        request = self._request
        appended = request.pipeline == "keyframe"
        images = [self._image(item.frame, item.image, 1.0, appended) for item in request.keyframes or ()]
        if request.source_image is not None:
            after = 0
            if self._prefix is not None:
                after = (self._prefix.video.shape[2] - 1) * self._codec.vae.temporal_compression_ratio + 1
            strength = _LATER_STRENGTH if after else request.strength
            images.append(self._image(after, request.source_image, strength, appended))
        return tuple(images)

    def _image(self, frame: int, image: bytes, strength: float, appended: bool) -> ConditioningImage:
        pixels = decode_image(image).convert("RGB")
        return ConditioningImage(
            frame=frame / 2 if self._doubled else frame,
            image=self._codec.as_compressed(pixels),
            strength=strength,
            appended=appended or frame != 0,
        )

    def _encoded_frames(self, width: int, height: int, geometry: Geometry) -> Tensor:
        space = geometry.strides[1]
        return self._codec.encode_video(self._frames, width * space, height * space)

    @property
    def _in_context(self) -> bool:
        return self._request.pipeline == "ic-lora"

    @property
    def _seconds(self) -> float:
        return (self._request.frames or 1) / (self._request.fps or 1)

    @property
    def _seconds_of_source(self) -> float:
        rate = (self._request.fps or 1) / (2 if self._doubled else 1)
        return len(self._frames) / rate

    @cached_property
    def _frames(self) -> Sequence[Image.Image]:
        """The frames of the source video that the clip uses: all of them for a retake, otherwise its prefix."""
        assert self._request.source_video is not None
        width, height = self._request.width, self._request.height
        frames = decode_clip(
            self._request.source_video,
            name="source_video",
            frames=self._request.frames or 1,
            every=2 if self._doubled else 1,
            reach=(width, height) if width and height else None,
            fps=self._request.fps,
        )
        return frames[: prefix_frames(len(frames), self._codec.vae.temporal_compression_ratio)]

    @cached_property
    def _source_sound(self) -> Sound | None:
        data = self._request.source_video
        return None if data is None else decode_sound(data, max_seconds=self._seconds, name="source_video")

    def _outside(self, times: Tensor) -> Tensor:
        """Return which spans of time [n, 2] a retake leaves unchanged; without a retake, all."""
        retake = self._request.retake_range
        if retake is None:
            return torch.ones(len(times), dtype=torch.bool)
        return (times[:, 1] <= retake.start_seconds) | (times[:, 0] >= retake.end_seconds)


def _latent_times(count: int, stride: int, per_second: float) -> Tensor:
    """Return start and end of latents in seconds [count, 2]: the first covers one frame, each other one `stride`."""
    ends = torch.arange(count, dtype=torch.float64) * stride + 1
    begins = torch.cat([torch.zeros(1, dtype=torch.float64), ends[:-1]])
    return torch.stack([begins, ends], dim=1) / per_second


def _at(latents: Tensor, geometry: Geometry) -> Tensor:
    """Return latents resized to a pass."""
    size = (latents.shape[2], geometry.height, geometry.width)
    return latents if latents.shape[2:] == size else torch.nn.functional.interpolate(latents, size=size, mode="area")
