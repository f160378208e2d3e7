"""Regional compilation: the repeated blocks of a network run as compiled code.

All blocks of a kind share one piece of compiled code, so compiling takes a minute. The result differs by rounding at
most, and failures are logged and fall back to the uncompiled code.
"""

from __future__ import annotations

import logging
import types
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from mold_core.errors import CancelledError
from mold_core.weights.compiled import keep_caches_below

__all__ = ["Compilation", "compile_modules", "configured", "problem_of", "worth_compiling"]

log = logging.getLogger("mold.weights")

# Size of the weights, in bytes, from which steps are slow enough for compiling to pay.
_LARGE_BYTES = 1_000_000_000

# Variants of a model's compiled blocks: a first size, other sizes, batches of one prompt and of several, and the
# structure of each set of LoRAs. torch stops compiling after 8 of them, for all models of a process together.
_MOST_VARIANTS = 64


class Compilation:
    """Whether compiled code is still in use, and if not, the reason. The blocks of a network share it."""

    def __init__(self) -> None:
        self.problem: str | None = None
        self.reported = False

    @property
    def works(self) -> bool:
        return self.problem is None


def worth_compiling(mode: str, device: str, size_bytes: int) -> bool:
    """Return whether to compile a transformer's blocks: "on" always, "off" never, "auto" if it is large and on CUDA."""
    return mode == "on" or (mode == "auto" and device.startswith("cuda") and size_bytes >= _LARGE_BYTES)


def compile_modules(
    blocks: Iterable[nn.Module], *, backend: str | Any = "inductor", cache_dir: Path | None = None, **options: Any
) -> Compilation:
    """Compile blocks on their first use, and return the state of compilation, for `problem_of`.

    Compiled code is cached below `cache_dir`, for other processes too. If compiling or running compiled code fails, the
    blocks run uncompiled from then on. `options` are those of torch.compile. The step that runs the blocks must be
    wrapped by `configured`.
    """
    if cache_dir is not None:
        keep_caches_below(cache_dir / "kernels")
    state = Compilation()
    copies: dict[type, Any] = {}
    for block in blocks:
        function = copies.setdefault(type(block), _copy_of(type(block).forward))
        compiled = torch.compile(types.MethodType(function, block), backend=backend, **options)
        block.forward = _guarded(block, state, compiled)
    return state


def problem_of(network: nn.Module) -> str | None:
    """Return why a network that should be compiled is not; None if it is, or if the reason was already returned."""
    state = getattr(network, "compilation", None)
    if state is None or state.problem is None or state.reported:
        return None
    state.reported = True
    return cast(str, state.problem)


def _copy_of(function: Any) -> Any:
    """Return the same function with a separate code object, because torch counts variants by code object."""
    copy = types.FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    weakref.finalize(copy, _forget, copy.__code__)
    return copy


def _forget(code: types.CodeType) -> None:
    """Free the compiled variants of a code object, with the memory of the CUDA graphs recorded in them.

    torch keeps them in the code object, and they refer to it: a cycle that the garbage collector cannot see.
    """
    with suppress(ImportError, AttributeError):  # private: without it, the variants stay until the process ends
        from torch._C._dynamo.eval_frame import reset_code

        reset_code(code)


def _guarded(block: nn.Module, state: Compilation, compiled: Callable[..., Any]) -> Callable[..., Any]:
    plain = type(block).forward

    def forward(*arguments: Any, **named: Any) -> Any:
        if state.works:
            try:
                return compiled(*arguments, **named)
            except (torch.OutOfMemoryError, CancelledError):
                raise
            except Exception as error:  # compilers fail in many ways, and the uncompiled code always works
                reason = str(error).partition("\n")[0]
                state.problem = f"compiled blocks are not used: {type(error).__name__}: {reason}"
                log.warning("%s", state.problem)
        return plain(block, *arguments, **named)

    return forward


def configured(step: Callable[..., Any], attention: str = "default") -> Callable[..., Any]:
    """Return a step of a network with compiled blocks, in which torch may compile as many variants as they need.

    More variants raise an error, instead of silently running uncompiled. The attention kernel becomes part of compiled
    code, but not of its guards and cache keys, so `attention` is added to these keys as a tag.
    """

    def run(*arguments: Any, **named: Any) -> Any:
        limits = torch._dynamo.config.patch(
            recompile_limit=_MOST_VARIANTS,
            accumulated_recompile_limit=max(_MOST_VARIANTS, torch._dynamo.config.accumulated_recompile_limit),
            fail_on_recompile_limit_hit=True,
        )
        with limits, torch.compiler.config.patch(cache_key_tag=f"mold-{attention}"):  # type: ignore[attr-defined]
            return step(*arguments, **named)

    return run
