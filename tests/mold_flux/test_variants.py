"""Files that are of other models or do not belong together are named before anything large is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mold_core import CheckpointError
from mold_flux.checkpoints import autoencoder_tensors, clip_tensors, t5_tensors, transformer_tensors
from mold_flux.variants import check_components

NANO = Path(__file__).parents[2] / "plugins/mold_nano/mold_nano/models/flux-nano"
TOKENS = "text_model_embeddings_token_embedding_weight"
FILES = {
    "transformer": NANO / "flux-nano.safetensors",
    "vae": NANO / "ae.safetensors",
    "t5_encoder": NANO / "t5.safetensors",
    "clip_encoder": NANO / "clip_l.safetensors",
}


def changed(path: Path, component: str, **tensors: Tensor) -> Path:
    """Write a component of flux-nano with other tensors; underscores stand for dots where the names differ only so."""
    state = load_file(FILES[component])
    names = {name.replace(".", "_"): name for name in state}
    save_file({**state, **{names.get(name, name): tensor for name, tensor in tensors.items()}}, path)
    return path


def test_the_files_of_a_model_belong_together() -> None:
    assert check_components(FILES, "dev") == "plain"
    assert check_components(FILES, "kontext") == "kontext"


@pytest.mark.parametrize(("channels", "variant"), [(64, "plain"), (128, "control"), (384, "fill")])
def test_variants_are_told_by_their_inputs(tmp_path: Path, channels: int, variant: str) -> None:
    path = changed(tmp_path / "x.safetensors", "transformer", img_in_weight=torch.zeros(160, channels))
    assert check_components({**FILES, "transformer": path}, "dev") == variant


def test_kontext_is_told_by_the_header_or_the_name(tmp_path: Path) -> None:
    state = load_file(FILES["transformer"])
    save_file(state, tmp_path / "a.safetensors", {"modelspec.title": "FLUX.1 Kontext [dev]"})
    save_file(state, tmp_path / "flux1-kontext-dev.safetensors")
    for name in ("a", "flux1-kontext-dev"):
        assert check_components({**FILES, "transformer": tmp_path / f"{name}.safetensors"}, "dev") == "kontext"


@pytest.mark.parametrize(
    ("component", "name", "shape", "message"),
    [
        ("t5_encoder", "shared_weight", (10, 64), r"takes T5 embeddings of 128 channels.*x\.safetensors gives 64"),
        ("clip_encoder", TOKENS, (10, 768), r"takes CLIP embeddings of 64 channels, and .*x\.safetensors gives 768"),
        ("vae", "decoder_conv_in_weight", (8, 4, 3, 3), r"returns 64 channels .*x\.safetensors has latents of 4"),
        ("transformer", "img_in_weight", (160, 196), r"x\.safetensors is a variant of FLUX\.1 .*196 input channels"),
        ("transformer", "distilled_guidance_layer.x", (4, 4), r"x\.safetensors: this is Chroma, and no FLUX\.1"),
        ("transformer", "double_stream_modulation_img.lin.weight", (4, 4), r"this is FLUX\.2"),
    ],
)  # fmt: skip
def test_both_files_and_their_numbers_are_named(
    tmp_path: Path, component: str, name: str, shape: tuple[int, ...], message: str
) -> None:
    path = changed(tmp_path / "x.safetensors", component, **{name: torch.zeros(shape)})
    with pytest.raises(CheckpointError, match=message) as caught:
        check_components({**FILES, component: path}, "schnell")
    assert "pull" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("model.diffusion_model.distilled_guidance_layer.norms.0.scale", "Chroma"),
        ("transformer_blocks.0.img_mlp.net.0.proj.weight", "Qwen-Image"),
        ("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", "Stable Diffusion 3"),
        ("model.diffusion_model.input_blocks.0.0.weight", "Stable Diffusion"),
        ("redux_up.weight", "FLUX.1 Redux"),
        ("blocks.0.self_attn.q.weight", "Wan"),
        ("noise_refiner.0.attention.qkv.weight", "Z-Image"),
        ("double_blocks.0.img_mlp.fc1.weight", "HunyuanVideo"),
    ],
)
def test_transformers_of_other_models_are_named(name: str, title: str) -> None:
    with pytest.raises(CheckpointError, match=f"this is {title}, and no FLUX.1 transformer") as caught:
        transformer_tensors({name: torch.zeros(2, 2)})
    assert "pull" not in str(caught.value)


def test_parts_of_stable_diffusion_checkpoints_are_read() -> None:
    clip, t5, vae = (load_file(FILES[name]) for name in ("clip_encoder", "t5_encoder", "vae"))
    for prefix in ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer."):
        found = clip_tensors(
            {**{f"{prefix}{name}": tensor for name, tensor in clip.items()}, "model_ema.x": torch.ones(1)}
        )
        assert set(found) == set(clip_tensors(clip))
    assert set(t5_tensors({f"text_encoders.t5xxl.transformer.{name}": t for name, t in t5.items()})) == set(
        t5_tensors(t5)
    )
    found = autoencoder_tensors({f"first_stage_model.{name}": tensor for name, tensor in vae.items()})
    assert set(found) == set(autoencoder_tensors(vae))


def test_attention_of_an_autoencoder_may_be_matrices() -> None:
    vae = load_file(FILES["vae"])
    flat = {
        name: tensor[:, :, 0, 0] if ".attn_1." in name and tensor.ndim == 4 else tensor for name, tensor in vae.items()
    }
    assert any(tensor.ndim == 2 for tensor in flat.values())
    found = autoencoder_tensors(flat)
    assert all(found[name].shape == tensor.shape for name, tensor in vae.items())
