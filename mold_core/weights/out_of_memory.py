"""Recognise out-of-memory errors of every device, and release the memory that torch caches."""

from __future__ import annotations

__all__ = ["is_out_of_memory", "release_cached"]

# Messages of torch and its libraries, in lower case. If cuDNN or cuBLAS cannot allocate a workspace, some versions
# report that there is no algorithm.
_TEXTS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "unable to find an engine",
    "unable to find a valid cudnn algorithm",
    "cudnn_status_alloc_failed",
    "cublas_status_alloc_failed",
    "cusolver_status_alloc_failed",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the device or the machine has no memory left."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(known in text for known in _TEXTS)


def release_cached(device: str) -> None:
    """Release the memory of a device that torch caches, for other processes."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    elif device.startswith("mps"):
        torch.mps.empty_cache()
