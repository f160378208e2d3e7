"""The sampler res_2s: second-order steps that replace part of the noise.

In λ = -log σ the rectified flow is x' = x0(x) - x, whose linear part an exponential Runge-Kutta method solves exactly
(arXiv 2308.02157, the single-step method of order two with c2 = 1/2). Every step calls the model twice: at its
start and at its middle. After each half, part of the noise is replaced by new noise of the same variance, so the noise
level stays right and errors do not add up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import expm1, log, sqrt
from typing import TypeAlias

import torch
from torch import Generator, Tensor

__all__ = ["Denoise", "Values", "exchanged", "second_order", "weights"]

# Noisy tokens of video and audio, and what predicts them without noise, given their noise level.
Values: TypeAlias = tuple[Tensor, Tensor]
Denoise: TypeAlias = Callable[[Values, float], Values]

# The noise level before the last step, which removes the rest: λ is not defined at 0.
_LAST = 0.0011
# The share of new noise, of the standard deviation.
_FRESH = 0.5
# Steps of at most this length, at noise levels above this one, compute their start again from their middle.
_SHORT = 0.5
_QUIET = 0.03


def second_order(
    denoised: Denoise,
    start: Values,
    sigmas: Sequence[float],
    generator: Generator,
    on_step: Callable[[int, int], None],
    masks: Values | None = None,
    *,
    fresh: float = _FRESH,
) -> Values:
    """Return video and audio at noise level 0, from tokens at `sigmas[0]`.

    `denoised` predicts the tokens without noise; it is called twice per level and once at the end. `on_step` is called
    after each level and may raise. Tokens with mask m, of `masks` [1, N, 1], are at level (1 - m)·sigma, and `denoised`
    keeps their fixed values. `fresh` of 0 is the method without new noise. Sums are in float64 if the device has it;
    the result has the dtype of `start`.
    """
    dtype = start[0].dtype
    exact = dtype if start[0].device.type == "mps" else torch.float64

    def predicted(values: Values, level: float) -> Values:
        video, sound = denoised((values[0].to(dtype), values[1].to(dtype)), level)
        return video.to(exact), sound.to(exact)

    def moved(origin: Values, reached: Values, level: float, after: float) -> Values:
        noises = [_noise(value, generator) for value in origin]
        video, sound = (
            exchanged(*four, level, after, fresh) for four in zip(origin, reached, noises, free, strict=True)
        )
        return (video, sound) if fresh else reached

    values = start[0].to(exact), start[1].to(exact)
    free = [1 - mask.to(exact) for mask in masks] if masks else [torch.ones_like(value) for value in values]
    for index, (sigma, after) in enumerate(pairwise((*sigmas, _LAST))):
        length, half = log(sigma / after), sqrt(sigma * after)
        first, second, to_half = weights(length)
        at_start = predicted(values, sigma)
        middle = _sum(values, (at_start, values), to_half)
        middle = moved(values, middle, sigma, half)
        origin = values
        if length < _SHORT and sigma > _QUIET:
            origin = _origin(middle, at_start, to_half)
        at_middle = predicted(middle, half)
        reached = _sum(_sum(origin, (at_start, origin), first), (at_middle, origin), second)
        values = moved(origin, reached, sigma, after)
        on_step(index + 1, len(sigmas))
    video, sound = denoised((values[0].to(dtype), values[1].to(dtype)), _LAST)
    return video, sound


def weights(length: float) -> tuple[float, float, float]:
    """Return the weights of a step of a length in λ: of the first and the second prediction, and to the middle."""
    whole, half = -expm1(-length), -expm1(-length / 2)
    second = 2 * (1 - whole / length)
    return whole - second, second, half


def exchanged(
    before: Tensor, reached: Tensor, noise: Tensor, free: Tensor, sigma: float, after: float, fresh: float
) -> Tensor:
    """Return tokens that were moved from level `sigma` to level `after`, with part of their noise replaced by `noise`.

    `free` is the share of these levels that each token has; tokens with 0 stay unchanged.
    """
    denoised = before - sigma * (before - reached) / (sigma - after)
    level = free * after
    old_noise = denoised + (before - denoised) / (free * sigma).clamp(min=1e-12)
    kept = level * sqrt(1 - fresh**2)
    renoised = (1 - level) * denoised + kept * old_noise + fresh * level * noise
    return torch.where(free > 0, renoised, before)


def _origin(middle: Values, at_start: Values, to_half: float) -> Values:
    """Return the start x of a step from its middle and its prediction: middle = x + to_half·(at_start - x)."""
    video, sound = ((m - to_half * h) / (1 - to_half) for m, h in zip(middle, at_start, strict=True))
    return video, sound


def _sum(values: Values, way: tuple[Values, Values], share: float) -> Values:
    """Return values plus a share of the difference of two others."""
    video, sound = (value + share * (to - at) for value, to, at in zip(values, *way, strict=True))
    return video, sound


def _noise(like: Tensor, generator: Generator) -> Tensor:
    """Return noise with a mean of exactly 0 and a standard deviation of 1."""
    noise = torch.randn(like.shape, generator=generator, dtype=torch.float64)
    return ((noise - noise.mean()) / noise.std()).to(like.device, like.dtype)
