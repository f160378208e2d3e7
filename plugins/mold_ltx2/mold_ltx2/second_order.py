"""Second-order steps that take half of the noise out and put new noise in: the sampler res_2s.

In λ = -log σ the rectified flow is x' = x0(x) - x, whose linear part an exponential Runge-Kutta method solves exactly
(arXiv 2308.02157, the single-step method of order two with c2 = 1/2). Every step asks the model twice: where it is, and
half way. What is reached either time is on its way from a clear clip to noise; part of that noise is exchanged for
fresh one of the same variance, so that the noise level stays what it should be and errors do not add up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import expm1, log, sqrt
from typing import TypeAlias

import torch
from torch import Generator, Tensor

__all__ = ["Clear", "Values", "exchanged", "second_order", "weights"]

# Video and sound on their way, and what gives them as the model takes them to be without noise, at a noise level.
Values: TypeAlias = tuple[Tensor, Tensor]
Clear: TypeAlias = Callable[[Values, float], Values]

# The level of noise before the last step, which takes out all that is left: log 0 has no place in λ.
_LAST = 0.0011
# Of the deviation of the noise, how much is fresh.
_FRESH = 0.5
# The start of a step is found again from its middle where the step is short and there is noise enough.
_SHORT = 0.5
_QUIET = 0.03


def second_order(
    clear: Clear,
    start: Values,
    sigmas: Sequence[float],
    generator: Generator,
    on_step: Callable[[int, int], None],
    masks: Values | None = None,
    *,
    fresh: float = _FRESH,
) -> Values:
    """Return video and sound at noise level 0, from tokens at `sigmas[0]`.

    `clear` is called twice per level and once more in the end, `on_step` after each level; it may raise. Tokens with
    mask m, of `masks` [1, N, 1], are at level (1 - m)·sigma, and `clear` holds them to what they are pinned to.
    `fresh` of 0 is the method without new noise. Sums are made in float64 where the device has it; the result has the
    dtype of `start`.
    """
    dtype = start[0].dtype
    exact = dtype if start[0].device.type == "mps" else torch.float64

    def asked(values: Values, level: float) -> Values:
        video, sound = clear((values[0].to(dtype), values[1].to(dtype)), level)
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
        here = asked(values, sigma)
        middle = _sum(values, (here, values), to_half)
        middle = moved(values, middle, sigma, half)
        origin = values
        if length < _SHORT and sigma > _QUIET:
            origin = _origin(middle, here, to_half)
        there = asked(middle, half)
        reached = _sum(_sum(origin, (here, origin), first), (there, origin), second)
        values = moved(origin, reached, sigma, after)
        on_step(index + 1, len(sigmas))
    video, sound = clear((values[0].to(dtype), values[1].to(dtype)), _LAST)
    return video, sound


def weights(length: float) -> tuple[float, float, float]:
    """Return how much a step of so long in λ goes by the first answer, by the second, and by the first to half way."""
    whole, half = -expm1(-length), -expm1(-length / 2)
    second = 2 * (1 - whole / length)
    return whole - second, second, half


def exchanged(
    before: Tensor, reached: Tensor, noise: Tensor, free: Tensor, sigma: float, after: float, fresh: float
) -> Tensor:
    """Return what was reached at level `after` from level `sigma`, with part of its noise exchanged for `noise`.

    `free` says how much of these levels each token has; one that has none stays as it is.
    """
    clear = before - sigma * (before - reached) / (sigma - after)
    level = free * after
    old_noise = clear + (before - clear) / (free * sigma).clamp(min=1e-12)
    kept = level * sqrt(1 - fresh**2)
    made = (1 - level) * clear + kept * old_noise + fresh * level * noise
    return torch.where(free > 0, made, before)


def _origin(middle: Values, here: Values, to_half: float) -> Values:
    """Return where a step must have begun that came to `middle` by way of `here`: middle = x + to_half·(here - x)."""
    video, sound = ((m - to_half * h) / (1 - to_half) for m, h in zip(middle, here, strict=True))
    return video, sound


def _sum(values: Values, way: tuple[Values, Values], share: float) -> Values:
    """Return values moved by a share of the way from one to another."""
    video, sound = (value + share * (to - at) for value, to, at in zip(values, *way, strict=True))
    return video, sound


def _noise(like: Tensor, generator: Generator) -> Tensor:
    """Return noise of exactly mean 0 and deviation 1."""
    noise = torch.randn(like.shape, generator=generator, dtype=torch.float64)
    return ((noise - noise.mean()) / noise.std()).to(like.device, like.dtype)
