"""Steps of second order end where the flow does, with errors that fall with the square of the step, and right noise."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import sqrt

import pytest
import torch
from torch import Tensor

from mold_ltx2.second_order import Values, exchanged, second_order, weights

# Clips of this flow have numbers of this deviation; then the clear clip is known for every noisy one.
SPREAD = 0.6


def clear(values: Values, sigma: float) -> Values:
    """Return what a perfect model would: E[x0 | x] where x = (1 - sigma)·x0 + sigma·noise."""
    share = (1 - sigma) * SPREAD**2 / ((1 - sigma) ** 2 * SPREAD**2 + sigma**2)
    return values[0] * share, values[1] * share


def levels(steps: int) -> list[float]:
    """Return noise levels from 0.9 to 0.1 that lie evenly in log sigma."""
    return [0.9 * (0.1 / 0.9) ** (index / steps) for index in range(steps + 1)]


def start() -> Values:
    return torch.linspace(-2, 2, 64, dtype=torch.float64)[None, :, None], torch.ones(1, 3, 2, dtype=torch.float64)


def exact(value: Tensor, sigma: float, after: float) -> Tensor:
    """Return where the flow leads: every number keeps its place among the numbers of a level."""
    here, there = (sqrt((1 - level) ** 2 * SPREAD**2 + level**2) for level in (sigma, after))
    return value * there / here


def at_level(sigmas: list[float], solve: Callable[[list[float]], Tensor]) -> float:
    return float((solve(sigmas) - exact(start()[0], sigmas[0], sigmas[-1])).abs().max())


def reached(sigmas: list[float]) -> Tensor:
    """Return where the steps come to at the last of these levels, seen where the model is asked there."""
    seen: list[tuple[float, Tensor]] = []

    def watched(values: Values, sigma: float) -> Values:
        seen.append((sigma, values[0]))
        return clear(values, sigma)

    second_order(watched, start(), sigmas, torch.Generator(), lambda *_: None, fresh=0)
    return next(value for sigma, value in seen if sigma == sigmas[-1])


def by_euler(sigmas: list[float]) -> Tensor:
    value = start()[0]
    for sigma, after in pairwise(sigmas):
        value = value + (value - clear((value, value), sigma)[0]) / sigma * (after - sigma)
    return value


def test_halving_the_steps_quarters_the_error_and_eulers_is_larger_for_the_same_work() -> None:
    errors = [at_level(levels(steps), reached) for steps in (4, 8, 16)]
    assert errors[0] / errors[1] > 3.3
    assert errors[1] / errors[2] > 3.6
    assert at_level(levels(16), by_euler) > 3 * errors[1]  # sixteen questions to the model, as eight steps of two


def test_the_weights_are_those_of_the_method() -> None:
    for length in (1e-3, 0.1, 2.0):
        z = torch.tensor(-length, dtype=torch.float64)
        one = torch.expm1(z) / z
        two = (one - 1) / z
        half = torch.expm1(z / 2) / (z / 2)
        expected = length * (one - 2 * two), length * 2 * two, length * half / 2
        assert weights(length) == pytest.approx([float(weight) for weight in expected], rel=1e-6)


def test_new_noise_leaves_the_spread_of_the_clips_as_it_should_be() -> None:
    generator = torch.Generator().manual_seed(5)
    first = torch.randn(1, 40_000, 1, generator=generator, dtype=torch.float64)
    sigmas = [1.0, *levels(24)]
    ends = second_order(clear, (first, first.clone()), sigmas, generator, lambda *_: None)
    assert [float(end.std()) for end in ends] == pytest.approx([SPREAD, SPREAD], rel=0.06)
    still = second_order(clear, (first, first.clone()), sigmas, generator, lambda *_: None, fresh=0)
    likeness = [
        float(torch.corrcoef(torch.stack([end.flatten(), first.flatten()]))[0, 1]) for end in (ends[0], still[0])
    ]
    assert likeness[0] < 0.9 < 0.999 < likeness[1]


def test_noise_is_exchanged_for_as_much_new() -> None:
    generator = torch.Generator().manual_seed(1)
    image, old, new = (torch.randn(100_000, generator=generator, dtype=torch.float64) for _ in range(3))
    at = {sigma: (1 - sigma) * image + sigma * old for sigma in (0.8, 0.5)}
    made = exchanged(at[0.8], at[0.5], new, torch.ones(1), 0.8, 0.5, 0.5)
    left = made - 0.5 * image
    assert float((left * image).mean()) == pytest.approx(0, abs=0.01)
    assert float(left.std()) == pytest.approx(0.5, rel=0.01)
    assert float((left * new).mean()) == pytest.approx(0.25, rel=0.03)


def test_the_model_is_asked_twice_a_step_and_once_in_the_end() -> None:
    asked: list[float] = []
    told: list[tuple[int, int]] = []

    def watched(values: Values, sigma: float) -> Values:
        asked.append(sigma)
        assert values[0].dtype == values[1].dtype == torch.float32
        return clear(values, sigma)

    begin = torch.randn(1, 8, 4), torch.randn(1, 2, 4)
    made = second_order(
        watched, begin, [1.0, 0.9, 0.4], torch.Generator().manual_seed(1), lambda *step: told.append(step)
    )
    assert asked == pytest.approx([1, sqrt(0.9), 0.9, 0.6, 0.4, sqrt(0.4 * 0.0011), 0.0011])
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert [value.dtype for value in made] == [torch.float32, torch.float32]


def test_tokens_that_are_held_have_as_much_noise_as_the_model_is_told() -> None:
    generator = torch.Generator().manual_seed(3)
    held = (0.0, 0.25, 0.75, 1.0)
    mask = torch.tensor(held)[None, :, None]
    image, noise = (torch.randn(1, len(held), 20_000, generator=generator) for _ in range(2))

    def at(sigma: float) -> Tensor:
        return (1 - (1 - mask) * sigma) * image + (1 - mask) * sigma * noise

    def watched(values: Values, sigma: float) -> Values:
        for index, m in enumerate(held):
            value, clean, level = values[0][0, index], image[0, index], (1 - m) * sigma
            assert float((value - (1 - level) * clean).std()) == pytest.approx(level, rel=0.02)
            if m == 1:
                assert torch.equal(value, clean)
        return image, values[1]

    silence = torch.zeros(1, 2, 3)
    made = second_order(
        watched, (at(0.9), silence), [0.9, 0.8, 0.4], generator, lambda *_: None, (mask, torch.ones(1, 2, 1))
    )
    assert torch.equal(made[0], image)
    assert torch.equal(made[1], silence)
