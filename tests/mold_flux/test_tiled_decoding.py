"""Decoding an image that needs more memory than there is: tiles that fit, and smaller ones when memory runs out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mold_core import Engine, Info, Settings
from mold_core.testing import RecordedRun
from mold_core.weights import read_weights
from mold_flux.autoencoder import Autoencoder
from mold_flux.checkpoints import autoencoder_config, autoencoder_tensors, load_weights
from mold_flux.components import vae_tile_px, vae_working_bytes
from mold_flux.decoding import VaeMemory, decoded
from mold_flux.thread_parallel import shares, thread_parallel

FLUX_BF16 = 128 * 2  # bytes of a pixel in FLUX.1's last level
VAE_BYTES = 168_000_000
PLENTY = VaeMemory(device="cpu", available_bytes=None, weight_bytes=0)


@pytest.mark.parametrize(
    ("available", "side"),
    [(None, 1024), (24_000_000_000, 1024), (3_000_000_000, 768), (1_100_000_000, 512), (300_000_000, 256), (0, 256)],
)
def test_the_largest_tile_that_fits_is_chosen_and_planned(available: int | None, side: int) -> None:
    assert vae_tile_px(FLUX_BF16, available, VAE_BYTES) == side
    planned = vae_working_bytes(1024 * 1024, FLUX_BF16, available, VAE_BYTES)
    assert planned == side**2 * FLUX_BF16 * 12
    assert available is None or available < 400_000_000 or VAE_BYTES + planned <= available


@pytest.fixture(scope="module")
def autoencoder() -> Autoencoder:
    """The autoencoder of the model that ships."""
    with Engine(Settings(device="cpu")) as engine:
        spec = engine.resolve("flux-nano:bf16")
        path = engine.store.files_of(spec).one("vae")
    tensors = autoencoder_tensors(read_weights(path))
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    network = Autoencoder(autoencoder_config(shapes, **spec.options["autoencoder"]))
    load_weights(network, tensors, path, dtype=torch.float32)
    return network.eval().requires_grad_(False)


def scene() -> Tensor:
    """Pixels [1, 3, 512, 512]: a sky, a sun and a field, which an autoencoder of such scenes knows."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 512), torch.linspace(0, 1, 512), indexing="ij")
    sun = ((rows - 0.3) ** 2 + (columns - 0.7) ** 2) < 0.02
    field = rows > 0.6 + 0.05 * torch.sin(9 * columns)
    colors = torch.stack([0.4 + 0.3 * rows, 0.6 + 0.2 * rows, torch.full_like(rows, 0.9)])
    colors[:, sun], colors[:, field] = torch.tensor([[1.0], [0.9], [0.3]]), torch.tensor([[0.3], [0.6], [0.2]])
    return colors[None] * 2 - 1


@pytest.fixture(scope="module")
def latents(autoencoder: Autoencoder) -> Tensor:
    return autoencoder.encode(scene())


@pytest.fixture(scope="module")
def whole(autoencoder: Autoencoder, latents: Tensor) -> Tensor:
    return autoencoder.decode(latents)


def test_when_memory_runs_out_smaller_tiles_give_the_same_image(
    autoencoder: Autoencoder, latents: Tensor, whole: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RecordedRun()
    decode, sizes = autoencoder.decoder.forward, []

    def limited(x: Tensor) -> Tensor:
        sizes.append(x.shape[-1] * 8)
        if sizes[-1] > 400:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return decode(x)

    monkeypatch.setattr(autoencoder.decoder, "forward", limited)
    (tiled,) = decoded(autoencoder, latents, PLENTY, run.report)
    messages = [event.message for event in run.events if isinstance(event, Info)]
    assert [message.rpartition("tiles of ")[2] for message in messages] == ["768 pixels", "512 pixels", "384 pixels"]
    assert max(sizes[3:]) <= 384
    expected = (whole[0].permute(1, 2, 0) + 1).mul(127.5).clamp(0, 255)
    error = expected.numpy() - np.asarray(tiled, dtype=np.float32)
    assert 10 * np.log10(255**2 / np.square(error).mean()) > 35


@pytest.mark.parametrize(("side", "least_db"), [(384, 48), (256, 40)])
def test_tiles_have_the_colors_of_the_whole_image(
    autoencoder: Autoencoder, latents: Tensor, whole: Tensor, side: int, least_db: float
) -> None:
    """With statistics of their own, tiles of 256 pixels had colors of their own: 30.6 dB, and seams to be seen."""
    tiled = autoencoder.decode(latents, tile_px=side)
    assert 10 * torch.log10(2**2 / (whole - tiled).square().mean()) > least_db
    assert all("forward" not in vars(module) for module in autoencoder.modules())


def test_a_batch_of_tiles_is_normalized_image_by_image(autoencoder: Autoencoder, latents: Tensor) -> None:
    two = torch.cat([latents[..., :24, :24], latents[..., -24:, -24:]])
    together = autoencoder.decode(two, tile_px=128)
    for image, alone in zip(together, two.split(1), strict=True):
        torch.testing.assert_close(image, autoencoder.decode(alone, tile_px=128)[0], atol=1e-3, rtol=0)


def test_threads_that_share_a_batch_decode_tiles_as_one_does(autoencoder: Autoencoder, latents: Tensor) -> None:
    three = torch.cat([latents[..., :24, :24], latents[..., -24:, -24:], latents[..., :24, -24:]])
    alone = [autoencoder.decode(one, tile_px=128) for one in three.split(1)]
    shared = thread_parallel(lambda share, _check: autoencoder.decode(three[share], tile_px=128), shares(3, 3))
    for result, expected in zip(shared, alone, strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-3)


def test_when_even_the_smallest_tile_does_not_fit_it_is_an_error(
    autoencoder: Autoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(x: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(autoencoder.decoder, "forward", full)
    with pytest.raises(torch.OutOfMemoryError):
        decoded(autoencoder, torch.zeros(1, autoencoder.config.latent_channels, 64, 64), PLENTY, lambda event: None)
