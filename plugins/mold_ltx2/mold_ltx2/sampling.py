"""The denoising loop of LTX-2, for video and audio together, with or without guidance and fixed tokens.

Steps are Euler steps of a rectified flow (arXiv 2209.03003), or those of `second_order`. Fixed tokens follow diffusers'
LTX2ConditionPipeline: a token with mask m is at noise level (1 - m)·sigma, and after every step it is mixed with its
clean value, with weight m.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from attrs import evolve, frozen
from torch import Generator, Tensor

from mold_core.weights import check_finite
from mold_ltx2.latents import Geometry
from mold_ltx2.second_order import Values, second_order

__all__ = ["DISTILLED", "REFINING", "Guidance", "Prompt", "Stream", "denoise", "noised", "schedule"]

# Noise levels that the distilled models were trained for: of the first pass, and of the second at twice the size.
DISTILLED = (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875)
REFINING = (0.909375, 0.725, 0.421875)

_TRAINING_STEPS = 1000

OnStep = Callable[[int, int], None]


@frozen(kw_only=True, eq=False)
class Prompt:
    """An encoded prompt: embeddings for video and for audio [1, T, D], and the mask of valid tokens [1, T]."""

    video: Tensor
    audio: Tensor
    mask: Tensor

    def to(self, device: str) -> Prompt:
        """Return the same on a device."""
        return Prompt(video=self.video.to(device), audio=self.audio.to(device), mask=self.mask.to(device))


@frozen(kw_only=True, eq=False)
class Stream:
    """Noisy tokens of one modality [1, N, C] in fp32. `mask` [1, N, 1] is how far each is fixed to `clean`."""

    tokens: Tensor
    mask: Tensor
    clean: Tensor
    positions: Tensor


@frozen(kw_only=True)
class Guidance:
    """Scales of guidance, away from predictions without the prompt, with skipped attention, and of one modality alone.

    1, 0 and 1 mean no guidance, and cost nothing. `rescale` applies to audio too unless `audio_rescale` is set.
    """

    prompt: float = 1.0
    audio_prompt: float = 1.0
    skipped_attention: float = 0.0
    modality: float = 1.0
    rescale: float = 0.0
    audio_rescale: float | None = None

    @property
    def needs_negative(self) -> bool:
        """Whether the guidance uses a negative prompt."""
        return self.prompt > 1 or self.audio_prompt > 1

    def without_sound(self) -> Guidance:
        """Return the same without guidance of the audio."""
        return evolve(self, audio_prompt=1.0)


def schedule(steps: int, tokens: int) -> tuple[float, ...]:
    """Return the noise levels of a model that is not distilled, without the final 0.

    They are shifted by the length of the clip (arXiv 2403.03206 §5.3.2, between the published 0.95 and 2.05 for 1024
    and 4096 tokens), and stretched to end at 0.1.
    """
    shift = torch.tensor(0.95 + (tokens - 1024) * (2.05 - 0.95) / (4096 - 1024)).exp().item()
    linear = [1 - index * (1 - 1 / steps) / max(steps - 1, 1) for index in range(steps)]
    shifted = [shift / (shift + 1 / level - 1) for level in linear]
    lowest = 1 - shifted[-1]
    stretch = lowest / (1 - 0.1) if lowest else 1.0
    return tuple(1 - (1 - level) / stretch for level in shifted)


def noised(stream: Stream, noise: Tensor, sigma: float) -> Stream:
    """Return the stream at noise level `sigma`; fixed tokens have less noise."""
    level = (1 - stream.mask) * sigma
    return evolve(stream, tokens=noise * level + stream.tokens * (1 - level))


def denoise(
    transformer: Any,
    geometry: Geometry,
    video: Stream,
    audio: Stream,
    prompt: Prompt,
    sigmas: Sequence[float],
    on_step: OnStep,
    *,
    cross_timestep: bool,
    guidance: Guidance = Guidance(),
    negative: Prompt | None = None,
    stg_blocks: Sequence[int] = (),
    fresh: Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the tokens of video and audio at noise level 0. `on_step` is called after each step and may raise.

    With `fresh`, steps are of second order and draw new noise from it. Raises InferenceError if the result of the first
    or the last step is not finite.
    """
    audio_fixed = bool((audio.mask == 1).all())  # PERF: read once, because reading waits for the device
    model = _Model(transformer, geometry, video, audio, cross_timestep, audio_fixed)
    tokens, sounds = video.tokens, audio.tokens

    def level(sigma: float) -> Tensor:
        return torch.tensor(sigma, dtype=torch.float32, device=tokens.device)

    def denoised(values: Values, sigma: float) -> Values:
        video_out, audio_out = _guided(model, *values, level(sigma), prompt, negative, guidance, stg_blocks)
        if sigma == sigmas[0]:
            check_finite("transformer", video_out, audio_out, network=transformer, when="in its first step")
        return _with_fixed(video_out, video), _with_fixed(audio_out, audio)

    if fresh is not None:
        tokens, sounds = second_order(denoised, (tokens, sounds), sigmas, fresh, on_step, (video.mask, audio.mask))
        check_finite("transformer", tokens, sounds, network=transformer, when="by its last step")
        return tokens, sounds
    for index, (sigma, after) in enumerate(pairwise([*sigmas, 0.0])):
        clean_values = denoised((tokens, sounds), sigma)
        step = level(after) - level(sigma)
        tokens, sounds = (
            value + (value - end) / level(sigma) * step
            for value, end in zip((tokens, sounds), clean_values, strict=True)
        )
        on_step(index + 1, len(sigmas))
    check_finite("transformer", tokens, sounds, network=transformer, when="by its last step")
    return tokens, sounds


@frozen(eq=False)
class _Model:
    """The transformer with the inputs that are the same in every step of a clip."""

    transformer: Any
    geometry: Geometry
    video: Stream
    audio: Stream
    cross_timestep: bool
    audio_fixed: bool = False

    def denoised(self, tokens: Tensor, sounds: Tensor, sigma: Tensor, prompt: Prompt, **options: Any) -> Values:
        """Return the model's prediction of the clip without noise: x - sigma·v, in fp32."""
        dtype = prompt.video.dtype
        time = (sigma * _TRAINING_STEPS).expand(tokens.shape[0])
        audio_time = torch.zeros_like(time) if self.audio_fixed else time
        velocities = self.transformer(
            hidden_states=tokens.to(dtype),
            audio_hidden_states=sounds.to(dtype),
            encoder_hidden_states=prompt.video,
            audio_encoder_hidden_states=prompt.audio,
            timestep=time[:, None] * (1 - self.video.mask[..., 0]),
            audio_timestep=time[:, None] * (1 - self.audio.mask[..., 0]),
            sigma=time,
            audio_sigma=audio_time,
            encoder_attention_mask=prompt.mask,
            audio_encoder_attention_mask=prompt.mask,
            num_frames=self.geometry.frames,
            height=self.geometry.height,
            width=self.geometry.width,
            fps=self.geometry.fps,
            audio_num_frames=self.geometry.audio,
            video_coords=self.video.positions,
            audio_coords=self.audio.positions,
            use_cross_timestep=self.cross_timestep,
            return_dict=False,
            **options,
        )
        video, audio = (
            value - velocity.float() * sigma for value, velocity in zip((tokens, sounds), velocities, strict=True)
        )
        return video, audio


def _guided(
    model: _Model,
    tokens: Tensor,
    sounds: Tensor,
    sigma: Tensor,
    prompt: Prompt,
    negative: Prompt | None,
    guidance: Guidance,
    stg_blocks: Sequence[int],
) -> Values:
    """Return the prediction without noise, after guidance."""
    clean_values = model.denoised(tokens, sounds, sigma, prompt)
    guided = [value.clone() for value in clean_values]

    def move_away(weaker: Values, *scales: float) -> None:
        for index, scale in enumerate(scales):
            guided[index] += scale * (clean_values[index] - weaker[index])

    if guidance.needs_negative:
        assert negative is not None
        weaker = model.denoised(tokens, sounds, sigma, negative)
        move_away(weaker, guidance.prompt - 1, guidance.audio_prompt - 1)
    if guidance.skipped_attention > 0:
        weaker = model.denoised(tokens, sounds, sigma, prompt, spatio_temporal_guidance_blocks=list(stg_blocks))
        move_away(weaker, guidance.skipped_attention, guidance.skipped_attention)
    if guidance.modality > 1:
        weaker = model.denoised(tokens, sounds, sigma, prompt, isolate_modalities=True)
        move_away(weaker, guidance.modality - 1, guidance.modality - 1)
    shares = guidance.rescale, guidance.rescale if guidance.audio_rescale is None else guidance.audio_rescale
    video, audio = (
        _rescaled(after, before, share) if share > 0 else after
        for after, before, share in zip(guided, clean_values, shares, strict=True)
    )
    return video, audio


def _rescaled(guided: Tensor, plain: Tensor, share: float) -> Tensor:
    """Return the guided result with part of the contrast of the plain one (arXiv 2305.08891, equations 14 to 16)."""
    axes = list(range(1, plain.ndim))
    return guided * (share * plain.std(axes, keepdim=True) / guided.std(axes, keepdim=True) + 1 - share)


def _with_fixed(value: Tensor, stream: Stream) -> Tensor:
    """Return values mixed with the clean values of fixed tokens."""
    return value * (1 - stream.mask) + stream.clean * stream.mask
