"""From prompt to latents as FluxPipeline of diffusers does it, alone or in a batch, until someone stops it."""

from __future__ import annotations

from collections.abc import Callable

import diffusers
import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from torch import Tensor

from mold_flux.checkpoints import load_weights, transformer_config, transformer_tensors
from mold_flux.sampling import denoise, initial_noise, noised, pack, unpack
from mold_flux.schedule import DEV, SCHNELL, Schedule
from mold_flux.transformer import FluxTransformer, rope

TEXT, ROWS, COLUMNS = 6, 8, 6
LATENT_CHANNELS = 4


class Tiny:
    """A FLUX with random weights, twice: in diffusers' modules and in ours."""

    def __init__(self, *, dev: bool) -> None:
        torch.manual_seed(4)
        self.dev = dev
        self.schedule: Schedule = DEV if dev else SCHNELL
        self.reference = FluxTransformer2DModel(
            in_channels=LATENT_CHANNELS * 4,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=12,
            pooled_projection_dim=10,
            guidance_embeds=dev,
            axes_dims_rope=(4, 6, 6),
        ).eval()
        tensors = transformer_tensors(self.reference.state_dict())
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        self.transformer = FluxTransformer(transformer_config(shapes, axes_dim=(4, 6, 6)))
        load_weights(self.transformer, tensors, "the test's transformer")
        self.txt, self.pooled = torch.randn(3, TEXT, 12), torch.randn(3, 10)

    def diffusers_latents(self, which: list[int], seeds: list[int], steps: int) -> Tensor:
        pipeline = diffusers.FluxPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(
                shift=3.0 if self.dev else 1.0, use_dynamic_shifting=self.dev, base_shift=0.5, max_shift=1.15
            ),
            vae=AutoencoderKL(
                down_block_types=["DownEncoderBlock2D"] * 4,
                up_block_types=["UpDecoderBlock2D"] * 4,
                block_out_channels=(4, 4, 4, 4),
                norm_num_groups=2,
                latent_channels=LATENT_CHANNELS,
            ),
            text_encoder=None,
            tokenizer=None,
            text_encoder_2=None,
            tokenizer_2=None,
            transformer=self.reference,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline(
            prompt_embeds=self.txt[which],
            pooled_prompt_embeds=self.pooled[which],
            width=COLUMNS * 16,
            height=ROWS * 16,
            num_inference_steps=steps,
            guidance_scale=3.5,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="latent",
        ).images

    @torch.inference_mode()
    def latents(
        self, which: list[int], seeds: list[int], steps: int, on_step: Callable[[int, int, Tensor], None] | None = None
    ) -> Tensor:
        sigmas = self.schedule.sigmas(steps, ROWS * COLUMNS)
        conditioning = self.transformer.prepare(
            self.txt[which],
            self.pooled[which],
            torch.tensor(sigmas[:-1]),
            torch.full((len(which),), 3.5) if self.dev else None,
            rope(self.transformer.config, TEXT, ROWS, COLUMNS),
        )
        noise = torch.cat([initial_noise(seed, LATENT_CHANNELS, ROWS * 2, COLUMNS * 2) for seed in seeds])
        return denoise(self.transformer, pack(noise), conditioning, sigmas, on_step or (lambda *_: None))


@pytest.mark.parametrize("dev", [True, False], ids=["dev", "schnell"])
@pytest.mark.parametrize("steps", [1, 4, 20])
def test_latents_equal_those_of_the_diffusers_pipeline(dev: bool, steps: int) -> None:
    tiny = Tiny(dev=dev)
    expected = tiny.diffusers_latents([0, 1], [7, 8], steps)
    made = tiny.latents([0, 1], [7, 8], steps)
    assert (made - expected).abs().max() < 1e-5 * (expected.max() - expected.min())


def test_a_batch_equals_each_of_its_requests_alone() -> None:
    tiny = Tiny(dev=True)
    together = tiny.latents([0, 1, 2], [7, 8, 7], 8)
    for index, seed in enumerate([7, 8, 7]):
        torch.testing.assert_close(together[index : index + 1], tiny.latents([index], [seed], 8), atol=1e-5, rtol=0)


def test_bf16_weights_give_nearly_the_same_latents() -> None:
    tiny = Tiny(dev=False)
    expected = tiny.latents([0], [7], 4)
    tiny.transformer.bfloat16()
    tiny.txt, tiny.pooled = tiny.txt.bfloat16(), tiny.pooled.bfloat16()
    made = tiny.latents([0], [7], 4)
    assert made.dtype == torch.float32
    assert (made - expected).abs().max() < 0.01 * (expected.max() - expected.min())


def test_it_can_be_stopped_after_a_step() -> None:
    class Stop(Exception):
        pass

    seen = []

    def stop_after_second(step: int, total: int, latents: Tensor) -> None:
        seen.append((step, total, tuple(latents.shape)))
        if step == 2:
            raise Stop

    with pytest.raises(Stop):
        Tiny(dev=False).latents([0], [7], 5, stop_after_second)
    assert seen == [(1, 5, (1, ROWS * COLUMNS, 16)), (2, 5, (1, ROWS * COLUMNS, 16))]


def test_no_steps_leave_the_latents_alone() -> None:
    tiny, noise = Tiny(dev=False), torch.randn(1, 4, 16)
    conditioning = tiny.transformer.prepare(
        tiny.txt[:1], tiny.pooled[:1], torch.zeros(1), None, rope(tiny.transformer.config, TEXT, 2, 2)
    )
    assert torch.equal(denoise(tiny.transformer, noise, conditioning, [0.0], lambda *_: None), noise)


def test_a_seed_means_the_same_noise_whatever_is_drawn_besides() -> None:
    torch.manual_seed(0)
    first = initial_noise(7, 4, 6, 8)
    torch.randn(100)
    assert torch.equal(first, initial_noise(7, 4, 6, 8))
    assert not torch.equal(first, initial_noise(8, 4, 6, 8))
    assert first.dtype == torch.float32


@pytest.mark.parametrize("seed", [0, 2**32, 2**63, 2**64 - 1])
def test_seeds_may_have_64_bits(seed: int) -> None:
    assert initial_noise(seed, 4, 6, 8).std() == pytest.approx(1, abs=0.2)


def test_packing_is_that_of_diffusers_and_is_undone_by_unpacking() -> None:
    latents = torch.randn(2, 4, 6, 10)
    tokens = pack(latents)
    assert torch.equal(tokens, diffusers.FluxPipeline._pack_latents(latents, 2, 4, 6, 10))
    assert torch.equal(unpack(tokens, 3, 5), latents)
    channels_last = latents.to(memory_format=torch.channels_last)
    assert torch.equal(pack(channels_last), tokens)


def test_noised_latents_go_from_image_to_noise() -> None:
    latents, noise = torch.randn(1, 4, 8), torch.randn(1, 4, 8)
    assert torch.equal(noised(latents, noise, 0.0), latents)
    assert torch.equal(noised(latents, noise, 1.0), noise)
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(4)
    expected = scheduler.scale_noise(latents, scheduler.timesteps[1:2], noise)
    torch.testing.assert_close(noised(latents, noise, scheduler.sigmas[1].item()), expected)
