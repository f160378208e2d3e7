"""The memory of tensors, computed from the headers of their files: in total, and when streamed block by block."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from mold_core.weights.source import TensorSource

__all__ = ["ComponentSizes", "held_bytes", "measure"]

# Tensors of a streamed unit start at multiples of this, in bytes.
_ALIGN = 256


@attrs.frozen(kw_only=True)
class ComponentSizes:
    """Sizes of a component: total, tensors that are not streamed, and the largest unit (0: not streamed)."""

    total_bytes: int
    staying_bytes: int
    largest_bytes: int

    def streamed_bytes(self, device: str) -> int | None:
        """Return the memory of the streamed component on a device; None if it cannot be streamed."""
        slots = 2 if device.startswith("cuda") else 1
        return self.staying_bytes + slots * self.largest_bytes if self.largest_bytes else None


def measure(
    sources: Mapping[str, TensorSource],
    number_bytes: int,
    *,
    expand: bool = False,
    unit: re.Pattern[str] | None = None,
) -> ComponentSizes:
    """Return the memory of tensors if numbers are computed in a dtype of `number_bytes`.

    Quantised matrices stay quantised unless `expand`. `unit` matches the prefix of a tensor's name that identifies the
    streamed block of the tensor.
    """
    units: dict[str, int] = defaultdict(int)
    total = 0
    for name, source in sources.items():
        size_bytes = held_bytes(source, number_bytes, expand)
        total += size_bytes
        found = unit.search(name) if unit else None
        if found:
            units[found[0]] += -(-size_bytes // _ALIGN) * _ALIGN
    return ComponentSizes(
        total_bytes=total,
        staying_bytes=max(0, total - sum(units.values())),
        largest_bytes=max(units.values(), default=0),
    )


def held_bytes(source: TensorSource, number_bytes: int, expand: bool = False) -> int:
    """Return the memory of a tensor in a network."""
    if source.type.quantised and len(source.shape) == 2 and not expand:
        return source.size_bytes
    floating = source.type.quantised or "float" in (source.type.torch_dtype or "")
    return math.prod(source.shape) * number_bytes if floating else source.size_bytes
