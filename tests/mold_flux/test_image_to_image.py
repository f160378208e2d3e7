"""Image to image and inpainting: latents as diffusers computes them, and images of flux-nano that show it."""

from __future__ import annotations

import io
from collections.abc import Iterator

import diffusers
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from icc_profiles import in_profile, rgb_profile
from PIL import Image, ImageDraw
from torch import Tensor

from mold_core import Engine, GenerateRequest, Settings
from mold_core.media import decode_image, encode_image
from mold_flux.checkpoints import load_weights, transformer_config, transformer_tensors
from mold_flux.image_to_image import KeptRegion, SourceEncoder, source_image
from mold_flux.sampling import denoise, initial_noise, noised, pack
from mold_flux.schedule import DEV, start_index
from mold_flux.transformer import FluxTransformer, rope

NANO = "flux-nano:bf16"

# --- latents, beside diffusers ---------------------------------------------------------------------------------------

TEXT, ROWS, COLUMNS, CHANNELS = 6, 8, 6, 16


class Tiny:
    """A FLUX with random weights, twice, and one image's latents to start from."""

    def __init__(self) -> None:
        torch.manual_seed(4)
        self.reference = FluxTransformer2DModel(
            in_channels=CHANNELS * 4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=12, pooled_projection_dim=10, guidance_embeds=True, axes_dims_rope=(4, 6, 6),
        ).eval()  # fmt: skip
        tensors = transformer_tensors(self.reference.state_dict())
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        self.transformer = FluxTransformer(transformer_config(shapes, axes_dim=(4, 6, 6)))
        load_weights(self.transformer, tensors, "the test's transformer")
        self.txt, self.pooled = torch.randn(1, TEXT, 12), torch.randn(1, 10)
        self.source = torch.randn(1, CHANNELS, ROWS * 2, COLUMNS * 2)

    def reference_latents(self, name: str, steps: int, strength: float, **arguments: object) -> Tensor:
        pipeline = getattr(diffusers, name)(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
            vae=AutoencoderKL(
                down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
                block_out_channels=(4, 4, 4, 4), norm_num_groups=2, latent_channels=CHANNELS,
            ),
            text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None, transformer=self.reference,
        )  # fmt: skip
        pipeline.set_progress_bar_config(disable=True)
        latents: Tensor = pipeline(
            image=self.source, strength=strength, prompt_embeds=self.txt, pooled_prompt_embeds=self.pooled,
            width=COLUMNS * 16, height=ROWS * 16, num_inference_steps=steps, guidance_scale=3.5,
            generator=torch.Generator().manual_seed(7), output_type="latent", **arguments,
        ).images  # fmt: skip
        return latents

    @torch.inference_mode()
    def latents(self, steps: int, strength: float, mask: Tensor | None = None) -> Tensor:
        sigmas = DEV.sigmas(steps, ROWS * COLUMNS)[start_index(steps, strength) :]
        conditioning = self.transformer.prepare(
            self.txt, self.pooled, torch.tensor(sigmas[:-1]), torch.tensor([3.5]),
            rope(self.transformer.config, TEXT, ROWS, COLUMNS),
        )  # fmt: skip
        noise = initial_noise(7, CHANNELS, ROWS * 2, COLUMNS * 2)
        kept = None
        if mask is not None:
            tokens = pack(mask.expand(self.source.shape).contiguous())
            kept = KeptRegion(mask=tokens, images=pack(self.source), noise=pack(noise))
        start = pack(noised(self.source, noise, sigmas[0]))
        return denoise(
            self.transformer, start, conditioning, sigmas, lambda *_: None, blend=kept.blend if kept else None
        )


# diffusers takes so many steps that steps x strength is rounded up; mold rounds down, so both agree where it is whole.
@pytest.mark.parametrize(("steps", "strength"), [(4, 0.5), (5, 0.6), (20, 0.25), (4, 1.0)])
def test_image_to_image_equals_that_of_diffusers(steps: int, strength: float) -> None:
    tiny = Tiny()
    expected = tiny.reference_latents("FluxImg2ImgPipeline", steps, strength)
    made = tiny.latents(steps, strength)
    assert (made - expected).abs().max() < 1e-5 * (expected.max() - expected.min())


@pytest.mark.parametrize(("steps", "strength"), [(4, 0.5), (6, 1.0)])
def test_inpainting_equals_that_of_diffusers(steps: int, strength: float) -> None:
    tiny, mask = Tiny(), torch.zeros(1, 1, ROWS * 2, COLUMNS * 2)
    mask[..., : ROWS // 2, :] = 1
    pixels = torch.nn.functional.interpolate(mask, scale_factor=8)
    expected = tiny.reference_latents(
        "FluxInpaintPipeline", steps, strength, mask_image=pixels, masked_image_latents=tiny.source
    )
    made = tiny.latents(steps, strength, mask)
    assert (made - expected).abs().max() < 1e-5 * (expected.max() - expected.min())


# --- images --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(Settings(device="cpu")) as engine:
        yield engine


def request(prompt: str, **fields: object) -> GenerateRequest:
    return GenerateRequest(prompt=prompt, model=NANO, **{"seed": 6, **fields})  # type: ignore[arg-type]


def draw(engine: Engine, prompt: str, **fields: object) -> np.ndarray:
    return pixels(engine.generate(request(prompt, **fields)).images[0].data)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def png(source: np.ndarray | Image.Image) -> bytes:
    image = source if isinstance(source, Image.Image) else Image.fromarray(source.astype(np.uint8))
    return encode_image(image, "png")


def right_half() -> Image.Image:
    mask = Image.new("L", (128, 128), 0)
    ImageDraw.Draw(mask).rectangle((64, 0, 127, 127), fill=255)
    return mask


@pytest.fixture(scope="module")
def day(engine: Engine) -> np.ndarray:
    return draw(engine, "a red house on a hill by day", seed=5)


NIGHT = "a red house on a hill at night"


def test_strength_0_is_the_source_through_the_autoencoder_whatever_the_prompt(engine: Engine, day: np.ndarray) -> None:
    events: list[object] = []
    response = engine.generate(request(NIGHT, source_image=png(day), strength=0.0), events.append)
    assert np.abs(pixels(response.images[0].data) - day).mean() < 3
    assert not [event for event in events if type(event).__name__ == "DenoiseStep"]
    again = draw(engine, "three boats", source_image=png(day), strength=0.0, seed=99)
    assert (again == pixels(response.images[0].data)).all()


def test_strength_1_is_text_to_image(engine: Engine, day: np.ndarray) -> None:
    assert (draw(engine, NIGHT, source_image=png(day), strength=1.0) == draw(engine, NIGHT)).all()


def test_more_strength_moves_further_from_the_source_towards_the_prompt(engine: Engine, day: np.ndarray) -> None:
    strengths = (0.0, 0.5, 0.875, 1.0)
    made = [draw(engine, NIGHT, source_image=png(day), strength=strength, steps=8) for strength in strengths]
    away = [np.abs(source - day).mean() for source in made]
    assert away == sorted(away)
    assert away[-1] > 60
    sky = [source[:40, :40].mean() for source in made]  # bright by day, dark at night
    assert sky[0] > 150
    assert sky[-1] < 90


def test_steps_that_are_left_out_are_not_reported(engine: Engine, day: np.ndarray) -> None:
    events: list[object] = []
    engine.generate(request(NIGHT, source_image=png(day), strength=0.5, steps=8), events.append)
    steps = [(event.step, event.total) for event in events if type(event).__name__ == "DenoiseStep"]  # type: ignore[attr-defined]
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_only_the_white_half_of_the_mask_is_painted_anew(engine: Engine, day: np.ndarray) -> None:
    made = draw(engine, NIGHT, source_image=png(day), strength=1.0, steps=8, mask_image=png(right_half()))
    # Lanczos reaches three latents, 24 pixels, across the edge of the mask; pixels of the image are kept exactly.
    assert (made[:, :64] == day[:, :64]).all()
    assert made[:40, 90:].mean() < 100 < day[:40, 90:].mean()


def test_a_white_mask_paints_everything_and_a_black_one_nothing(engine: Engine, day: np.ndarray) -> None:
    white, black = (png(Image.new("L", (128, 128), level)) for level in (255, 0))
    fields = {"source_image": png(day), "strength": 1.0}
    assert (draw(engine, NIGHT, **fields, mask_image=white) == draw(engine, NIGHT, **fields)).all()
    assert (draw(engine, NIGHT, **fields, mask_image=black) == day).all()


def test_kept_pixels_and_what_is_painted_have_the_color_profile_of_the_source(engine: Engine, day: np.ndarray) -> None:
    profile = rgb_profile()
    stored = in_profile(Image.fromarray(day.astype(np.uint8)), profile)
    source = encode_image(stored, "png", icc=profile)
    inpainted = request(NIGHT, source_image=source, strength=1.0, mask_image=png(right_half()))
    image = Image.open(io.BytesIO(engine.generate(inpainted).images[0].data))
    assert image.info["icc_profile"] == profile
    assert (np.asarray(image)[:, :40] == np.asarray(stored)[:, :40]).all()
    plain = draw(engine, NIGHT, source_image=png(day), strength=1.0, mask_image=png(right_half()))
    assert np.abs(np.asarray(decode_image(encode_image(image, "png", icc=profile))).astype(int) - plain).mean() < 2


def test_a_source_with_a_color_profile_looks_as_in_srgb(engine: Engine, day: np.ndarray) -> None:
    profile = rgb_profile()
    stored = encode_image(in_profile(Image.fromarray(day.astype(np.uint8)), profile), "png", icc=profile)
    made = draw(engine, NIGHT, source_image=stored, strength=0.0)
    assert np.abs(made - draw(engine, NIGHT, source_image=png(day), strength=0.0)).mean() < 1


def test_a_grey_mask_lies_between(engine: Engine, day: np.ndarray) -> None:
    grey = png(Image.new("L", (128, 128), 128))
    made = draw(engine, NIGHT, source_image=png(day), strength=1.0, mask_image=grey)
    assert 5 < np.abs(made - day).mean() < np.abs(draw(engine, NIGHT) - day).mean()


def test_a_mask_may_have_any_size_and_transparent_parts_are_kept(engine: Engine, day: np.ndarray) -> None:
    mask = Image.new("RGBA", (32, 32), (255, 255, 255, 0))
    ImageDraw.Draw(mask).rectangle((0, 0, 15, 31), fill=(255, 255, 255, 255))
    made = draw(engine, NIGHT, source_image=png(day), strength=1.0, mask_image=png(mask))
    assert (made[:, 80:] == day[:, 80:]).all()
    assert np.abs(made[:40, :40] - day[:40, :40]).mean() > 40


def test_requests_of_one_batch_keep_their_own_images_and_masks(engine: Engine, day: np.ndarray) -> None:
    other = draw(engine, "a blue boat on the sea at sunset")
    mask = png(right_half())
    wanted = [
        request(NIGHT, strength=1.0, source_image=png(day), mask_image=mask),
        request(NIGHT),
        request("a white cat", strength=1.0, source_image=png(other), mask_image=mask),
        request("three green trees", source_image=png(other), strength=1.0),
    ]
    jobs = [engine.submit(one) for one in wanted]
    together = [pixels(job.result(timeout_s=120).images[0].data) for job in jobs]
    for made, one in zip(together, wanted, strict=True):
        assert np.abs(made - pixels(engine.generate(one).images[0].data)).mean() < 0.6


def test_requests_of_different_strength_in_one_queue_come_out_as_alone(engine: Engine, day: np.ndarray) -> None:
    wanted = [request(NIGHT, source_image=png(day), strength=strength) for strength in (0.0, 0.5, 0.75, 1.0, 0.5)]
    jobs = [engine.submit(one) for one in wanted]
    for job, one in zip(jobs, wanted, strict=True):
        made = pixels(job.result(timeout_s=120).images[0].data)
        assert np.abs(made - pixels(engine.generate(one).images[0].data)).mean() < 0.6


def test_the_image_takes_the_shape_of_its_source(engine: Engine, day: np.ndarray) -> None:
    wide = Image.fromarray(day.astype(np.uint8)).resize((300, 200))
    response = engine.generate(request(NIGHT, source_image=png(wide), strength=0.0))
    assert (response.images[0].width, response.images[0].height) == (128, 80)
    assert response.warnings == ()


@pytest.mark.parametrize("kind", ["grey", "transparent", "turned", "jpeg"])
def test_images_come_in_every_kind(day: np.ndarray, kind: str) -> None:
    image = Image.fromarray(day.astype(np.uint8))
    data, expected = png(image), day
    if kind == "grey":
        data = png(image.convert("L"))
        expected = np.asarray(image.convert("L").convert("RGB")).astype(int)
    elif kind == "transparent":
        image.putalpha(Image.new("L", image.size, 0))
        data, expected = png(image), np.full_like(day, 255)
    elif kind == "turned":
        buffer, exif = io.BytesIO(), Image.Exif()
        exif[0x0112] = 6
        image.rotate(90, expand=True).save(buffer, "JPEG", quality=95, exif=exif)
        data = buffer.getvalue()
    else:
        data = encode_image(image, "jpeg")
    made = source_image(request(NIGHT, source_image=data, width=128, height=128))
    assert made.mode == "RGB"
    assert np.abs(np.asarray(made).astype(int) - expected).mean() < 3


def test_source_images_are_encoded_once_and_the_last_four_kept() -> None:
    encoded = []

    def encode(source: Tensor) -> Tensor:
        encoded.append(source.mean().item())
        return source[:, :, ::8, ::8]

    sources = SourceEncoder()
    asked = [
        request("a", source_image=png(Image.new("RGB", (20, 20), (level, 0, 0))), width=64, height=64)
        for level in range(0, 250, 40)
    ]
    for one in (*asked, asked[-1], asked[-4], asked[0]):
        assert torch.equal(sources.latents(one, encode), encode_alone(one))
    assert len(encoded) == len(asked) + 1
    assert len(sources._cache._values) == 4


def encode_alone(one: GenerateRequest) -> Tensor:
    return SourceEncoder().latents(one, lambda source: source[:, :, ::8, ::8])
