"""Noise levels of the denoising steps, as FLUX.1 was trained with (Esser et al. 2024, arXiv 2403.03206)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from attrs import frozen

from mold_core.families import required

if TYPE_CHECKING:
    from mold_core import GenerateRequest

__all__ = ["DEV", "SCHNELL", "Schedule", "first_step", "start_index"]


@frozen(kw_only=True)
class Schedule:
    """The spacing of noise levels. `dynamic`: larger images stay noisy for longer (dev models).

    `shift` (> 0) does the same for every size; 1 means evenly spaced levels (schnell).
    """

    dynamic: bool = False
    shift: float = 1.0
    base_shift: float = 0.5
    max_shift: float = 1.15
    base_tokens: int = 256
    max_tokens: int = 4096

    def sigmas(self, steps: int, image_tokens: int) -> list[float]:
        """Return steps + 1 noise levels from 1 (noise) down to 0 (image).

        t in 1, (n-1)/n, …, 1/n becomes s·t / (1 + (s-1)·t), where s = exp(mu) for dynamic schedules and mu goes
        linearly from `base_shift` at 256 image tokens to `max_shift` at 4096.
        """
        shift = math.exp(self._mu(image_tokens)) if self.dynamic else self.shift
        evenly = [1 - step / steps for step in range(steps)]
        return [shift * t / (1 + (shift - 1) * t) for t in evenly] + [0.0]

    def _mu(self, image_tokens: int) -> float:
        slope = (self.max_shift - self.base_shift) / (self.max_tokens - self.base_tokens)
        return self.base_shift + (image_tokens - self.base_tokens) * slope


SCHNELL = Schedule()
DEV = Schedule(dynamic=True)


def start_index(steps: int, strength: float) -> int:
    """Return the index of the first step of image-to-image.

    `strength` 1 runs all steps, 0 none; in between, the last floor(steps * strength) steps run.
    """
    return steps - min(steps, math.floor(steps * strength + 1e-9))  # 0.29 * 100 is 28.999999999999996


def first_step(request: GenerateRequest) -> int:
    """Return the index of the first step of a complete request: 0 without a source image."""
    return 0 if request.source_image is None else start_index(required(request.steps), request.strength)
