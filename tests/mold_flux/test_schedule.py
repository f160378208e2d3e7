"""Noise levels equal those that diffusers' FluxPipeline uses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from mold_flux.schedule import DEV, SCHNELL, Schedule, start_index

STEPS = [1, 2, 3, 4, 8, 20, 25, 28, 50, 100]


def theirs(steps: int, image_tokens: int, **config: object) -> torch.Tensor:
    scheduler = FlowMatchEulerDiscreteScheduler(**config)
    evenly = np.linspace(1.0, 1 / steps, steps)
    mu = calculate_shift(image_tokens, 256, 4096, 0.5, 1.15) if config.get("use_dynamic_shifting") else None
    scheduler.set_timesteps(sigmas=evenly, mu=mu)
    return scheduler.sigmas


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("image_tokens", [1, 64, 256, 1024, 2304, 4096, 7000])
def test_dev_levels_equal_those_of_diffusers(steps: int, image_tokens: int) -> None:
    expected = theirs(steps, image_tokens, shift=3.0, use_dynamic_shifting=True)
    torch.testing.assert_close(torch.tensor(DEV.sigmas(steps, image_tokens)), expected, atol=2e-7, rtol=0)


@pytest.mark.parametrize("steps", STEPS)
def test_schnell_levels_equal_those_of_diffusers(steps: int) -> None:
    expected = theirs(steps, 4096, shift=1.0)
    torch.testing.assert_close(torch.tensor(SCHNELL.sigmas(steps, 4096)), expected, atol=2e-7, rtol=0)


def test_a_constant_shift_equals_that_of_diffusers() -> None:
    expected = theirs(20, 64, shift=3.0)
    torch.testing.assert_close(torch.tensor(Schedule(shift=3.0).sigmas(20, 64)), expected, atol=2e-7, rtol=0)


def test_larger_images_stay_noisy_longer() -> None:
    assert all(large > small for small, large in zip(DEV.sigmas(9, 256)[1:-1], DEV.sigmas(9, 4096)[1:-1], strict=True))


@pytest.mark.parametrize(
    ("steps", "strength", "made"),
    [(4, 1.0, 4), (4, 0.0, 0), (4, 0.75, 3), (4, 0.6, 2), (25, 0.1, 2), (100, 0.29, 29), (10, 0.7, 7), (1, 0.99, 0)],
)
def test_strength_says_how_many_of_the_last_steps_are_made(steps: int, strength: float, made: int) -> None:
    assert steps - start_index(steps, strength) == made
