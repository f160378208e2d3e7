"""In-context LoRAs: the size of the reference video that their files declare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from mold_core import CheckpointError

if TYPE_CHECKING:
    from mold_core import LoraWeight

__all__ = ["reference_downscale"]

# The key in a file for how many times smaller than the clip the reference videos of training were.
_FACTOR = "reference_downscale_factor"


def reference_downscale(loras: Sequence[LoraWeight]) -> int:
    """Return how many times smaller than the clip the reference video is; 1 if no LoRA declares it.

    Raises CheckpointError naming the file for a value that is not a positive whole number, and for LoRAs that disagree.
    """
    factors = {lora.path: factor for lora in loras if (factor := _factor(Path(lora.path))) != 1}
    if len(set(factors.values())) > 1:
        (one, first), (other, second), *_ = factors.items()
        raise CheckpointError(
            f"%s: this LoRA takes a reference video {second} times smaller, and %s one {first} times smaller",
            Path(other),
            Path(one),
            hint="use one of them",
        )
    return next(iter(factors.values()), 1)


def _factor(path: Path) -> int:
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_FACTOR, "1")
    except (OSError, SafetensorError):
        return 1  # reading its tensors reports the error
    try:
        factor = int(text)
    except ValueError:
        factor = 0
    if factor < 1:
        raise CheckpointError(f"%s: {_FACTOR} must be a whole number from 1, not %r", path, text)
    return factor
