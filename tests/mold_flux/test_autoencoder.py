"""The autoencoder computes what diffusers' AutoencoderKL computes; large images are done in tiles nobody sees."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn

from mold_flux.autoencoder import FLUX_AE, Autoencoder, AutoencoderConfig
from mold_flux.checkpoints import autoencoder_config, autoencoder_tensors, load_weights

CHANNELS = (8, 16, 24)


def reference() -> AutoencoderKL:
    torch.manual_seed(1)
    model = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=CHANNELS,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.4,
        shift_factor=0.1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.0, 0.3)
    return model


def ours(model: AutoencoderKL) -> Autoencoder:
    tensors = autoencoder_tensors(model.state_dict())
    config = autoencoder_config({n: t.shape for n, t in tensors.items()}, groups=4, scale=0.4, shift=0.1)
    autoencoder = Autoencoder(config)
    load_weights(autoencoder, tensors, "the test's autoencoder")
    return autoencoder


@torch.no_grad()
def test_decoded_images_equal_those_of_diffusers() -> None:
    model = reference()
    latents = torch.randn(2, 4, 5, 7)
    expected = model.decode(latents / 0.4 + 0.1).sample
    assert expected.shape == (2, 3, 20, 28)
    torch.testing.assert_close(ours(model).decode(latents), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_latents_equal_those_of_diffusers_as_mean_and_as_sample() -> None:
    model = reference()
    autoencoder, images = ours(model), torch.rand(2, 3, 20, 28) * 2 - 1
    expected = model.encode(images).latent_dist
    torch.testing.assert_close(autoencoder.encode(images), (expected.mean - 0.1) * 0.4, atol=1e-5, rtol=1e-5)
    sample = autoencoder.encode(images, generator=torch.Generator().manual_seed(3))
    drawn = expected.sample(torch.Generator().manual_seed(3))
    torch.testing.assert_close(sample, (drawn - 0.1) * 0.4, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_channels_last_changes_nothing_and_bf16_little() -> None:
    autoencoder, latents = ours(reference()), torch.randn(1, 4, 6, 6)
    expected = autoencoder.decode(latents)
    autoencoder.to(memory_format=torch.channels_last)
    torch.testing.assert_close(autoencoder.decode(latents), expected, atol=1e-5, rtol=1e-5)
    half = autoencoder.bfloat16().decode(latents.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half - expected).std() < 0.05 * expected.std()


def test_gradients_reach_every_weight() -> None:
    autoencoder = ours(reference()).requires_grad_()
    images = torch.rand(1, 3, 16, 16)
    (autoencoder.decode(autoencoder.encode(images)) - images).square().mean().backward()
    assert all(parameter.grad is not None for parameter in autoencoder.parameters())


class Local(nn.Module):
    """Stands in for a decoder that looks at nothing around it: tiles must then be exact."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(x[:, :3], scale_factor=4.0)


@pytest.mark.parametrize(("height", "width"), [(9, 8), (8, 30), (17, 23), (64, 9)])
@torch.no_grad()
def test_tiles_of_a_local_decoder_make_the_whole_image(height: int, width: int) -> None:
    autoencoder = ours(reference())
    autoencoder.decoder = Local()
    latents = torch.randn(2, 4, height, width)
    whole = autoencoder.decode(latents, tile_px=None)
    tiles = autoencoder.decode(latents, tile_px=32)
    assert tiles.shape == (2, 3, height * 4, width * 4)
    torch.testing.assert_close(tiles, whole, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_no_tile_is_larger_than_asked_and_small_images_have_only_one() -> None:
    autoencoder, sizes = ours(reference()), []
    autoencoder.decoder.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[2:])))
    autoencoder.decode(torch.randn(1, 4, 20, 8), tile_px=32)
    assert sizes == [(8, 8)] * 4  # one reduced image, whose statistics the tiles are normalized by, and three tiles
    sizes.clear()
    autoencoder.decode(torch.randn(1, 4, 8, 8), tile_px=32)
    assert sizes == [(8, 8)]


@torch.no_grad()
def test_large_images_are_encoded_in_tiles_too() -> None:
    autoencoder = ours(reference())
    autoencoder.encoder = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(3, 8, 1))
    images = torch.rand(1, 3, 36, 100) * 2 - 1
    whole = autoencoder.encode(images, tile_px=None)
    torch.testing.assert_close(autoencoder.encode(images, tile_px=32), whole, atol=1e-5, rtol=1e-5)


def test_a_image_that_is_no_multiple_of_the_factor_is_refused() -> None:
    with pytest.raises(ValueError, match="30x20 pixels are not multiples of 4"):
        ours(reference()).encode(torch.zeros(1, 3, 20, 30))


def test_the_published_sizes_make_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        autoencoder = Autoencoder(FLUX_AE)
    assert sum(parameter.numel() for parameter in autoencoder.parameters()) == 83_819_683
    assert AutoencoderConfig().factor == 8
