"""One weight that is NaN or infinite anywhere in a FLUX.1 model is an error that names it, never a black image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import torch
from nano_formats import replace_model
from safetensors.torch import load_file, save_file

from mold_core import Engine, GenerateRequest, InferenceError, LoraWeight, ModelSpec, Settings
from mold_core.media.images import encode_image

NANO = "flux-nano:bf16"
SEPIA = Path(__file__).parent / "sepia.safetensors"

CASES = {
    "transformer": ("transformer", "double_blocks.0.img_mlp.2.weight", r"double_blocks\.0\.img_mlp\.2\.weight"),
    "vae": ("vae", "decoder.mid.block_1.conv1.weight", r"decoder\.mid\.block_1\.conv1\.weight.*the VAE computed"),
    "t5_encoder": ("t5_encoder", "encoder.final_layer_norm.weight", "the T5 text encoder computed"),
    "clip_encoder": ("clip_encoder", "text_model.final_layer_norm.weight", "the CLIP text encoder computed"),
}


def generate(
    tmp_path: Path, component: str, damage: Callable[[dict[str, torch.Tensor]], None], **fields: object
) -> None:
    with Engine(Settings(device="cpu")) as engine:
        nano = engine.resolve(NANO)
        assert nano.root is not None
        (file,) = (file for file in nano.files if file.component == component)
        state = {name: tensor.half() for name, tensor in load_file(nano.root / file.path).items()}
        damage(state)
        path = tmp_path / "damaged.safetensors"
        save_file(state, path)
        files = tuple(attrs.evolve(one, path=str(path)) if one is file else one for one in nano.files)
        spec: ModelSpec = attrs.evolve(nano, files=files)
        replace_model(engine, spec)
        engine.generate(GenerateRequest(prompt="a red house", model=NANO, seed=5, **fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("case", CASES)
def test_a_damaged_weight_is_named(tmp_path: Path, case: str, bad: float) -> None:
    component, name, said = CASES[case]

    def damage(state: dict[str, torch.Tensor]) -> None:
        (full,) = (key for key in state if key.endswith(name))
        state[full].view(-1)[0] = bad

    with pytest.raises(InferenceError, match=said) as caught:
        generate(tmp_path, component, damage)
    assert "mold info MODEL --verify" in str(caught.value)


def test_a_source_image_that_the_vae_cannot_encode_is_an_error(tmp_path: Path) -> None:
    from PIL import Image

    def damage(state: dict[str, torch.Tensor]) -> None:
        state["encoder.conv_in.weight"].view(-1)[0] = float("inf")

    source = encode_image(Image.new("RGB", (128, 128), "red"), "png", None)
    with pytest.raises(InferenceError, match=r"encoder\.conv_in\.weight.*while it encoded the source image"):
        generate(tmp_path, "vae", damage, source_image=source, strength=0.5)


def test_a_damaged_lora_is_named_and_the_next_image_is_well(tmp_path: Path) -> None:
    state = load_file(SEPIA)
    state["lora_unet_final_layer_linear.lora_up.weight"][0, 0] = float("nan")
    save_file(state, tmp_path / "damaged.safetensors")
    with Engine(Settings(device="cpu")) as engine:
        request = GenerateRequest(prompt="a red house", model=NANO, seed=5)
        lora = LoraWeight(path=str(tmp_path / "damaged.safetensors"))
        with pytest.raises(InferenceError, match=r"the LoRA damaged\.safetensors holds NaN or infinity"):
            engine.generate(attrs.evolve(request, loras=(lora,)))
        assert engine.generate(request).images
