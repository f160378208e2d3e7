"""In-context LoRAs: what their files say of the video that the model is shown beside its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from mold_core import CheckpointError

if TYPE_CHECKING:
    from mold_core import LoraWeight

__all__ = ["shown_smaller"]

# How many times smaller than the clip the videos were that a LoRA was trained to be shown.
_FACTOR = "reference_downscale_factor"


def shown_smaller(loras: Sequence[LoraWeight]) -> int:
    """Return how many times smaller the video is shown: what the LoRAs say that say anything, 1 where none does.

    Raises CheckpointError naming the file for a value that is none, and for LoRAs that disagree.
    """
    factors = {lora.path: factor for lora in loras if (factor := _factor(Path(lora.path))) != 1}
    if len(set(factors.values())) > 1:
        (one, first), (other, second), *_ = factors.items()
        raise CheckpointError(
            f"%s: this LoRA is shown videos {second} times smaller, and %s {first} times",
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
        return 1  # the file is refused where its tensors are read
    try:
        factor = int(text)
    except ValueError:
        factor = 0
    if factor < 1:
        raise CheckpointError(f"%s: {_FACTOR} must be a whole number from 1, not %r", path, text)
    return factor
