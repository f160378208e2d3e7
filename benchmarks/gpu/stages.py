"""The stages of the GPU benchmark in the order in which they run, each with the most time that it may take."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
from stage_setup import Figures, Setup

__all__ = ["STAGES", "Stage", "stage_named"]


@attrs.frozen(kw_only=True)
class Stage:
    """A piece of the benchmark. `function` imports what it needs: nothing is loaded before the stage runs."""

    name: str
    title: str
    limit_s: float
    function: Callable[[Setup], Figures]


def _machine(setup: Setup) -> Figures:
    import importlib.util
    import platform

    import torch

    found: Figures = {"device": platform.processor() or platform.machine(), "torch": torch.__version__}
    if setup.cuda:
        free, total = torch.cuda.mem_get_info(setup.device)
        found |= {
            "device": torch.cuda.get_device_name(setup.device),
            "capability": ".".join(map(str, torch.cuda.get_device_capability(setup.device))),
            "memory GB": total / 1e9,
            "free GB": free / 1e9,
            "CUDA": torch.version.cuda,
        }
    for library in ("triton", "diffusers"):
        found[library] = importlib.util.find_spec(library) is not None
    return found


def _run(module: str, name: str, setup: Setup, **options: Any) -> Figures:
    from importlib import import_module

    figures: Figures = getattr(import_module(module), name)(setup, **options)
    return figures


def _checks(name: str, title: str, limit_s: float = 40) -> Stage:
    function = partial(_run, "correctness", name.replace(" ", "_"))
    return Stage(name=f"check {name}", title=title, limit_s=limit_s, function=function)


def _times(name: str, title: str, limit_s: float, function: str, **options: Any) -> Stage:
    return Stage(name=name, title=title, limit_s=limit_s, function=partial(_run, "speed", function, **options))


STAGES = (
    Stage(name="machine", title="the machine", limit_s=20, function=_machine),
    _checks("products", "products with every kind of weights, as on the CPU", 60),
    _checks("products fp8", "products in fp8, eager and compiled"),
    _checks("products int8", "products in int8 (ConvRot)"),
    _checks("steps", "a small FLUX.1 in bf16, fp8, Q8_0, Q4_K, eager and compiled, as on the CPU", 90),
    _checks("streaming", "streamed blocks give what blocks on the device give"),
    _checks("loras", "two LoRAs at once, and none after them"),
    _checks("batches", "a batch gives what its images alone give"),
    _checks("nano image", "an image of flux-nano, as on the CPU"),
    _checks("nano video", "a clip of ltx2-nano"),
    _checks("cancelling", "a cancelled job ends, and the next one works"),
    _checks("out of memory", "a job that runs out of memory ends, and the next one works"),
    _times("flux bf16", "FLUX.1, bf16, compiled", 90, "flux", kind=None, compiled=True),
    _times("diffusers eager", "diffusers, bf16, eager", 60, "diffusers_flux", compiled=False),
    _times("flux fp8", "FLUX.1, fp8, compiled", 90, "flux", kind="F8_E4M3", compiled=True),
    _times("flux int8", "FLUX.1, int8 ConvRot, compiled", 90, "flux", kind="INT8", compiled=True),
    _times("flux Q8_0", "FLUX.1, Q8_0, compiled", 90, "flux", kind="Q8_0", compiled=True),
    _times("flux Q4_K", "FLUX.1, Q4_K, compiled", 90, "flux", kind="Q4_K", compiled=True),
    _times("diffusers compiled", "diffusers, bf16, compiled", 120, "diffusers_flux", compiled=True),
    _times("ltx2 bf16", "LTX-2 19B, bf16, 8 steps, compiled", 120, "ltx2", compiled=True),
    _times("flux eager", "FLUX.1, bf16, eager", 60, "flux", kind=None, compiled=False),
    _times("ltx2 eager", "LTX-2 19B, bf16, 8 steps, eager", 90, "ltx2", compiled=False),
    _times("flux vae", "FLUX.1's autoencoder, decoding", 30, "decoding"),
    _times("loading", "loading a safetensors file", 60, "loading"),
)


def stage_named(name: str) -> Stage:
    """Return a stage. Raises KeyError."""
    return {stage.name: stage for stage in STAGES}[name]
