"""Load the tensors of a file into a network of spandrel on its device."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mold_core import CheckpointError, WeightLoad
from mold_core.families import compute_threads
from mold_core.weights import check_finite, overflows_fp16, release_cached

if TYPE_CHECKING:
    from mold_core import LoadContext
    from mold_core.weights import TensorSource

__all__ = ["load_descriptor", "runner"]


def load_descriptor(architecture: Any, tensors: Mapping[str, TensorSource], context: LoadContext) -> Any:
    """Return spandrel's descriptor of a network, on the CPU. Raises CheckpointError if the tensors do not match."""
    read = {name: source.read() for name, source in tensors.items()}
    for name, tensor in read.items():
        if not isinstance(tensor, Tensor):
            raise CheckpointError(f"{name} is quantised, and upscalers are not computed with quantised weights")
    try:
        with warnings.catch_warnings():  # some architectures use deprecated names of torch
            warnings.simplefilter("ignore")
            return architecture.load(read)
    except Exception as error:  # spandrel derives sizes from shapes, so a damaged file may fail anywhere
        raise CheckpointError(
            f"this is a damaged {architecture.name} network, or a variant that spandrel does not know: %r", error
        ) from error


def runner(descriptor: Any, context: LoadContext) -> tuple[Callable[[Tensor], Tensor], int, Callable[[], None]]:
    """Return a function that runs a network on the context's device, its memory in bytes, and a function that frees it.

    It computes in fp16 on a GPU if architecture and weights allow it, else in fp32. bf16 would cause visible banding.
    """
    model = descriptor.model
    half = context.device != "cpu" and descriptor.supports_half and not overflows_fp16(model.state_dict().values())
    dtype = torch.float16 if half else torch.float32
    model.eval().requires_grad_(False).to(device=context.device, dtype=dtype)
    size_bytes = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    context.report(WeightLoad(bytes_loaded=size_bytes, bytes_total=size_bytes, component="upscaler"))

    def run(pixels: Tensor) -> Tensor:
        with compute_threads(context.threads):
            larger = torch.cat([descriptor(image[None].to(dtype)) for image in pixels])
        check_finite("upscaler", larger, network=model)
        return larger

    def close() -> None:
        model.to("meta")
        release_cached(context.device)

    return run, size_bytes, close
