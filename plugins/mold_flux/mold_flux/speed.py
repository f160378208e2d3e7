"""What makes the transformer faster on a GPU: compiled blocks, and the attention that suits the hardware.

Blocks are compiled, not the whole network ("regional compilation"): all blocks of a kind share one piece of compiled
code, so that compiling takes a minute and not many. Nothing here changes what is computed beyond rounding, and
whatever fails is logged and done without.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mold_core import CancelledError
from mold_flux.transformer import FluxTransformer

__all__ = ["compile_blocks", "fast_attention", "worth_compiling"]

log = logging.getLogger("mold.flux")

# Weights from which on a step takes long enough for compiling to pay, in bytes.
_LARGE_BYTES = 1_000_000_000

# Kernels of scaled_dot_product_attention in torch's names. A list is an order: what cannot do a case is passed over.
_BACKENDS = {
    "cudnn": ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH"),
    "flash": ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION", "MATH"),
    "efficient": ("EFFICIENT_ATTENTION", "FLASH_ATTENTION", "MATH"),
    "math": ("MATH",),
}


def worth_compiling(mode: str, device: str, size_bytes: int) -> bool:
    """Say whether a transformer's blocks are to be compiled: mode "on" always, "off" never, "auto" if large on CUDA."""
    return mode == "on" or (mode == "auto" and device.startswith("cuda") and size_bytes >= _LARGE_BYTES)


def compile_blocks(transformer: FluxTransformer, *, graphs: bool = False, backend: str = "inductor") -> None:
    """Let the blocks of a transformer run as compiled code from their first use on.

    With `graphs` they are recorded as CUDA graphs as well, which takes the launching of kernels off the processor; not
    for weights that are streamed. When compiling or running compiled code fails, the blocks run as they are from then
    on.
    """
    state = _State()
    # CUDA graphs are inductor's; other backends know no modes.
    options: dict[str, Any] = {"mode": "reduce-overhead"} if graphs and backend == "inductor" else {}
    for block in (*transformer.double_blocks, *transformer.single_blocks):
        block.forward = _guarded(block, state, torch.compile(block.forward, backend=backend, **options))
    transformer.real_rope = True  # compilers leave complex numbers alone
    if options:
        transformer.step = _recorded(transformer.step, state)  # type: ignore[method-assign]


@contextmanager
def fast_attention(device: str, choice: str) -> Iterator[None]:
    """Prefer a kernel of attention for a while: the one of that name, or with "auto" what is fastest on the device.

    cuDNN's is the faster one from Hopper on; elsewhere torch's own order is kept. Only CUDA has a choice.
    """
    if not device.startswith("cuda"):
        yield
        return
    if choice == "auto":
        choice = "cudnn" if torch.cuda.get_device_capability(device)[0] >= 9 else "default"
    if choice not in _BACKENDS:
        yield
        return
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel([getattr(SDPBackend, name) for name in _BACKENDS[choice]], set_priority=True):
        yield


class _State:
    """Whether compiled code is used still; blocks of a transformer share it."""

    def __init__(self) -> None:
        self.works = True


def _guarded(block: nn.Module, state: _State, compiled: Callable[..., Any]) -> Callable[..., Any]:
    plain = type(block).forward

    def forward(*arguments: Any) -> Any:
        if state.works:
            try:
                return compiled(*arguments)
            except (torch.OutOfMemoryError, CancelledError):
                raise
            except Exception as error:  # compilers fail in many ways, none of which is a reason not to go on
                state.works = False
                reason = str(error).partition("\n")[0]
                log.warning("compiled blocks are not used: %s: %s", type(error).__name__, reason)
        return plain(block, *arguments)

    return forward


def _recorded(step: Callable[..., Tensor], state: _State) -> Callable[..., Tensor]:
    def recorded(*arguments: Any, **named: Any) -> Tensor:
        if not state.works:
            return step(*arguments, **named)
        torch.compiler.cudagraph_mark_step_begin()
        return step(*arguments, **named).clone()  # the next step writes where this one's result lies

    return recorded
