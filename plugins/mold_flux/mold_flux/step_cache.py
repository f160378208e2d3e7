"""Steps that change little are not computed: the first block says how much a step changes.

The change that the first block makes to the image tokens is compared with that of the last step that was computed. If
it is nearly the same, so is the change that all other blocks make, and that one is used again. Known as first-block
cache; after TeaCache (arXiv 2411.19108), whose criterion it simplifies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from mold_core import GenerateRequest

__all__ = ["DEFAULT_THRESHOLD", "FirstBlockCache", "first_block_cache"]

DEFAULT_THRESHOLD = 0.1


def first_block_cache(request: GenerateRequest) -> FirstBlockCache | None:
    """Return an empty cache for a request whose options ask for one, else None."""
    options = request.options or {}
    if options.get("cache", "off") == "off":
        return None
    return FirstBlockCache(float(options.get("cache_threshold", DEFAULT_THRESHOLD)))


class FirstBlockCache:
    """The cache of one image, or of images computed together, during its steps.

    `threshold` is the relative change, from 0, up to which a step is not computed. `reused` counts those steps.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.reused = 0
        self._first: Tensor | None = None
        self._others: Tensor | None = None

    def change_after(self, first: Tensor) -> Tensor | None:
        """Return the change [B, N, H] that the other blocks made before, if the first one's change is nearly the same.

        On a GPU the host waits for the first block: it has to know what comes next.
        """
        if self._first is not None and self._others is not None:
            difference = (first - self._first).abs().mean() / self._first.abs().mean()
            if difference.item() < self.threshold:
                self.reused += 1
                return self._others
        self._first = first
        return None

    def keep(self, others: Tensor) -> None:
        """Keep the change [B, N, H] that the other blocks made in this step."""
        self._others = others
