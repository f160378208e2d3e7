"""A LoRA file is described by its header alone: family, method, rank, alpha, layers, trigger words, licence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mold_core import CheckpointError
from mold_core.weights import describe_lora


def write(path: Path, names: dict[str, tuple[int, ...]], metadata: dict[str, str] | None = None) -> Path:
    tensors = {name: torch.full(shape, 8.0 if name.endswith("alpha") else 0.0) for name, shape in names.items()}
    save_file(tensors, path, metadata)
    return path


def pair(layer: str, down: str = "lora_down", up: str = "lora_up", rank: int = 4) -> dict[str, tuple[int, ...]]:
    return {f"{layer}.{down}.weight": (rank, 8), f"{layer}.{up}.weight": (8, rank)}


def test_kohyas_file_with_everything_in_its_header(tmp_path: Path) -> None:
    names = {
        **pair("lora_unet_double_blocks_0_img_attn_qkv", rank=16),
        "lora_unet_double_blocks_0_img_attn_qkv.alpha": (),
        **pair("lora_unet_single_blocks_3_linear1", rank=8),
        **pair("lora_te1_text_model_encoder_layers_0_mlp_fc1", rank=8),
    }
    metadata = {
        "modelspec.title": "Red\nhouses",
        "modelspec.license": "CC-BY-4.0",
        "modelspec.author": "Ada",
        "modelspec.architecture": "flux-1-dev/lora",
        "ss_tag_frequency": json.dumps({"10_ohwx house": {"red": 3}}),
    }
    found = describe_lora(write(tmp_path / "x.safetensors", names, metadata))
    assert found is not None
    assert (found.family, found.methods, found.ranks, found.alphas) == ("flux", ("LoRA",), (8, 16), (8.0,))
    assert (found.layers, found.components) == (3, {"text encoder": 1, "transformer": 2})
    assert (found.title, found.author, found.licence) == ("Red houses", "Ada", "CC-BY-4.0")
    assert (found.trigger_words, found.trained_on) == (("ohwx house",), "flux-1-dev/lora")


@pytest.mark.parametrize("words", ['["ohwx", "red house"]', "ohwx, red house"])
def test_trigger_words_are_read_as_a_list_or_between_commas(tmp_path: Path, words: str) -> None:
    found = describe_lora(write(tmp_path / "x", pair("img_in"), {"trained_words": words}))
    assert found is not None
    assert found.trigger_words == ("ohwx", "red house")


def test_alpha_of_diffusers_header(tmp_path: Path) -> None:
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.r": 32, "transformer.lora_alpha": 16})}
    layer = pair("transformer.single_transformer_blocks.0.proj_out", "lora_A", "lora_B", rank=32)
    found = describe_lora(write(tmp_path / "x", layer, metadata))
    assert found is not None
    assert (found.family, found.ranks, found.alphas) == ("flux", (32,), (16.0,))
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 10**400})}
    found = describe_lora(write(tmp_path / "x", layer, metadata))
    assert found is not None
    assert found.alphas == ()


@pytest.mark.parametrize(
    ("layer", "family"),
    [
        ("double_blocks.0.processor.qkv_lora1", "flux"),
        ("transformer.transformer_blocks.3.img_mlp.net.2", "qwen-image"),
        ("diffusion_model.transformer_blocks.0.audio_attn1.to_q", "ltx2"),
        ("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q", "sd"),
        ("lora_unet_input_blocks_4_1_proj_in", "sd"),
        ("diffusion_model.blocks.0.self_attn.q", "wan"),
        ("diffusion_model.layers.0.attention.to_q", "z-image"),
        ("diffusion_model.double_blocks.0.img_mlp.fc1", "hunyuan-video"),
        ("transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj", "flux2"),
        ("lora_unet_final_layer_linear", "flux"),
        ("something.else", ""),
    ],
)
def test_the_family_is_told_by_the_names_of_layers(tmp_path: Path, layer: str, family: str) -> None:
    down, up = ("down", "up") if "processor" in layer else ("lora_A", "lora_B")
    found = describe_lora(write(tmp_path / "x", pair(layer, down, up)))
    assert found is not None
    assert found.family == family


@pytest.mark.parametrize(
    ("layer", "rows", "width", "family"),
    [
        ("double_blocks.0.img_attn.qkv", 9216, 3072, "flux"),
        ("double_blocks.0.img_attn.qkv", 18432, 6144, "flux2"),
        ("lora_unet_single_blocks_0_linear1", 21504, 3072, "flux"),
        ("lora_unet_single_blocks_0_linear1", 27648, 3072, "flux2"),
    ],
)
def test_models_of_the_same_names_are_told_by_their_sizes(
    tmp_path: Path, layer: str, rows: int, width: int, family: str
) -> None:
    names = {f"{layer}.lora_down.weight": (1, width), f"{layer}.lora_up.weight": (rows, 1)}
    found = describe_lora(write(tmp_path / "x", names))
    assert found is not None
    assert found.family == family


@pytest.mark.parametrize(
    ("names", "method"),
    [
        ({**pair("img_in"), "img_in.dora_scale": (8, 1)}, "DoRA"),
        ({**pair("img_in", "lora_A", "lora_B"), "img_in.lora_magnitude_vector": (8,)}, "DoRA"),
        ({f"img_in.hada_w{one}": (4, 4) for one in ("1_a", "1_b", "2_a", "2_b")}, "LoHa"),
        ({"img_in.lokr_w1": (2, 2), "img_in.lokr_w2_a": (4, 2), "img_in.lokr_w2_b": (2, 4)}, "LoKr"),
        ({"img_in.oft_blocks": (2, 4, 4)}, "OFT"),
        ({"img_in.ia3_l": (8, 1)}, "IA3"),
        ({"img_in.diff": (8, 8), "img_in.diff_b": (8,)}, "weights"),
        ({f"img_in.{one}.weight": (4, 4) for one in ("a1", "a2", "b1", "b2")}, "GLoRA"),
    ],
)
def test_the_method_is_told_by_the_tensors_of_a_layer(
    tmp_path: Path, names: dict[str, tuple[int, ...]], method: str
) -> None:
    found = describe_lora(write(tmp_path / "x", names))
    assert found is not None
    assert found.methods == (method,)
    assert found.layers == 1


def test_a_model_is_no_lora_and_a_text_is_neither(tmp_path: Path) -> None:
    assert describe_lora(write(tmp_path / "x", {"img_in.weight": (8, 8), "img_in.bias": (8,)})) is None
    (tmp_path / "text").write_text("no weights")
    with pytest.raises(CheckpointError):
        describe_lora(tmp_path / "text")


def test_describing_needs_no_torch(tmp_path: Path) -> None:
    path = write(tmp_path / "x", {**pair("img_in"), "img_in.alpha": ()})
    code = (
        "import sys; from pathlib import Path; from mold_core.weights import describe_lora;"
        f"assert describe_lora(Path({str(path)!r})).alphas == (8.0,); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
