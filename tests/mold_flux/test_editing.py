"""FLUX.1 Fill and Kontext: latents as diffusers computes them, and images of flux-nano made into either."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from attrs import evolve
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from torch import Tensor

from mold_core import CheckpointError, Engine, GenerateRequest, LoraWeight, Settings, ValidationError
from mold_core.families import pixels_from_images
from mold_core.media import encode_image
from mold_flux.autoencoder import Autoencoder
from mold_flux.checkpoints import (
    autoencoder_config,
    autoencoder_tensors,
    load_weights,
    transformer_config,
    transformer_tensors,
)
from mold_flux.editing import inpainting_channels, masked_pixels, reference_size
from mold_flux.sampling import denoise, initial_noise, pack
from mold_flux.schedule import DEV
from mold_flux.transformer import Conditioning, FluxTransformer, rope

TEXT, ROWS, COLUMNS, CHANNELS = 6, 4, 6, 16
NANO = Path(__file__).parents[2] / "plugins/mold_nano/mold_nano/models/flux-nano"


class Tiny:
    """A FLUX with random weights, diffusers' and ours, of so many input channels."""

    def __init__(self, in_channels: int) -> None:
        torch.manual_seed(4)
        self.reference = FluxTransformer2DModel(
            in_channels=in_channels, out_channels=CHANNELS * 4, num_layers=1, num_single_layers=1,
            attention_head_dim=16, num_attention_heads=2, joint_attention_dim=12, pooled_projection_dim=10,
            guidance_embeds=True, axes_dims_rope=(4, 6, 6),
        ).eval()  # fmt: skip
        self.vae = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
            block_out_channels=(4, 4, 4, 4), norm_num_groups=2, latent_channels=CHANNELS, scaling_factor=0.3611,
            shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False,
        ).eval()  # fmt: skip
        with torch.no_grad():  # without spread: diffusers draws from it, and mold takes the mean
            self.vae.encoder.conv_out.weight[CHANNELS:] = 0
            self.vae.encoder.conv_out.bias[CHANNELS:] = -30
        tensors = transformer_tensors(self.reference.state_dict())
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        self.transformer = FluxTransformer(transformer_config(shapes, axes_dim=(4, 6, 6)))
        load_weights(self.transformer, tensors, "the test's transformer")
        tensors = autoencoder_tensors(self.vae.state_dict())
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        self.autoencoder = Autoencoder(autoencoder_config(shapes, groups=2)).eval().requires_grad_(False)
        load_weights(self.autoencoder, tensors, "the test's autoencoder")
        self.txt, self.pooled = torch.randn(1, TEXT, 12), torch.randn(1, 10)
        self.noise = pack(initial_noise(7, CHANNELS, ROWS * 2, COLUMNS * 2))

    def reference_latents(self, name: str, **arguments: object) -> Tensor:
        pipeline = getattr(diffusers, name)(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True), vae=self.vae,
            text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None, transformer=self.reference,
        )  # fmt: skip
        pipeline.set_progress_bar_config(disable=True)
        latents: Tensor = pipeline(
            prompt_embeds=self.txt, pooled_prompt_embeds=self.pooled, width=COLUMNS * 16, height=ROWS * 16,
            num_inference_steps=4, guidance_scale=3.5, latents=self.noise, output_type="latent", **arguments,
        ).images  # fmt: skip
        return latents

    @torch.inference_mode()
    def latents(self, reference_grid: tuple[int, int] | None = None, **inputs: Tensor) -> Tensor:
        sigmas = DEV.sigmas(4, ROWS * COLUMNS)
        conditioning: Conditioning = self.transformer.prepare(
            self.txt, self.pooled, torch.tensor(sigmas[:-1]), torch.tensor([3.5]),
            rope(self.transformer.config, TEXT, ROWS, COLUMNS, reference=reference_grid),
        )  # fmt: skip
        return denoise(self.transformer, self.noise, evolve(conditioning, **inputs), sigmas, lambda *_: None)


def assert_close(made: Tensor, expected: Tensor) -> None:
    assert (made - expected).abs().max() < 1e-4 * (expected.max() - expected.min())


def photo(width: int, height: int) -> Image.Image:
    levels = np.random.default_rng(3).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(levels).resize((width, height), Image.Resampling.BICUBIC)


def png(image: Image.Image) -> bytes:
    return encode_image(image, "png")


def test_fill_equals_that_of_diffusers() -> None:
    tiny = Tiny(CHANNELS * 8 + 256)
    source, mask = photo(COLUMNS * 16, ROWS * 16), Image.new("L", (COLUMNS * 16, ROWS * 16), 0)
    ImageDraw.Draw(mask).ellipse((20, 10, 70, 50), fill=255)
    expected = tiny.reference_latents("FluxFillPipeline", image=source, mask_image=mask, strength=1.0)
    request = GenerateRequest(
        prompt="x", model="flux-nano", source_image=png(source), mask_image=png(mask), width=COLUMNS * 16,
        height=ROWS * 16,
    )  # fmt: skip
    pixels, levels = masked_pixels(request)
    with torch.inference_mode():
        channels = inpainting_channels(tiny.autoencoder.encode(pixels), levels)
    assert_close(tiny.latents(channels=channels), expected)


def test_control_equals_that_of_diffusers() -> None:
    tiny, control = Tiny(CHANNELS * 8), photo(COLUMNS * 16, ROWS * 16)
    expected = tiny.reference_latents("FluxControlPipeline", control_image=control)
    with torch.inference_mode():
        latents = tiny.autoencoder.encode(pixels_from_images([control]))
    assert_close(tiny.latents(channels=pack(latents)), expected)


def test_kontext_equals_that_of_diffusers() -> None:
    tiny, image = Tiny(CHANNELS * 4), torch.randn(1, CHANNELS, 6, 10)
    expected = tiny.reference_latents("FluxKontextPipeline", image=image, max_area=ROWS * COLUMNS * 256)
    assert_close(tiny.latents(reference_grid=(3, 5), reference=pack(image)), expected)


@pytest.mark.parametrize(
    ("size", "area", "expected"),
    [((640, 480), 1024 * 1024, (1184, 880)), ((100, 1000), 1024 * 1024, (672, 1568)), ((9, 9), 128 * 128, (128, 128))],
)
def test_images_to_edit_get_the_nearest_size_of_training(
    size: tuple[int, int], area: int, expected: tuple[int, int]
) -> None:
    assert reference_size(size, area) == expected


# --- images: flux-nano with layers of either -------------------------------------------------------------------------


def table(name: str, variant: str, **files: Path) -> str:
    """Return a model of the files of flux-nano and others."""
    whole = {
        "transformer": NANO / "flux-nano.safetensors", "vae": NANO / "ae.safetensors",
        "t5_encoder": NANO / "t5.safetensors", "clip_encoder": NANO / "clip_l.safetensors",
        "t5_tokenizer": NANO / "t5_tokenizer.json", "clip_tokenizer": NANO / "clip_tokenizer.json", **files,
    }  # fmt: skip
    listed = ", ".join(f'{component} = "{path}"' for component, path in whole.items())
    return f"""
[models."{name}:bf16"]
family = "flux"
defaults = {{ steps = 4, guidance = 0.0, width = 128, height = 128 }}
files = {{ {listed} }}
options.variant = "{variant}"
options.text_tokens = 48
options.transformer = {{ axes_dim = [8, 16, 16] }}
options.clip = {{ heads = 2 }}
options.autoencoder = {{ groups = 8, scale = 0.784344, shift = 0.022444 }}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("variants")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Engine]:
    state = load_file(NANO / "flux-nano.safetensors")
    inputs = state["img_in.weight"]
    for name, more in (("fill", 320), ("canny", 64), ("odd", 132)):
        widened = torch.cat([inputs, inputs.new_zeros(len(inputs), more)], dim=1)
        save_file({**state, "img_in.weight": widened}, folder / f"{name}.safetensors")
    (folder / "config.toml").write_text(
        table("fill", "schnell", transformer=folder / "fill.safetensors")
        + table("canny", "schnell", transformer=folder / "canny.safetensors")
        + table("odd", "schnell", transformer=folder / "odd.safetensors")
        + table("merged", "schnell", transformer=folder / "merged.safetensors")
        + table("kontext", "kontext")
        + table("dev", "dev")
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOLD_HOME", str(folder))
        with Engine(Settings.load({"device": "cpu"})) as engine:
            yield engine


def draw(engine: Engine, model: str, **fields: object) -> np.ndarray:
    request = GenerateRequest(prompt="a red house on a hill by day", model=model, seed=5, **fields)  # type: ignore[arg-type]
    return np.asarray(Image.open(io.BytesIO(engine.generate(request).images[0].data)).convert("RGB")).astype(int)


def test_fill_draws_where_the_mask_is_white_and_keeps_the_rest(engine: Engine) -> None:
    source, mask = photo(128, 128), Image.new("L", (128, 128), 0)
    ImageDraw.Draw(mask).rectangle((64, 0, 127, 127), fill=255)
    made = draw(engine, "fill", source_image=png(source), mask_image=png(mask), strength=0.3)
    plain = draw(engine, "flux-nano:bf16")
    assert (made[:, :64] == np.asarray(source)[:, :64]).all()
    # Its weights for the image and the mask are zero, so that it draws what flux-nano draws from noise.
    assert np.abs(made[:, 65:] - plain[:, 65:]).max() <= 2


@pytest.mark.parametrize("missing", ["source_image", "mask_image"])
def test_fill_says_what_it_needs(engine: Engine, missing: str) -> None:
    fields = {"source_image": png(photo(128, 128)), "mask_image": png(Image.new("L", (128, 128), 255))}
    for name in ("source_image", "mask_image") if missing == "source_image" else ("mask_image",):
        fields.pop(name)
    with pytest.raises(ValidationError, match=f"Fill needs .*{missing} is missing"):
        draw(engine, "fill", **fields)


def test_kontext_edits_an_image_and_draws_without_one(engine: Engine) -> None:
    plain = draw(engine, "dev")
    assert np.abs(draw(engine, "kontext") - plain).max() <= 2
    one, same, other = (draw(engine, "kontext", source_image=png(photo(width, 128))) for width in (128, 128, 160))
    assert (one == same).all()
    assert one.shape != other.shape or np.abs(one - other).mean() > 0.5
    assert np.abs(one - plain).mean() > 1


def test_a_variant_of_other_inputs_is_named(engine: Engine) -> None:
    with pytest.raises(CheckpointError, match=r"odd\.safetensors is a variant of FLUX\.1 .* takes 196 input channels"):
        draw(engine, "odd")


def test_canny_and_depth_take_a_control_image(engine: Engine) -> None:
    # Its weights for the control image are zero, so that it draws what flux-nano draws from noise.
    made = draw(engine, "canny", source_image=png(photo(128, 128)))
    assert np.abs(made - draw(engine, "flux-nano:bf16")).max() <= 2
    with pytest.raises(ValidationError, match="Canny and Depth, and their LoRAs, need source_image"):
        draw(engine, "canny")


def test_a_control_lora_gives_a_model_the_control_image(engine: Engine, folder: Path) -> None:
    generator = torch.Generator().manual_seed(2)
    down, up = torch.randn(8, 128, generator=generator) / 8, torch.randn(160, 8, generator=generator) / 4
    shift = torch.randn(160, generator=generator) / 16
    state = load_file(NANO / "flux-nano.safetensors")
    widened = torch.cat([state["img_in.weight"].float(), torch.zeros(160, 64)], dim=1) + up @ down
    merged = {**state, "img_in.weight": widened, "img_in.bias": state["img_in.bias"].float() + shift}
    save_file({name: tensor.float() for name, tensor in merged.items()}, folder / "merged.safetensors")
    save_file({"img_in.lora_A.weight": down, "img_in.lora_B.weight": up, "img_in.lora_B.bias": shift}, folder / "lora")
    loras = (LoraWeight(path=str(folder / "lora")),)
    made = draw(engine, "flux-nano:bf16", source_image=png(photo(128, 128)), loras=loras)
    expected = draw(engine, "merged", source_image=png(photo(128, 128)))
    error = 10 * np.log10(255**2 / np.square(made - expected).mean())
    assert error > 45
    assert np.abs(made - draw(engine, "flux-nano:bf16")).mean() > 3
    with pytest.raises(ValidationError, match="need source_image"):
        draw(engine, "flux-nano:bf16", loras=loras)
