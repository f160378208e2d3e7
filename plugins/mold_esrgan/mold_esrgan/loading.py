"""Tensors of a file into a network on its device, in the dtype that is fastest there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mold_core import CheckpointError, WeightLoad
from mold_core.weights import check_finite, load_weights, overflows_fp16, release_cached

if TYPE_CHECKING:
    from mold_core import LoadContext
    from mold_core.weights import TensorSource

__all__ = ["fast_dtype", "filled"]


def filled(
    network: Callable[[Any], nn.Module], config: Any, tensors: Mapping[str, TensorSource], context: LoadContext
) -> tuple[Callable[[Tensor], Tensor], int, Callable[[], None]]:
    """Return a network of a config with the tensors in it, what it takes in memory, and what frees it.

    Raises CheckpointError for tensors that are missing, left over, quantised or of another shape.
    """
    with torch.device("meta"):
        module = network(config)
    read = {name: source.read() for name, source in tensors.items()}
    for name, tensor in read.items():
        if not isinstance(tensor, Tensor):
            raise CheckpointError(f"{name} is quantised, and convolutions are not computed with quantised weights")
    load_weights(module, read, "the file", dtype=torch.float32, device=context.device)
    dtype = fast_dtype(context.device)
    if dtype == torch.float16 and overflows_fp16(read.values()):
        dtype = torch.float32
    module.compute_in(dtype).to(memory_format=torch.channels_last)
    module.eval().requires_grad_(False)
    size_bytes = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    context.report(WeightLoad(bytes_loaded=size_bytes, bytes_total=size_bytes, component="upscaler"))

    def run(pixels: Tensor) -> Tensor:
        with _threads(context.threads):
            larger: Tensor = module(pixels)
        check_finite("upscaler", larger, network=module)
        return larger

    def close() -> None:
        module.to("meta")
        release_cached(context.device)

    return run, size_bytes, close


def fast_dtype(device: str) -> torch.dtype:
    """Return the dtype to convolve in: fp16 on a GPU, bf16 on CPUs that multiply it, else fp32."""
    if device != "cpu":
        return torch.float16
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Compute with `count` threads for a while. torch's setting is the process's, so the old one is put back."""
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
