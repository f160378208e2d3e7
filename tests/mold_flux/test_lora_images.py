"""LoRA through the engine, on flux-nano in every format: images change as they should, and only where they should."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from mold_core import CacheHit, CheckpointError, Engine, GenerateRequest, LoraWeight, Settings

NANO = "flux-nano:bf16"
HOUSE = "a red house on a hill by day"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(Settings(device="cpu")) as engine:
        yield engine


def request(*loras: LoraWeight, prompt: str = HOUSE, seed: int = 5) -> GenerateRequest:
    return GenerateRequest(prompt=prompt, model=NANO, seed=seed, loras=loras or None)


def draw(engine: Engine, *loras: LoraWeight, prompt: str = HOUSE, seed: int = 5) -> np.ndarray:
    return pixels(engine.generate(request(*loras, prompt=prompt, seed=seed)).images[0].data)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def write(path: Path, seed: int, *, strength: float = 1.5, layer: str = "double_blocks_0_img_attn_qkv") -> LoraWeight:
    """Write a random LoRA for one layer of flux-nano."""
    rows, columns = {"double_blocks_0_img_attn_qkv": (480, 160), "single_blocks_1_linear2": (160, 800)}[layer]
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        f"lora_unet_{layer}.lora_down.weight": torch.randn(4, columns, generator=generator) / columns**0.5,
        f"lora_unet_{layer}.lora_up.weight": torch.randn(rows, 4, generator=generator) * strength,
    }
    save_file(tensors, path)
    return LoraWeight(path=str(path))


@pytest.fixture
def lora(tmp_path: Path) -> LoraWeight:
    return write(tmp_path / "a.safetensors", seed=1)


@pytest.fixture
def other(tmp_path: Path) -> LoraWeight:
    return write(tmp_path / "b.safetensors", seed=2, layer="single_blocks_1_linear2", strength=2.0)


def scaled(lora: LoraWeight, scale: float) -> LoraWeight:
    return LoraWeight(path=lora.path, scale=scale)


def test_an_adapter_is_gone_with_its_request(engine: Engine, lora: LoraWeight) -> None:
    before = engine.generate(request()).images[0].data
    changed = engine.generate(request(lora)).images[0].data
    assert np.abs(pixels(changed) - pixels(before)).mean() > 1
    assert engine.generate(request()).images[0].data == before
    assert engine.generate(request(lora)).images[0].data == changed
    assert (draw(engine, scaled(lora, 0.0)) == pixels(before)).all()


def test_more_scale_changes_more(engine: Engine, lora: LoraWeight) -> None:
    before = draw(engine)
    away = [np.abs(draw(engine, scaled(lora, scale)) - before).mean() for scale in (0.25, 0.5, 1.0, 2.0)]
    assert away == sorted(away)
    assert away[0] > 0


def test_jobs_with_other_adapters_do_not_mix(engine: Engine, lora: LoraWeight, other: LoraWeight) -> None:
    stacks = [(), (lora,), (other,), (lora, other), (scaled(lora, 0.5),), (), (other,), (lora,)]
    jobs = [engine.submit(request(*stack, seed=number)) for number, stack in enumerate(stacks)]
    together = [pixels(job.result(timeout_s=120).images[0].data) for job in jobs]
    for number, (stack, made) in enumerate(zip(stacks, together, strict=True)):
        assert np.abs(made - draw(engine, *stack, seed=number)).mean() < 0.6


def test_after_a_broken_adapter_the_model_is_as_before(engine: Engine, tmp_path: Path, lora: LoraWeight) -> None:
    before = draw(engine)
    broken = tmp_path / "broken.safetensors"
    save_file({"lora_unet_single_blocks_0_linear1.lora_down.weight": torch.ones(4, 161)}, broken)
    with pytest.raises(CheckpointError, match=r"broken\.safetensors: .*has no counterpart"):
        draw(engine, lora, LoraWeight(path=str(broken)))
    assert (draw(engine) == before).all()


def test_a_name_means_a_file_of_the_home(home: Path, tmp_path: Path) -> None:
    (home / "loras").mkdir(parents=True)
    lora = write(home / "loras" / "wild.safetensors", seed=1)
    with Engine(Settings.load({"device": "cpu"})) as engine:
        by_path = draw(engine, lora)
        assert (draw(engine, LoraWeight(path="wild")) == by_path).all()
        single = GenerateRequest(prompt=HOUSE, model=NANO, seed=5, lora=LoraWeight(path="wild"))
        assert (pixels(engine.generate(single).images[0].data) == by_path).all()


def test_an_adapter_of_the_text_encoder_changes_the_prompt_and_is_remembered_apart(
    engine: Engine, tmp_path: Path
) -> None:
    layer, generator = "text_model_encoder_layers_1_mlp_fc2", torch.Generator().manual_seed(3)
    tensors = {
        f"lora_te1_{layer}.lora_down.weight": torch.randn(4, 256, generator=generator) / 4,
        f"lora_te1_{layer}.lora_up.weight": torch.randn(64, 4, generator=generator) * 3,
    }
    save_file(tensors, tmp_path / "text.safetensors")
    lora = LoraWeight(path=str(tmp_path / "text.safetensors"))
    before, events = draw(engine), []
    changed = draw(engine, lora)
    assert np.abs(changed - before).mean() > 0.5
    assert (draw(engine) == before).all()
    again = engine.generate(request(lora), events.append)
    assert (pixels(again.images[0].data) == changed).all()
    assert CacheHit(resource="prompt conditioning") in events
