"""Files of upsamplers: told apart by their tensors, and as good as the modules they came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ltx2_loading import load
from safetensors.torch import save_file

from mold_core import CheckpointError

SIZES: dict[str, Any] = {"in_channels": 16, "mid_channels": 32, "num_blocks_per_stage": 1}

PUBLISHED: dict[str, dict[str, Any]] = {
    "spatial-x2": {"use_rational_resampler": True, "rational_spatial_scale": 2.0},
    "spatial-x1-5": {"use_rational_resampler": True, "rational_spatial_scale": 1.5},
    "temporal-x2": {"spatial_upsample": False, "temporal_upsample": True},
}


def network(**options: Any) -> Any:
    from diffusers.pipelines.ltx2 import LTX2LatentUpsamplerModel

    torch.manual_seed(1)
    return LTX2LatentUpsamplerModel(**{**SIZES, **options}).eval()


def written(module: torch.nn.Module, path: Path) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, path)
    return path


def beside(files: dict[str, Path], **upsamplers: Any) -> Any:
    """Load the tiny model with upsamplers: one file or several for each component."""
    return load({**{name: path for name, path in files.items() if name != "spatial_upscaler"}, **upsamplers})


def test_every_published_kind_is_recognised_and_computes_the_same(files: dict[str, Path], tmp_path: Path) -> None:
    networks = {kind: network(**options) for kind, options in PUBLISHED.items()}
    paths = {kind: written(module, tmp_path / f"{kind}.safetensors") for kind, module in networks.items()}
    pipeline = beside(
        files,
        spatial_upscaler=(paths["spatial-x2"], paths["spatial-x1-5"]),
        temporal_upscaler=paths["temporal-x2"],
    )
    latents = torch.randn(1, 16, 3, 4, 8)
    sizes = {"spatial-x2": (3, 8, 16), "spatial-x1-5": (3, 6, 12), "temporal-x2": (5, 4, 8)}
    for kind, module in networks.items():
        made = pipeline.upsamplers.apply(kind, latents)
        codec = pipeline.autoencoders
        with torch.inference_mode():
            wanted = codec.normalised(module(codec.plain(latents)))
        assert tuple(made.shape[2:]) == sizes[kind]
        assert torch.allclose(made, wanted, atol=1e-5)


def test_a_plain_resampler_is_one_for_twice_the_size(files: dict[str, Path]) -> None:
    upsamplers = load(files).upsamplers
    assert "spatial-x2" in upsamplers
    assert "temporal-x2" not in upsamplers


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"a": torch.ones(1)}, "holds no upsampler of latents"),
        (
            {"initial_conv.weight": torch.ones(32, 16, 3, 3, 3), "upsampler.0.weight": torch.ones(96, 32, 3, 3)},
            "is of an unknown kind",
        ),
    ],
)
def test_other_files_are_refused_by_name(
    files: dict[str, Path], tmp_path: Path, tensors: dict[str, torch.Tensor], words: str
) -> None:
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=rf"other\.safetensors: this .*{words}"):
        beside(files, temporal_upscaler=tmp_path / "other.safetensors")
