"""flux-nano in every format: the image of the bf16 weights, and a LoRA that makes it sepia whatever it is stored in.

Stated tolerances are means over the image, in levels of 255.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from nano_formats import FORMATS, nano_in, replace_model
from PIL import Image

from mold_core import Engine, GenerateRequest, LoraWeight, ModelSpec, Settings

NANO = "flux-nano:bf16"
SEPIA = Path(__file__).parent / "sepia.safetensors"
TOLERANCES = {
    "diffusers": 0.1, "bfl with prefix": 0.0, "fp8": 8.0, "scaled fp8": 6.0, "Q8_0": 1.5, "Q5_1": 4.0, "Q4_0": 8.0
}  # fmt: skip
PROMPTS = ("a red house on a hill by day", "three blue boats on the sea")


def images(spec: ModelSpec | None, *loras: LoraWeight) -> list[np.ndarray]:
    with Engine(Settings(device="cpu")) as engine:
        if spec is not None:
            replace_model(engine, spec)
        requests = [GenerateRequest(prompt=prompt, model=NANO, seed=5, loras=loras or None) for prompt in PROMPTS]
        jobs = [engine.submit(request) for request in requests]
        made = [job.result(timeout_s=120).images[0].data for job in jobs]
    return [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int) for data in made]


@pytest.fixture(scope="module")
def nano() -> ModelSpec:
    with Engine(Settings(device="cpu")) as engine:
        return engine.resolve(NANO)


@pytest.fixture(scope="module")
def plain() -> list[np.ndarray]:
    return images(None)


def warmth(image: np.ndarray) -> float:
    """Return for what share of an image's pixels red > green > blue, as in all browns."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    return float(((red >= green) & (green >= blue) & (red - blue < 130)).mean())


@pytest.mark.parametrize("format", FORMATS)
def test_the_image_is_that_of_bf16_and_sepia_with_the_lora(
    nano: ModelSpec, plain: list[np.ndarray], tmp_path: Path, format: str
) -> None:
    spec = nano_in(format, nano, tmp_path)
    for made, expected in zip(images(spec), plain, strict=True):
        assert np.abs(made - expected).mean() <= TOLERANCES[format]
    sepia = images(spec, LoraWeight(path=str(SEPIA)))
    assert np.mean([warmth(made) for made in sepia]) > np.mean([warmth(made) for made in plain]) + 0.4


def test_less_of_the_lora_changes_less() -> None:
    shares = [
        np.mean([warmth(made) for made in images(None, LoraWeight(path=str(SEPIA), scale=scale))])
        for scale in (0.0, 0.6, 1.0)
    ]
    assert shares == sorted(shares)
    assert shares[0] < 0.3 < shares[2]
