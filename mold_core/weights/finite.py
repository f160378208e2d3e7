"""Checks for NaN and infinity in the results that one network passes to the next.

A check is one reduction and, on a GPU, one synchronization. The weights are searched for the cause only if it fails.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mold_core.errors import InferenceError
from mold_core.weights.lora_linear import AdaptedLinear
from mold_core.weights.packed import PackedTensor

__all__ = ["all_finite", "check_finite"]

_NOT_FINITE = "NaN or infinity"


def check_finite(component: str, *results: Tensor, network: object = None, when: str = "") -> None:
    """Raise InferenceError, naming the component, if its results contain NaN or infinity.

    The error distinguishes a LoRA or weight of `network` that is not finite from numbers that overflowed during
    computation. `when` names the point of the work, such as "in step 1 of 4".
    """
    if all_finite(*results):
        return
    for culprit in _culprits(network) if isinstance(network, nn.Module) else ():
        raise InferenceError(
            f"{culprit} (the {component} computed {_NOT_FINITE}{when and f' {when}'})",
            hint="the file is damaged, or was converted to a dtype that is too narrow for it: fetch it again"
            " (mold info MODEL --verify compares files with the catalog) or use one in another dtype, such as bf16",
        )
    raise InferenceError(
        f"the {component} computed {_NOT_FINITE}{when and f' {when}'}, so there is no result",
        hint="numbers became too large for the dtype: use files in another one (bf16 rather than fp16, an fp32 VAE),"
        " or a smaller LoRA scale",
    )


def all_finite(*results: Tensor) -> bool:
    """Return whether tensors on one device contain neither NaN nor infinity.

    PERF: a sum is not finite if a summand is not. It reads each number once and, unlike isfinite(), writes nothing. The
    sum of billions of numbers of usual size fits float32.
    """
    sums = [result.sum(dtype=torch.float32) for result in results if result.is_floating_point()]
    return not sums or bool(torch.stack(sums).isfinite().all())


def _culprits(network: nn.Module) -> Iterator[str]:
    """Yield the LoRAs of a network that are not finite, then its weights that are not."""
    for path, module in network.named_modules():
        if isinstance(module, AdaptedLinear):
            for branch, _ in module.deltas:
                if not all_finite(*branch.tensors()):
                    yield f"the LoRA {branch.source} holds {_NOT_FINITE} for {path}"
    for path, module in network.named_modules():
        packed = getattr(module, "weight", None)
        if isinstance(packed, PackedTensor) and not all_finite(packed.expand()):
            yield f"the weight {path}.weight holds {_NOT_FINITE}"
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            if tensor.device.type != "meta" and not all_finite(tensor):
                yield f"the weight {f'{path}.{name}'.removeprefix('.')} holds {_NOT_FINITE}"
