"""The family `flux` through the engine, on the checkpoint that ships: files in the official layouts."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import attrs
import numpy as np
import pytest
from nano_formats import replace_model
from PIL import Image
from safetensors.torch import load_file, save_file

from mold_core import (
    CacheHit,
    CancelledError,
    CheckpointError,
    DenoiseStep,
    Engine,
    GenerateRequest,
    GenerateResponse,
    ModelSpec,
    Settings,
)
from mold_core.media.images import decode_image

NANO = "flux-nano:bf16"


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(Settings(device="cpu")) as engine:
        yield engine


def request(prompt: str = "a red house under a yellow moon", **fields: object) -> GenerateRequest:
    return GenerateRequest(prompt=prompt, model=NANO, **{"seed": 7, **fields})  # type: ignore[arg-type]


def pixels(response: GenerateResponse, index: int = 0) -> np.ndarray:
    return np.asarray(decode_image(response.images[index].data)).astype(int)


def test_the_same_seed_gives_the_same_bytes(engine: Engine) -> None:
    first, second, other = (engine.generate(request(seed=seed)) for seed in (7, 7, 8))
    assert first.images[0].data == second.images[0].data
    assert first.images[0].data != other.images[0].data


def test_seeds_that_differ_only_above_32_bits_give_different_images(engine: Engine) -> None:
    assert (pixels(engine.generate(request(seed=7))) != pixels(engine.generate(request(seed=7 + 2**32)))).any()


def test_a_image_of_a_batch_is_the_image_made_alone_within_rounding(engine: Engine) -> None:
    batch = engine.generate(request(seed=20, batch_size=5))
    for index in range(5):
        difference = np.abs(pixels(batch, index) - pixels(engine.generate(request(seed=20 + index))))
        # Matrix products of another shape round differently; in bf16 that is a level of 255 here and there.
        assert difference.mean() < 0.6
        assert np.quantile(difference, 0.999) <= 12


def test_prompts_of_one_batch_do_not_mix(engine: Engine) -> None:
    house, trees = "a red house", "three green trees"
    jobs = [engine.submit(request(prompt, seed=3)) for prompt in (house, trees, house, trees)]
    together = [pixels(job.result(timeout_s=120)) for job in jobs]
    alone = [pixels(engine.generate(request(prompt, seed=3))) for prompt in (house, trees)]
    for image, expected in zip(together, alone * 2, strict=True):
        assert np.abs(image - expected).mean() < 0.6


@pytest.mark.parametrize(("width", "height"), [(128, 128), (192, 128), (96, 128), (256, 256)])
def test_images_have_the_size_that_was_asked_for(engine: Engine, width: int, height: int) -> None:
    image = engine.generate(request(width=width, height=height)).images[0]
    assert (image.width, image.height) == (width, height)
    assert decode_image(image.data).size == (width, height)


def test_sizes_beyond_the_model_are_adjusted_and_said(engine: Engine) -> None:
    response = engine.generate(request(width=1000, height=500, steps=1))
    assert (response.images[0].width, response.images[0].height) == (256, 128)
    assert response.warnings == ("dimensions adjusted from 1000x500 to 256x128",)


def test_a_second_image_of_a_prompt_does_not_encode_it_again(engine: Engine) -> None:
    first, second = [], []
    engine.generate(request(), first.append)
    engine.generate(request(seed=9), second.append)
    assert not any(isinstance(event, CacheHit) for event in first)
    assert CacheHit(resource="prompt conditioning") in second


def test_cancelling_takes_effect_between_two_steps_and_leaves_the_model_usable(engine: Engine) -> None:
    steps = []

    def cancel_after_two(event: object) -> bool:
        if isinstance(event, DenoiseStep):
            steps.append(event.step)
        return len(steps) < 2

    before = engine.generate(request())
    with pytest.raises(CancelledError):
        engine.generate(request(steps=100), cancel_after_two)
    assert len(steps) < 10
    assert engine.generate(request()).images[0].data == before.images[0].data


@pytest.mark.parametrize(
    "prompt",
    ["\0", "a\0red\0house", "😀 🏠", "x" * 77_000, "house " * 12_000, "a red house\n\nunder\ta moon", "ß"],
    ids=["nul", "nuls", "emoji", "one long word", "many words", "line breaks", "sharp s"],
)
def test_any_prompt_gives_a_image(engine: Engine, prompt: str) -> None:
    assert decode_image(engine.generate(request(prompt, steps=1)).images[0].data).size == (128, 128)


def test_nothing_is_asked_of_the_network(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert engine.generate(request()).images


# --- files as people have them -----------------------------------------------------------------------------------


def nano_spec(engine: Engine, folder: Path) -> ModelSpec:
    """Return flux-nano with its files copied into `folder`, to be changed there."""
    spec = engine.resolve(NANO)
    assert spec.root is not None
    for file in spec.files:
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(spec.root / file.path, folder / file.path)
    return attrs.evolve(spec, root=folder)


def transformer_of(spec: ModelSpec) -> Path:
    assert spec.root is not None
    return spec.root / next(file.path for file in spec.files if file.component == "transformer")


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model."])
def test_a_prefix_before_the_names_changes_nothing(engine: Engine, tmp_path: Path, prefix: str) -> None:
    expected = engine.generate(request()).images[0].data
    engine.close()
    with Engine(Settings(device="cpu")) as other:
        spec = nano_spec(other, tmp_path)
        path = transformer_of(spec)
        save_file({prefix + name: tensor for name, tensor in load_file(path).items()}, path)
        replace_model(other, spec)
        assert other.generate(request()).images[0].data == expected


def test_a_missing_tensor_is_named_with_its_file(engine: Engine, tmp_path: Path) -> None:
    spec = nano_spec(engine, tmp_path)
    path = transformer_of(spec)
    tensors = load_file(path)
    del tensors["single_blocks.1.linear2.weight"]
    save_file(tensors, path)
    replace_model(engine, spec)
    with pytest.raises(CheckpointError, match=r"flux-nano\.safetensors.*lacks single_blocks\.1\.linear2\.weight"):
        engine.generate(request())


@pytest.mark.parametrize("damage", [b"", b"\x00" * 100, b"\xff" * 5000, b"<html>not found</html>"])
def test_a_damaged_file_is_named(engine: Engine, tmp_path: Path, damage: bytes) -> None:
    spec = nano_spec(engine, tmp_path)
    transformer_of(spec).write_bytes(damage)
    replace_model(engine, spec)
    with pytest.raises(CheckpointError, match=r"flux-nano\.safetensors"):
        engine.generate(request())


def test_a_truncated_file_is_named(engine: Engine, tmp_path: Path) -> None:
    spec = nano_spec(engine, tmp_path)
    path = transformer_of(spec)
    path.write_bytes(path.read_bytes()[:-1000])
    replace_model(engine, spec)
    with pytest.raises(CheckpointError, match=r"flux-nano\.safetensors: this is not a complete safetensors file"):
        engine.generate(request())


def test_the_autoencoder_in_place_of_the_transformer_is_told(engine: Engine, tmp_path: Path) -> None:
    spec = nano_spec(engine, tmp_path)
    vae = next(file.path for file in spec.files if file.component == "vae")
    shutil.copy(tmp_path / vae, transformer_of(spec))
    replace_model(engine, spec)
    with pytest.raises(CheckpointError, match="is no FLUX"):
        engine.generate(request())


def test_metadata_holds_what_is_needed_to_make_the_image_again(engine: Engine, tmp_path: Path) -> None:
    from mold_core.media.metadata import read_metadata

    first = engine.generate(request(seed=None, width=144))
    metadata = read_metadata(first.images[0].data)
    assert metadata is not None
    again = engine.generate(
        request(
            metadata.prompt,
            seed=metadata.seed,
            width=metadata.width,
            height=metadata.height,
            steps=metadata.steps,
            guidance=metadata.guidance,
        )
    )
    assert again.images[0].data == first.images[0].data
    assert isinstance(decode_image(first.images[0].data), Image.Image)
