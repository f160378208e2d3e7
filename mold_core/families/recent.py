"""A small cache for results of networks: encoded prompts, encoded source images."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Generic, TypeVar

__all__ = ["RecentValues"]

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class RecentValues(Generic[_Key, _Value]):
    """The values of the `limit` most recently used keys."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: OrderedDict[_Key, _Value] = OrderedDict()

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def get(self, keys: Sequence[_Key], compute: Callable[[list[_Key]], Iterable[_Value]]) -> list[_Value]:
        """Return the values of keys, in order.

        `compute` gets the keys that are not cached, each once, and returns their values; it is not called if all are.
        There may be more keys than the limit.
        """
        missing = [key for key in dict.fromkeys(keys) if key not in self._values]
        if missing:
            self._values.update(zip(missing, compute(missing), strict=True))
        values = [self._values[key] for key in keys]
        for key in keys:
            self._values.move_to_end(key)
        while len(self._values) > self._limit:
            self._values.popitem(last=False)
        return values
