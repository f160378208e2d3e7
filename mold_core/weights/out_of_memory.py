"""Running out of memory: how it is recognised on every device, and how memory that torch keeps is given back."""

from __future__ import annotations

__all__ = ["is_out_of_memory", "release_cached"]

# What torch and its libraries say, in lower case. cuDNN and cuBLAS allocate workspaces of their own, and when they get
# none some of them report that there is no algorithm.
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
    """Say whether an error means that memory ran out, on the device or on the machine."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(known in text for known in _TEXTS)


def release_cached(device: str) -> None:
    """Give memory that torch keeps for itself back to a device, for everyone."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    elif device.startswith("mps"):
        torch.mps.empty_cache()
