"""FLUX.1 from ComfyUI's quantised files: the image of bf16, layers that stay packed, LoRAs beside them."""

from __future__ import annotations

import io
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
from comfy_files import write_state
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from mold_core import Engine, GenerateRequest, ModelSpec, Settings
from mold_core.catalog import ModelStore
from mold_core.weights import PackedLinear, empty_modules, load_weights, read_weights
from mold_flux.checkpoints import transformer_tensors
from mold_flux.transformer import FluxConfig, FluxTransformer, rope

NANO = "flux-nano:bf16"

# As small as groups of 256 inputs and FLUX's heads of 128 channels allow.
WIDE = FluxConfig(
    in_channels=256, out_channels=64, hidden_size=256, heads=2, depth_double=1, depth_single=1, context_dim=256,
    pooled_dim=256, mlp_ratio=2.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def nano() -> ModelSpec:
    with Engine(Settings(device="cpu")) as engine:
        return engine.resolve(NANO)


@pytest.fixture(scope="module")
def original(nano: ModelSpec) -> np.ndarray:
    return image(nano)


def is_matrix(name: str, tensor: Tensor) -> bool:
    return name.endswith(".weight") and tensor.ndim == 2


def image(spec: ModelSpec, **settings: object) -> np.ndarray:
    with Engine(Settings(device="cpu", **settings)) as engine:
        engine.plugins.models[NANO] = spec
        data = engine.generate(GenerateRequest(prompt="a red house under a yellow moon", model=NANO, seed=7))
    return np.asarray(Image.open(io.BytesIO(data.images[0].data)).convert("RGB")).astype(float)


def psnr_db(left: np.ndarray, right: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.square(left - right).mean())))


def nano_in(kind: str, nano: ModelSpec, folder: Path) -> ModelSpec:
    """Return flux-nano with a transformer in a format; its 160 inputs are rotated in groups of 16."""
    state = load_file(ModelStore(Path()).files_of(nano).one("transformer"))
    written = write_state(state, kind, is_matrix, 16)
    save_file({name: tensor.contiguous() for name, tensor in written.items()}, folder / kind)
    path = str(folder / kind)
    files = tuple(attrs.evolve(file, path=path) if file.component == "transformer" else file for file in nano.files)
    return attrs.evolve(nano, files=files)


@pytest.mark.parametrize(
    ("kind", "compute", "least_db"),
    [
        ("int8_convrot", "auto", 45), ("int8_convrot", "exact", 45), ("int8", "auto", 45), ("int8_tensor", "auto", 40),
        ("mxfp8", "auto", 38), ("nvfp4", "auto", 29), ("nf4", "auto", 29),
    ],
)  # fmt: skip
def test_nano_draws_the_image_of_bf16(
    nano: ModelSpec, original: np.ndarray, tmp_path: Path, kind: str, compute: str, least_db: float
) -> None:
    assert psnr_db(image(nano_in(kind, nano, tmp_path), compute=compute), original) > least_db


def test_q8_and_fp8_in_int8_draw_the_image_of_bf16(nano: ModelSpec, original: np.ndarray, tmp_path: Path) -> None:
    from nano_formats import nano_in as nano_in_gguf

    for kind in ("Q8_0", "scaled fp8"):
        assert psnr_db(image(nano_in_gguf(kind, nano, tmp_path), compute="int8"), original) > 36


def test_int8_blocks_are_streamed(nano: ModelSpec, tmp_path: Path) -> None:
    spec = nano_in("int8_convrot", nano, tmp_path)
    assert (image(spec, memory_strategy="offload") == image(spec)).all()


# --- wide layers -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return FluxTransformer(WIDE).state_dict()


def step(network: FluxTransformer) -> Tensor:
    """Return a step's velocity for fixed inputs."""
    generator = torch.Generator().manual_seed(1)
    img, txt, pooled = (
        torch.randn(shape, generator=generator).to(torch.bfloat16) for shape in ((1, 6, 256), (1, 4, 256), (1, 256))
    )
    with torch.inference_mode():
        return network(img, txt, pooled, torch.tensor([0.7]), torch.tensor([3.5]), rope(WIDE, 4, 2, 3)).float()


def loaded(tensors: dict[str, Tensor], path: Path) -> FluxTransformer:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    with empty_modules():
        network = FluxTransformer(WIDE)
    load_weights(network, transformer_tensors(read_weights(path)), path, dtype=torch.bfloat16)
    return network


@pytest.mark.parametrize(
    ("kind", "least_db"),
    [
        ("int8_convrot", 38), pytest.param("w6a8", 35, marks=pytest.mark.soak),
        pytest.param("w4a8", 25, marks=pytest.mark.soak), ("convrot_w4a4", 25), ("awq_w4a16", 25), ("svdquant", 25),
        ("nvfp4", 25), ("nf4", 25), ("mxfp8", 30),
    ],
)  # fmt: skip
def test_a_wide_network_computes_nearly_what_bf16_does(
    wide: dict[str, Tensor], tmp_path: Path, kind: str, least_db: float
) -> None:
    network = loaded(write_state(wide, kind, is_matrix, 256), tmp_path / kind)
    assert isinstance(network.double_blocks[0].img_attn.qkv, PackedLinear)
    expected = step(loaded(wide, tmp_path / "bf16"))
    peak = expected.max() - expected.min()
    assert 20 * torch.log10(peak / (step(network) - expected).square().mean().sqrt()) > least_db
