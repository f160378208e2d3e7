"""What makes the transformer faster on a GPU: compiled blocks, and the attention that suits the hardware.

Blocks are compiled, not the whole network ("regional compilation"): all blocks of a kind share one piece of compiled
code, so that compiling takes a minute and not many. Nothing here changes what is computed beyond rounding, and
whatever fails is logged and done without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mold_core.weights.compiled_blocks import Compilation, compile_modules, configured, problem_of, worth_compiling
from mold_flux.transformer import FluxTransformer

__all__ = ["attention_for", "compile_blocks", "fast_attention", "problem_of", "worth_compiling"]

# Kernels of scaled_dot_product_attention in torch's names. A list is an order: what cannot do a case is passed over.
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
    """Let the blocks of a transformer run as compiled code from their first use on.

    With `graphs` they are recorded as CUDA graphs as well, which takes the launching of kernels off the processor; not
    for weights that are streamed. The rest is that of `mold_core.weights.compiled_blocks.compile_modules`.
    """
    # CUDA graphs are inductor's; other backends know no modes.
    options: dict[str, Any] = {"mode": "reduce-overhead"} if graphs and backend == "inductor" else {}
    state = compile_modules(
        (*transformer.double_blocks, *transformer.single_blocks), backend=backend, cache_dir=cache_dir, **options
    )
    transformer.real_rope = True  # compilers leave complex numbers alone
    step = _recorded(transformer.step, state) if options else transformer.step
    transformer.step = configured(step, attention)  # type: ignore[method-assign]
    transformer.compilation = state


def attention_for(device: str, choice: str) -> str:
    """Return which kernel of attention a choice means on a device; "default" leaves it to torch."""
    if not device.startswith("cuda"):
        return "default"
    if choice == "auto":
        return "cudnn" if torch.cuda.get_device_capability(device)[0] >= 9 else "default"
    return choice


@contextmanager
def fast_attention(device: str, choice: str) -> Iterator[None]:
    """Prefer a kernel of attention for a while: the one of that name, or with "auto" what is fastest on the device.

    cuDNN's is the faster one from Hopper on; elsewhere torch's own order is kept. Only CUDA has a choice.
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
        return step(*arguments, **named).clone()  # the next step writes where this one's result lies

    return recorded
