"""How fast full-size networks are: steps of FLUX.1 and LTX-2 with random weights, and loading."""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable
from time import perf_counter
from typing import Any

import attrs
import torch
from random_flux import PEAK, SMALL, Case, OnStep, our_loop, random_transformer, their_loop
from stage_setup import Figures, Setup, Skipped, forget, peak_bytes, reset_peak, synchronize
from torch import nn

__all__ = ["Timed", "decoding", "diffusers_flux", "flux", "loading", "ltx2", "timed"]


@attrs.frozen(kw_only=True)
class Timed:
    """Times of a denoising loop: its first step, with all compiling in it, and those of a whole loop after that."""

    first_s: float
    step_s: float
    loop_s: float

    def figures(self) -> Figures:
        """Return the times by name, in seconds."""
        return {"first step s": self.first_s, "step s": self.step_s, "loop s": self.loop_s}


def timed(loop: Callable[[OnStep], object], setup: Setup) -> Timed:
    """Run a loop twice. The first step of a loop prepares the prompt as well; the others are what a step costs."""
    moments: list[float] = []

    def on_step() -> None:
        synchronize(setup)
        moments.append(perf_counter())

    def run() -> tuple[float, list[float]]:
        moments.clear()
        synchronize(setup)
        started = perf_counter()
        loop(on_step)
        steps = [after - before for before, after in zip([started, *moments], moments, strict=False)]
        return moments[-1] - started, steps

    _, first = run()
    whole, later = run()
    return Timed(first_s=first[0], step_s=statistics.median(later[1:] or later), loop_s=whole)


def flux(setup: Setup, *, kind: str | None, compiled: bool) -> Figures:
    """Time FLUX.1 with weights of a kind, and compare the memory that it takes with what is planned."""
    from mold_flux.compile import compile_blocks, problem_of

    case = _flux_case(setup)
    transformer = random_transformer(case, kind)
    weights = _bytes_of(transformer)
    if compiled:
        compile_blocks(transformer, backend=setup.backend)
    reset_peak(setup)
    figures = timed(our_loop(transformer, case), setup).figures()
    problem = problem_of(transformer)
    if problem is not None:
        raise AssertionError(problem)
    figures["weights GB"] = weights / 1e9
    if setup.cuda:
        figures["working GB"] = (peak_bytes(setup) - weights) / 1e9
        figures["planned working GB"] = _planned_flux("transformer") / 1e9
    share = _share_of_peak(case.operations() / figures["step s"])
    return figures if share is None else {**figures, "share of peak": share}


def diffusers_flux(setup: Setup, *, compiled: bool) -> Figures:
    """Time diffusers' FLUX.1 in bf16."""
    if importlib.util.find_spec("diffusers") is None:
        raise Skipped("diffusers is not installed")
    case = _flux_case(setup)
    reset_peak(setup)
    figures = timed(their_loop(case, compiled, setup.backend), setup).figures()
    return {**figures, "peak GB": peak_bytes(setup) / 1e9} if setup.cuda else figures


def decoding(setup: Setup) -> Figures:
    """Time the decoder of FLUX.1's autoencoder on an image of full size, and compare its memory with the plan."""
    from mold_flux.autoencoder import FLUX_AE, Autoencoder

    side, config = (64, attrs.evolve(FLUX_AE, block_channels=(32, 32, 64, 64))) if setup.tiny else (1024, FLUX_AE)
    with torch.device("meta"):
        network = Autoencoder(config)
    autoencoder: Any = _with_random_weights(network, setup, torch.bfloat16)
    autoencoder = autoencoder.to(memory_format=torch.channels_last)
    latents = torch.randn(1, 16, side // 8, side // 8, dtype=torch.bfloat16, device=setup.device)
    times = []
    reset_peak(setup)
    for _ in range(3):
        synchronize(setup)
        started = perf_counter()
        with torch.inference_mode():
            autoencoder.decode(latents.to(memory_format=torch.channels_last))
        synchronize(setup)
        times.append(perf_counter() - started)
    figures: Figures = {"first s": times[0], "decode s": min(times)}
    if setup.cuda:
        figures["working GB"] = (peak_bytes(setup) - _bytes_of(autoencoder)) / 1e9
        figures["planned working GB"] = _planned_flux("vae") / 1e9
    return figures


def ltx2(setup: Setup, *, compiled: bool) -> Figures:
    """Time eight steps of LTX-2 19B, 768x512 pixels, 121 frames with sound, random weights in bf16."""
    from mold_core.weights.compiled_blocks import problem_of
    from mold_ltx2.latents import Geometry
    from mold_ltx2.loading import compile_transformer
    from mold_ltx2.sampling import DISTILLED, Prompt, Stream, denoise

    if importlib.util.find_spec("diffusers") is None:
        raise Skipped("diffusers, which LTX-2's networks are from, is not installed")
    geometry = (
        Geometry(frames=2, height=2, width=3, audio=9, fps=24.0, strides=(8, 32))
        if setup.tiny
        else Geometry(frames=16, height=16, width=24, audio=126, fps=24.0, strides=(8, 32))
    )
    transformer = _ltx2_transformer(setup)
    weights = _bytes_of(transformer)
    if compiled:
        compile_transformer(transformer, backend=setup.backend)
    dtype, device = torch.bfloat16, setup.device
    width, words = (64, 16) if setup.tiny else (3840, 1024)

    def stream(tokens: int, axes: int) -> Stream:
        positions = torch.rand(1, axes, tokens, 2, device=device) * 5
        empty = torch.zeros(1, tokens, 128, device=device)
        return Stream(
            tokens=torch.randn_like(empty),
            mask=torch.zeros(1, tokens, 1, device=device),
            clean=empty,
            positions=positions,
        )

    prompt = Prompt(
        video=torch.randn(1, words, width, dtype=dtype, device=device),
        audio=torch.randn(1, words, width, dtype=dtype, device=device),
        mask=torch.ones(1, words, dtype=dtype, device=device),
    )
    video, audio = stream(geometry.tokens, 3), stream(geometry.audio, 1)

    def loop(on_step: OnStep) -> object:
        with torch.inference_mode():
            return denoise(
                transformer, geometry, video, audio, prompt, DISTILLED, lambda *about: on_step(), cross_timestep=False
            )

    reset_peak(setup)
    figures = {**timed(loop, setup).figures(), "weights GB": weights / 1e9}
    problem = problem_of(transformer)
    if problem is not None:
        raise AssertionError(problem)
    if setup.cuda:
        figures["working GB"] = (peak_bytes(setup) - weights) / 1e9
        figures["planned working GB"] = _planned_ltx2(geometry.tokens) / 1e9
    return figures


def loading(setup: Setup) -> Figures:
    """Time loading a safetensors file onto the device, in seconds per GB: as it was just written, and once more."""
    from safetensors.torch import save_file

    from mold_core.weights import empty_modules, load_weights, read_weights

    layers, width = (2, 256) if setup.tiny else (64, 4096)
    path = setup.folder / "loading.safetensors"
    weight = torch.randn(width, width, dtype=torch.bfloat16)
    save_file({f"{index}.weight": weight.clone() for index in range(layers)}, path)
    size_gb = path.stat().st_size / 1e9
    figures: Figures = {"file GB": size_gb}
    try:
        for name in ("first", "again"):
            with empty_modules():
                network = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(layers)))
            synchronize(setup)
            started = perf_counter()
            load_weights(network, read_weights(path, ()), path, dtype=torch.bfloat16, device=setup.device)
            synchronize(setup)
            figures[f"{name} s/GB"] = (perf_counter() - started) / size_gb
            del network
            forget(setup)
    finally:
        path.unlink()
    return figures


def _flux_case(setup: Setup) -> Case:
    from mold_flux.transformer import FLUX_DEV

    if setup.tiny:
        return Case(config=SMALL, device=setup.device, side_px=64, steps=3, text_tokens=16)
    return Case(config=FLUX_DEV, device=setup.device, side_px=1024, steps=28)


def _ltx2_transformer(setup: Setup) -> Any:
    from diffusers import LTX2VideoTransformer3DModel

    from mold_core.weights import empty_modules
    from mold_ltx2.configs import OFFICIAL

    small = {
        "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 32, "cross_attention_dim": 64,
        "audio_num_attention_heads": 2, "audio_attention_head_dim": 16, "audio_cross_attention_dim": 32,
        "caption_channels": 64,
    }  # fmt: skip
    with empty_modules():
        network = LTX2VideoTransformer3DModel(**OFFICIAL["2.0"]["transformer"], **(small if setup.tiny else {}))
    return _with_random_weights(network, setup, torch.bfloat16)


def _with_random_weights(network: nn.Module, setup: Setup, dtype: torch.dtype) -> Any:
    network = network.to(dtype).to_empty(device=setup.device).eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.5 / max(1, parameter[0].numel()) ** 0.5)
        for buffer in network.buffers():
            buffer.zero_()
    return network


def _bytes_of(network: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (*network.parameters(), *network.buffers()))


def _planned_flux(component: str) -> int:
    from mold_core.plugins import load_plugins
    from mold_flux import components

    spec = load_plugins().models["flux-dev:bf16"]
    return 2 * components._working_bytes(component, spec, components._WIDTHS[component])


def _planned_ltx2(tokens: int) -> int:
    from mold_ltx2 import component_sizes

    return 2 * tokens * 4096 * component_sizes._TOKEN_WIDTHS


def _share_of_peak(rate: float) -> float | None:
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((rate / peak for word, peak in PEAK.items() if word in name), None)
