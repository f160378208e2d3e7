"""One step of each family at full size, for each kind of weights, on GPUs that are not there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fake_gpu import Counted, fake_gpu, filled

from mold_core.weights.layers import PackedLinear
from mold_esrgan.architectures import _rrdb_bytes
from mold_esrgan.configs import RRDBConfig
from mold_esrgan.networks import RRDBNet
from mold_flux import components as flux_parts
from mold_flux.autoencoder import FLUX_AE, Autoencoder
from mold_flux.transformer import FLUX_DEV, FluxTransformer
from mold_ltx2 import component_sizes as ltx2_parts

SIDE, TEXT = 1024, 512
GRID = SIDE // 16


def flux_step(counted: Counted, kind: str, device: str, batch: int = 1) -> torch.Tensor:
    """Compute a step of FLUX.1-dev; what is counted is the step alone."""
    with torch.device("meta"):
        network = FluxTransformer(FLUX_DEV)
    transformer: Any = filled(network, kind, device)
    counted.hold(transformer)
    half = {"dtype": torch.bfloat16, "device": device}
    with torch.device(device):
        turns = torch.empty(TEXT + GRID**2, 64, dtype=torch.complex64, device=device)
    conditioning = transformer.prepare(
        torch.empty(batch, TEXT, 4096, **half),
        torch.empty(1, 768, **half),
        torch.empty(28, device=device),
        torch.empty(1, device=device),
        turns,
    )
    latents = torch.empty(batch, GRID**2, 64, **half)
    counted.begin()
    velocity: torch.Tensor = transformer.step(latents, conditioning, 0)
    return velocity


# Launches of eager code for a step of FLUX.1-dev; docs/performance.md quotes them.
@pytest.mark.parametrize(
    ("kind", "most"),
    [
        ("bf16", 1600),
        ("F8_E4M3", 2900),
        ("Q8_0", 4100),
        pytest.param("Q4_K", 17_500, marks=pytest.mark.soak),
    ],
)
def test_a_step_of_flux_stays_on_its_gpu_and_waits_for_nothing(
    kind: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind.startswith("F8"):
        monkeypatch.setattr(PackedLinear, "multiply_fp8", True)
    with fake_gpu() as counted:
        velocity = flux_step(counted, kind, "cuda:1")
        assert (velocity.shape, velocity.dtype) == ((1, GRID**2, 64), torch.bfloat16)
    print(f"{kind}: {counted.launches} launches, {counted.working_bytes / 1e6:.0f} MB")
    assert counted.devices == {"cuda:1"}
    assert counted.waits == []
    assert counted.launches <= most
    assert counted.working_bytes <= planned("transformer")


def planned(component: str, batch: int = 1) -> int:
    """Return what the plan of FLUX.1-dev has for computing with a component."""
    from mold_core.plugins import load_plugins

    spec = load_plugins().models["flux-dev:bf16"]
    width = flux_parts._WIDTHS[component]
    if component == "vae":
        return flux_parts.vae_working_bytes(flux_parts._pixels(spec), width * 2, None, 0) * batch
    return flux_parts._working_bytes(component, spec, width) * 2 * batch


def test_a_batch_takes_what_is_planned_for_each_of_its_images() -> None:
    with fake_gpu() as counted:
        flux_step(counted, "bf16", "cuda:0", batch=4)
    assert planned("transformer") < counted.working_bytes <= planned("transformer", 4)


def test_the_plan_has_room_for_decoding_an_image() -> None:
    with fake_gpu() as counted:
        with torch.device("meta"):
            network = Autoencoder(FLUX_AE)
        autoencoder: Any = filled(network, "bf16", "cuda:0", memory_format=torch.channels_last)
        counted.hold(autoencoder)
        latents = torch.empty(1, 16, SIDE // 8, SIDE // 8, dtype=torch.bfloat16, device="cuda:0")
        latents = latents.to(memory_format=torch.channels_last)
        counted.begin()
        pixels = autoencoder.decode(latents)
    assert pixels.shape == (1, 3, SIDE, SIDE)
    print(f"VAE: {counted.launches} launches, {counted.working_bytes / 1e6:.0f} MB")
    assert (counted.devices, counted.waits) == ({"cuda:0"}, [])
    # Half as much again for what is not seen here: cuDNN's workspace, and copies that group norms make on CUDA.
    assert counted.working_bytes * 1.5 <= planned("vae")


def test_a_tile_of_real_esrgan_takes_what_it_says_and_waits_for_nothing() -> None:
    config = RRDBConfig()
    with fake_gpu() as counted:
        with torch.device("meta"):
            network: Any = RRDBNet(config)
        network = filled(network, "bf16", "cuda:1", torch.float16, torch.channels_last)
        counted.hold(network)
        pixels = torch.empty(1, 3, 256, 256, dtype=torch.float16, device="cuda:1")
        counted.begin()
        larger = network(pixels)
    assert larger.shape == (1, 3, 1024, 1024)
    print(f"RRDBNet: {counted.launches} launches, {counted.working_bytes / 256**2:.0f} bytes a pixel")
    assert counted.working_bytes <= _rrdb_bytes(config.features, config.stages, config.unshuffle) * 256**2
    assert (counted.devices, counted.waits) == ({"cuda:1"}, [])


def ltx2_step(counted: Counted, kind: str, device: str, blocks: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute a step of LTX-2 19B, 768x512 pixels, 121 frames with sound; what is counted is the step alone."""
    from diffusers import LTX2VideoTransformer3DModel

    from mold_core.weights import empty_modules
    from mold_ltx2.configs import OFFICIAL
    from mold_ltx2.latents import Geometry
    from mold_ltx2.sampling import Guidance, Prompt, Stream, _guided, _Model

    with empty_modules():
        network = LTX2VideoTransformer3DModel(**OFFICIAL["2.0"]["transformer"], num_layers=blocks)
    transformer: Any = filled(network, kind, device)
    counted.hold(transformer)
    geometry = Geometry(frames=16, height=16, width=24, audio=126, fps=24.0, strides=(8, 32))
    half = {"dtype": torch.bfloat16, "device": device}

    def stream(tokens: int, axes: int) -> Stream:
        return Stream(
            tokens=torch.empty(1, tokens, 128, device=device),
            mask=torch.empty(1, tokens, 1, device=device),
            clean=torch.empty(1, tokens, 128, device=device),
            positions=torch.empty(1, axes, tokens, 2, device=device),
        )

    prompt = Prompt(
        video=torch.empty(1, 1024, 3840, **half),
        audio=torch.empty(1, 1024, 3840, **half),
        mask=torch.empty(1, 1024, **half),
    )
    video, audio = stream(geometry.tokens, 3), stream(geometry.audio, 1)
    model = _Model(transformer, geometry, video, audio, False)
    sigma = torch.empty((), device=device)
    counted.begin()
    made = _guided(model, video.tokens, audio.tokens, sigma, prompt, None, Guidance(), ())
    return made[0], made[1]


# The whole network takes minutes for all kinds; a block shows everything but how many launches there are.
@pytest.mark.parametrize(
    ("kind", "blocks", "most"),
    [
        ("bf16", 1, 600),
        pytest.param("bf16", 48, 14_500, marks=pytest.mark.soak),
        pytest.param("F8_E4M3", 48, 19_500, marks=pytest.mark.soak),
        pytest.param("Q8_0", 48, 21_000, marks=pytest.mark.soak),
        pytest.param("Q4_K", 48, 57_000, marks=pytest.mark.soak),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_step_of_ltx2_stays_on_its_gpu_and_waits_for_nothing(kind: str, blocks: int, most: int) -> None:
    with fake_gpu() as counted:
        seen, heard = ltx2_step(counted, kind, "cuda:1", blocks)
    assert (seen.shape, heard.shape, seen.dtype) == ((1, 16 * 16 * 24, 128), (1, 126, 128), torch.float32)
    print(f"LTX-2 {kind}, {blocks} blocks: {counted.launches} launches, {counted.working_bytes / 1e6:.0f} MB")
    assert (counted.devices, counted.waits) == ({"cuda:1"}, [])
    assert counted.launches <= most
    assert counted.working_bytes <= 16 * 16 * 24 * 4096 * ltx2_parts._TOKEN_WIDTHS * 2
