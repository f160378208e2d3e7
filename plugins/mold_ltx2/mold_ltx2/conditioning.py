"""What a clip is given: how it begins, which of its frames and sound stay, images that it comes by."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from attrs import frozen
from PIL import Image
from torch import Tensor

from mold_core import decode_image
from mold_core.media.decoder import decode_clip, decode_sound
from mold_ltx2.latents import Geometry

if TYPE_CHECKING:
    from mold_core import GenerateRequest, Sound
    from mold_ltx2.decoding import Autoencoders

__all__ = ["Conditioning", "Fixed", "Held", "Pinned", "prefix_frames"]

# How far an image after what a clip goes on from is held to, as published.
_LATER_STRENGTH = 0.4


@frozen(kw_only=True, eq=False)
class Held:
    """An image that the clip shows at a frame, and how surely: 1 exactly, 0 not at all.

    `appended`: it is shown to the model beside the clip's own frames, not in the place of one.
    """

    frame: float
    image: Image.Image
    strength: float
    appended: bool


@frozen(kw_only=True, eq=False)
class Pinned:
    """Latents that a clip begins with, exactly: of video [1, C, n, H, W] and of sound [1, C, L, M]."""

    video: Tensor
    audio: Tensor


@frozen(kw_only=True, eq=False)
class Fixed:
    """Latents from the beginning of a clip on, along their third axis, and which of them stay as they are: bool [n]."""

    latents: Tensor
    stays: Tensor


def prefix_frames(frames: int, stride: int) -> int:
    """Return how many of a video's frames are the beginning of a clip: a whole number of latents."""
    return (frames - 1) // stride * stride + 1


class Conditioning:
    """What a request and the clip before give to a clip. Files are read and encoded when they are first needed."""

    def __init__(self, request: GenerateRequest, codec: Autoencoders, pinned: Pinned | None, *, doubled: bool) -> None:
        self._request = request
        self._codec = codec
        self._pinned = pinned
        self._doubled = doubled
        self._encoded_sound: dict[int, Tensor] = {}

    def video(self, geometry: Geometry) -> Fixed | None:
        """Return the latents of frames that stay, at the size of a pass."""
        if self._pinned is not None:
            latents = _at(self._pinned.video, geometry)
            return Fixed(latents=latents, stays=torch.ones(latents.shape[2], dtype=torch.bool))
        if self._request.source_video is None or self._in_context:
            return None
        latents = self._encoded_frames(geometry.width, geometry.height, geometry)
        times = _latent_times(latents.shape[2], geometry.strides[0], geometry.fps)
        return Fixed(latents=latents, stays=self._outside(times))

    def shown(self, geometry: Geometry, smaller: int) -> Tensor:
        """Return the latents of the source video that in-context LoRAs are shown, so many times smaller."""
        return self._encoded_frames(max(geometry.width // smaller, 1), max(geometry.height // smaller, 1), geometry)

    def audio(self, geometry: Geometry) -> Fixed | None:
        """Return the latents of sound that stays."""
        if self._pinned is not None:
            return Fixed(latents=self._pinned.audio, stays=torch.ones(self._pinned.audio.shape[2], dtype=torch.bool))
        if self.sound is not None:
            count = geometry.audio
            return Fixed(latents=self._latents_of(self.sound, count), stays=torch.ones(count, dtype=torch.bool))
        heard = None if self._in_context else self._source_sound
        if heard is None:
            return None
        count = min(self._codec.sound_latents(self._seconds_of_source), geometry.audio)
        times = _latent_times(count, self._codec.audio_vae.temporal_compression_ratio, self._codec.spectra_per_second)
        return Fixed(latents=self._latents_of(heard, count), stays=self._outside(times))

    def _latents_of(self, sound: Sound, count: int) -> Tensor:
        if count not in self._encoded_sound:  # it is the same in every pass
            self._encoded_sound[count] = self._codec.encode_sound(sound, count)
        return self._encoded_sound[count]

    @cached_property
    def sound(self) -> Sound | None:
        """The sound that the clip is made for."""
        data, name = self._request.audio_file, "audio_file"
        return None if data is None else decode_sound(data, max_seconds=self._seconds, name=name)

    @cached_property
    def images(self) -> tuple[Held, ...]:
        """Images that the clip shows: keyframes, and its source image, which is where it begins or goes on."""
        request = self._request
        guiding = request.pipeline == "keyframe"
        held = [self._held(item.frame, item.image, 1.0, guiding) for item in request.keyframes or ()]
        if request.source_image is not None:
            after = 0
            if self._pinned is not None:
                after = (self._pinned.video.shape[2] - 1) * self._codec.vae.temporal_compression_ratio + 1
            strength = _LATER_STRENGTH if after else request.strength
            held.append(self._held(after, request.source_image, strength, guiding))
        return tuple(held)

    def _held(self, frame: int, image: bytes, strength: float, guiding: bool) -> Held:
        pixels = decode_image(image).convert("RGB")
        return Held(
            frame=frame / 2 if self._doubled else frame,
            image=self._codec.as_compressed(pixels),
            strength=strength,
            appended=guiding or frame != 0,
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
        """The frames of the source video that the clip has: all for a retake, else those that it begins with."""
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
        """Return which stretches of time [n, 2] a retake leaves as they are; without one, all."""
        again = self._request.retake_range
        if again is None:
            return torch.ones(len(times), dtype=torch.bool)
        return (times[:, 1] <= again.start_seconds) | (times[:, 0] >= again.end_seconds)


def _latent_times(count: int, stride: int, per_second: float) -> Tensor:
    """Return when latents begin and end, in seconds [count, 2]: the first stands for one frame, others for `stride`."""
    ends = torch.arange(count, dtype=torch.float64) * stride + 1
    begins = torch.cat([torch.zeros(1, dtype=torch.float64), ends[:-1]])
    return torch.stack([begins, ends], dim=1) / per_second


def _at(latents: Tensor, geometry: Geometry) -> Tensor:
    """Return latents at the size of a pass."""
    size = (latents.shape[2], geometry.height, geometry.width)
    return latents if latents.shape[2:] == size else torch.nn.functional.interpolate(latents, size=size, mode="area")
