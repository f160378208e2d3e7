"""Load a network from the tensors of a file, in the fastest dtype of its device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mold_core import CheckpointError, WeightLoad
from mold_core.families import compute_threads, to_channels_last
from mold_core.weights import check_finite, fast_dtype, load_weights, overflows_fp16, release_cached

if TYPE_CHECKING:
    from mold_core import LoadContext
    from mold_core.weights import TensorSource
    from mold_esrgan.networks import SuperResolutionNetwork

__all__ = ["convolution_dtype", "load_network"]


def load_network(
    network: Callable[[Any], SuperResolutionNetwork],
    config: Any,
    tensors: Mapping[str, TensorSource],
    context: LoadContext,
) -> tuple[Callable[[Tensor], Tensor], int, Callable[[], None]]:
    """Return the function of a network with these tensors, its size in memory in bytes, and the function that frees it.

    Raises CheckpointError for tensors that are missing, unknown, quantised or of another shape.
    """
    with torch.device("meta"):
        module = network(config)
    read = {name: source.read() for name, source in tensors.items()}
    for name, tensor in read.items():
        if not isinstance(tensor, Tensor):
            raise CheckpointError(f"{name} is quantised, and convolutions do not support quantised weights")
    load_weights(module, read, "the file", dtype=torch.float32, device=context.device)
    dtype = convolution_dtype(context.device)
    if dtype == torch.float16 and overflows_fp16(read.values()):
        dtype = torch.float32
    module.compute_in(dtype)
    to_channels_last(module)
    module.eval().requires_grad_(False)
    size_bytes = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    context.report(WeightLoad(bytes_loaded=size_bytes, bytes_total=size_bytes, component="upscaler"))

    def run(pixels: Tensor) -> Tensor:
        with compute_threads(context.threads):
            larger: Tensor = module(pixels)
        check_finite("upscaler", larger, network=module)
        return larger

    def close() -> None:
        module.to("meta")
        release_cached(context.device)

    return run, size_bytes, close


def convolution_dtype(device: str) -> torch.dtype:
    """Return the dtype of convolutions: fp16 on a GPU, bf16 on CPUs that multiply it, else fp32."""
    return fast_dtype(device) if device == "cpu" else torch.float16
