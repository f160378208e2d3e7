"""A faster transformer on a GPU: compiled blocks, and the attention kernel that suits the hardware.

Blocks are compiled instead of the whole network ("regional compilation"): all blocks of a kind share one piece of
compiled code, so compiling takes a minute. The result differs by rounding at most, and failures are logged and fall
back to the uncompiled code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mold_core.weights import Compilation, compile_modules, configured, problem_of, worth_compiling
from mold_flux.transformer import FluxTransformer

__all__ = ["attention_for", "compile_blocks", "fast_attention", "problem_of", "worth_compiling"]

# Kernels of scaled_dot_product_attention in torch's names, in order of preference. torch skips unsuitable ones.
_BACKENDS = {
    "cudnn": ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH"),
    "flash": ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION", "MATH"),
    "efficient": ("EFFICIENT_ATTENTION", "FLASH_ATTENTION", "MATH"),
    "math": ("MATH",),
}


def compile_blocks(
    transformer: FluxTransformer,
    *,
    graphs: bool = False,
    attention: str = "default",
    backend: str | Any = "inductor",
    cache_dir: Path | None = None,
) -> None:
    """Compile the blocks of a transformer on their first use.

    With `graphs` they are also recorded as CUDA graphs, so the CPU launches no kernels; not for weights that are
    streamed. The other arguments are those of `mold_core.weights.compile_modules`.
    """
    # Only inductor has CUDA graphs and modes.
    options: dict[str, Any] = {"mode": "reduce-overhead"} if graphs and backend == "inductor" else {}
    state = compile_modules(
        (*transformer.double_blocks, *transformer.single_blocks), backend=backend, cache_dir=cache_dir, **options
    )
    transformer.real_rope = True  # compilers do not support complex numbers
    step = _recorded(transformer.step, state) if options else transformer.step
    transformer.step = configured(step, attention)  # type: ignore[method-assign]
    transformer.compilation = state


def attention_for(device: str, choice: str) -> str:
    """Return the attention kernel of a choice on a device; "default" leaves it to torch."""
    if not device.startswith("cuda"):
        return "default"
    if choice == "auto":
        return "cudnn" if torch.cuda.get_device_capability(device)[0] >= 9 else "default"
    return choice


@contextmanager
def fast_attention(device: str, choice: str) -> Iterator[None]:
    """Prefer an attention kernel inside the block: the named one, or with "auto" the fastest on the device.

    cuDNN's is the fastest from Hopper on; elsewhere torch's order is kept. Only CUDA has a choice.
    """
    choice = attention_for(device, choice)
    if choice not in _BACKENDS:
        yield
        return
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel([getattr(SDPBackend, name) for name in _BACKENDS[choice]], set_priority=True):
        yield


def _recorded(step: Callable[..., Tensor], state: Compilation) -> Callable[..., Tensor]:
    def recorded(*arguments: Any, **named: Any) -> Tensor:
        if not state.works:
            return step(*arguments, **named)
        torch.compiler.cudagraph_mark_step_begin()
        return step(*arguments, **named).clone()  # the next step overwrites this result

    return recorded
