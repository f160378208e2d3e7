"""What makes the transformer faster on a GPU: compiled blocks, and the attention that suits the hardware.

Blocks are compiled, not the whole network ("regional compilation"): all blocks of a kind share one piece of compiled
code, so that compiling takes a minute and not many. Nothing here changes what is computed beyond rounding, and
whatever fails is logged and done without.
"""

from __future__ import annotations

import logging
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from mold_core import CancelledError
from mold_flux.transformer import FluxTransformer

__all__ = ["attention_for", "compile_blocks", "fast_attention", "problem_of", "worth_compiling"]

log = logging.getLogger("mold.flux")

# Weights from which on a step takes long enough for compiling to pay, in bytes.
_LARGE_BYTES = 1_000_000_000

# Variants of a model's compiled blocks: a first size, other sizes, batches of one prompt and of several, and the
# structure of each set of adapters. torch stops compiling after 8 of them, for all models of a process together.
_MOST_VARIANTS = 64

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


def compile_blocks(
    transformer: FluxTransformer, *, graphs: bool = False, attention: str = "default", backend: str | Any = "inductor"
) -> None:
    """Let the blocks of a transformer run as compiled code from their first use on.

    With `graphs` they are recorded as CUDA graphs as well, which takes the launching of kernels off the processor; not
    for weights that are streamed. `attention` is what `fast_attention` will use: compiled code has it built in. When
    compiling or running compiled code fails, the blocks run as they are from then on, and `problem_of` says why.
    """
    state = _State()
    # CUDA graphs are inductor's; other backends know no modes.
    options: dict[str, Any] = {"mode": "reduce-overhead"} if graphs and backend == "inductor" else {}
    own: dict[type, Any] = {}
    for block in (*transformer.double_blocks, *transformer.single_blocks):
        function = own.setdefault(type(block), _copy_of(type(block).forward))
        compiled = torch.compile(types.MethodType(function, block), backend=backend, **options)
        block.forward = _guarded(block, state, compiled)
    transformer.real_rope = True  # compilers leave complex numbers alone
    step = _recorded(transformer.step, state) if options else transformer.step
    transformer.step = _configured(step, attention)  # type: ignore[method-assign]
    transformer.compilation = state


def problem_of(transformer: nn.Module) -> str | None:
    """Return why a transformer that was to be compiled runs uncompiled, once; None where it does not."""
    state = getattr(transformer, "compilation", None)
    if state is None or state.problem is None or state.told:
        return None
    state.told = True
    return cast(str, state.problem)


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


class _State:
    """Whether compiled code is used still, and why not; blocks of a transformer share it."""

    def __init__(self) -> None:
        self.problem: str | None = None
        self.told = False

    @property
    def works(self) -> bool:
        return self.problem is None


def _copy_of(function: Any) -> Any:
    """Return the same function with a code object of its own, which is what torch counts variants by."""
    copy = types.FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _guarded(block: nn.Module, state: _State, compiled: Callable[..., Any]) -> Callable[..., Any]:
    plain = type(block).forward

    def forward(*arguments: Any) -> Any:
        if state.works:
            try:
                return compiled(*arguments)
            except (torch.OutOfMemoryError, CancelledError):
                raise
            except Exception as error:  # compilers fail in many ways, none of which is a reason not to go on
                reason = str(error).partition("\n")[0]
                state.problem = f"compiled blocks are not used: {type(error).__name__}: {reason}"
                log.warning("%s", state.problem)
        return plain(block, *arguments)

    return forward


def _configured(step: Callable[..., Tensor], attention: str) -> Callable[..., Tensor]:
    """Have torch compile enough variants, fail rather than go on uncompiled in silence, and not mix up attentions.

    The kernel of attention becomes part of compiled code, but neither of its guards nor of the names it is cached
    under: those get a tag.
    """

    def configured(*arguments: Any, **named: Any) -> Tensor:
        limits = torch._dynamo.config.patch(  # type: ignore[no-untyped-call]
            recompile_limit=_MOST_VARIANTS,
            accumulated_recompile_limit=max(_MOST_VARIANTS, torch._dynamo.config.accumulated_recompile_limit),
            fail_on_recompile_limit_hit=True,
        )
        with limits, torch.compiler.config.patch(cache_key_tag=f"mold-{attention}"):  # type: ignore[attr-defined]
            return step(*arguments, **named)

    return configured


def _recorded(step: Callable[..., Tensor], state: _State) -> Callable[..., Tensor]:
    def recorded(*arguments: Any, **named: Any) -> Tensor:
        if not state.works:
            return step(*arguments, **named)
        torch.compiler.cudagraph_mark_step_begin()
        return step(*arguments, **named).clone()  # the next step writes where this one's result lies

    return recorded
