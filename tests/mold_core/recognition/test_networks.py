"""Networks are told by names and shapes of their tensors, in every layout that people have."""

from __future__ import annotations

from pathlib import Path

import pytest
from real_files import Shapes, layout, shapes_of

from mold_core.recognition import Knowledge, Network
from mold_core.recognition.headers import Entry, Header
from mold_core.recognition.networks import networks_of


def networks(shapes: Shapes, knowledge: Knowledge, type_: str = "BF16") -> tuple[Network, ...]:
    entries = {name: Entry(shape, type_, 2) for name, shape in shapes.items()}
    return networks_of(Header(path=Path("of-no-interest"), format="safetensors", entries=entries), knowledge)


@pytest.mark.parametrize(
    ("name", "signature"),
    [
        ("flux-dev", "flux-dev"),
        ("flux-dev-diffusers", "flux-dev"),
        ("flux-schnell", "flux-schnell"),
        ("flux-fill", "flux-fill"),
        ("flux-control", "flux-control"),
        ("chroma", "chroma"),
        ("flux2-dev", "flux2-dev"),
        ("flux2-klein-4b", "flux2-klein-4b"),
        ("flux2-klein-9b", "flux2-klein-9b"),
        ("flux3-base", "flux3-base"),
        ("z-image", "z-image"),
        ("z-image-diffusers", "z-image"),
        ("qwen-image", "qwen-image"),
        ("qwen-image-2.1", "qwen-image-2.1"),
        ("krea2", "krea2"),
        ("wan-2.1", "wan-2.1"),
        ("wan-2.1-small", "wan-2.1-small"),
        ("wan-2.1-i2v", "wan-2.1-i2v"),
        ("wan-2.2-i2v", "wan-2.1-i2v"),
        ("wan-2.2-5b", "wan-2.2-5b"),
        ("hunyuan-video", "hunyuan-video"),
        ("minimax-h3", "minimax-h3"),
        ("ltx2", "ltx2"),
        ("sdxl-unet", "sdxl-unet"),
        ("sd15-unet", "sd15-unet"),
        ("sd35-large-diffusers", "sd35-large"),
        ("t5-xxl", "t5-xxl"),
        ("umt5-xxl", "umt5-xxl"),
        ("clip-l", "clip-l"),
        ("clip-g", "clip-g"),
        ("open-clip-g", "clip-g"),
        ("qwen3-0.6b", "qwen3-0.6b"),
        ("qwen3-4b", "qwen3-4b"),
        ("qwen3-8b", "qwen3-8b"),
        ("qwen3-vl-4b", "qwen3-vl-4b"),
        ("qwen2.5-vl-7b", "qwen2.5-vl-7b"),
        ("gemma2-2b", "gemma2-2b"),
        ("gemma3-12b", "gemma3-12b"),
        ("mistral3-24b", "mistral3-24b"),
        ("llama3-8b", "llama3-8b"),
        ("clip-vision-h", "clip-vision-h"),
        ("siglip", "siglip"),
        ("vae-4", "vae-4"),
        ("vae-16", "vae-16"),
        ("vae-16-diffusers", "vae-16"),
        ("flux2-vae-diffusers", "vae-flux2"),
        ("vae-wan-2.1", "vae-wan-2.1"),
        ("vae-wan-2.1-diffusers", "vae-wan-2.1"),
        ("controlnet-sd15", "controlnet-sd"),
        ("realesrgan-x4", "upscaler:RRDBNet"),
    ],
)
def test_a_network_is_told_by_its_tensors(name: str, signature: str, knowledge: Knowledge) -> None:
    (network,) = networks(layout(name), knowledge)
    assert network.signature == signature


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("lora:flux_lora_kohya_format", "FLUX.1"),
        ("lora:flux_lora_diffusers_format", "FLUX.1"),
        ("lora:flux_lora_aitoolkit_format", "FLUX.1"),
        ("lora:flux_lora_xlabs_format", "FLUX.1"),
        ("lora:flux_control_lora_format", "FLUX.1"),
        ("lora:flux_dora_onetrainer_format", "FLUX.1"),
        ("lora:flux_lokr_bfl_format", "FLUX.1"),
        ("lora:flux_lora_kohya_with_te1_format", "FLUX.1"),
        ("lora:krea2_lora_kohya_format", "Krea 2"),
        ("lora:qwen_image_lora_kohya_format", "Qwen-Image"),
        ("lora:anima_lora_kohya_format", "Anima or Cosmos Predict 2"),
        ("lora:anima_lora_peft_format", "Anima or Cosmos Predict 2"),
        ("lora:wan", "Wan"),
        ("lora:z-image", "Z-Image"),
        ("lora:qwen-image", "Qwen-Image"),
        ("lora:ltx2", "LTX-2"),
        ("lora:sdxl", "Stable Diffusion XL"),
        ("lora:sd15", "Stable Diffusion 1.5 or 2"),
        ("lora:flux2", "FLUX.2"),
        ("lora:hunyuan-video", "HunyuanVideo"),
    ],
)
def test_a_lora_is_told_by_the_layers_that_it_changes(name: str, title: str, knowledge: Knowledge) -> None:
    (network,) = networks(shapes_of(name), knowledge)
    assert (network.kind, network.title) == ("LoRA", title)


@pytest.mark.parametrize(
    ("name", "signatures"),
    [
        ("sdxl", {"sdxl-unet", "clip-l", "clip-g", "vae-4"}),
        ("sd15", {"sd15-unet", "clip-l", "vae-4"}),
        ("flux-whole", {"flux-dev", "clip-l", "t5-xxl", "vae-16"}),
    ],
)
def test_a_whole_model_in_one_file_is_taken_apart(name: str, signatures: set[str], knowledge: Knowledge) -> None:
    assert {network.signature for network in networks(shapes_of(name), knowledge)} == signatures


def test_a_prefix_before_all_names_does_not_matter(knowledge: Knowledge) -> None:
    prefixed = {f"model.diffusion_model.{name}": shape for name, shape in layout("z-image").items()}
    (network,) = networks(prefixed, knowledge)
    assert network.signature == "z-image"


def test_what_nothing_matches_is_named_by_its_tensors(knowledge: Knowledge) -> None:
    (network,) = networks({"stem.conv.weight": (8, 3, 3, 3), "head.weight": (10, 8)}, knowledge)
    assert (network.signature, network.kind) == ("", "network")
    assert "stem.conv.weight" in network.details[0]


def test_names_of_signatures_are_unique_and_needs_name_signatures(knowledge: Knowledge) -> None:
    names = [signature.name for signature in knowledge.signatures]
    assert len(names) == len(set(names))
    needed = {name for signature in knowledge.signatures for names in signature.needs.values() for name in names}
    assert needed <= set(names)
