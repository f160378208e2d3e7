"""Previews: only for who asked, of the right image, and more like it with every step."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from mold_core import Engine, GenerateRequest, Preview, Settings
from mold_flux.preview import reduced

NANO = "flux-nano:bf16"


def small(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((32, 32), Image.Resampling.BOX)).astype(int)


def request(prompt: str, **fields: object) -> GenerateRequest:
    return GenerateRequest(prompt=prompt, model=NANO, seed=3, **fields)  # type: ignore[arg-type]


def test_previews_come_to_who_asked_for_them_and_show_what_will_be() -> None:
    with Engine(Settings(device="cpu")) as engine:
        asked = request("a red house on a hill by day", preview=True, batch_size=2, steps=6)
        jobs = [engine.submit(one) for one in (asked, request("a blue boat on the sea at night", steps=6))]
        finished = [[small(image.data) for image in job.result(timeout_s=120).images] for job in jobs]
        without = engine.generate(request("a red house on a hill by day", batch_size=2, steps=6))
    previews = [[event for event in job.events() if isinstance(event, Preview)] for job in jobs]
    assert previews[1] == []
    assert [(event.index, event.step, event.total) for event in previews[0]] == [
        (index, step, 6) for step in range(1, 6) for index in (0, 1)
    ]
    for index in (0, 1):
        shown = [small(event.image) for event in previews[0] if event.index == index]
        away = [np.abs(source - finished[0][index]).mean() for source in shown]
        assert away[-1] <= away[0]  # who reads late gets the newest image with older events
        assert away[-1] < 5
        assert away[-1] < np.abs(shown[-1] - finished[1][0]).mean()
        # Asking for previews does not change the image.
        assert np.abs(small(without.images[index].data) - finished[0][index]).mean() < 0.6


def test_large_latents_are_averaged_down_in_shape() -> None:
    assert reduced(torch.ones(1, 4, 128, 96), 32).shape == (1, 4, 32, 24)
    assert reduced(torch.ones(1, 4, 1, 96), 32).shape == (1, 4, 1, 32)
    latents = torch.randn(1, 4, 32, 20)
    assert reduced(latents, 32) is latents
