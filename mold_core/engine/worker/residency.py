"""The models in memory, counted in measured bytes against the budget of the device."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable

from mold_core.errors import InsufficientMemoryError
from mold_core.hookspecs import Pipeline
from mold_core.plugin_members import completed

__all__ = ["Residency"]

log = logging.getLogger("mold.engine")


class Residency:
    """Loaded pipelines, least recently used first. One worker owns it; it is not shared between threads."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._loaded: OrderedDict[str, Pipeline] = OrderedDict()

    @property
    def names(self) -> tuple[str, ...]:
        """The loaded models, least recently used first."""
        return tuple(self._loaded)

    @property
    def used_bytes(self) -> int:
        """The memory that the loaded models now report to use."""
        return sum(pipeline.size_bytes for pipeline in self._loaded.values())

    def get(self, name: str, expected_bytes: int = 0, load: Callable[[], Pipeline] | None = None) -> Pipeline:
        """Return the pipeline, loading it with `load` if it is not loaded. Without `load`, it must be loaded.

        Before loading, other models are closed until `expected_bytes` (an estimate) fit. After loading, and on every
        later call, they are closed until its peak memory while it runs fits. Raises InsufficientMemoryError if it would
        not fit even alone.
        """
        if name in self._loaded:
            self._loaded.move_to_end(name)
            loaded = self._loaded[name]
            self._free(_peak_bytes(loaded) - loaded.size_bytes, sparing=name)
            return loaded
        self._refuse_too_large(name, expected_bytes)
        self._free(expected_bytes)
        if load is None:
            raise KeyError(name)
        pipeline = load()
        try:
            self._refuse_too_large(name, _peak_bytes(pipeline))
        except InsufficientMemoryError:
            pipeline.close()
            raise
        self._free(_peak_bytes(pipeline))
        self._loaded[name] = pipeline
        return pipeline

    def drop(self, name: str) -> bool:
        """Close one model; False if it was not loaded."""
        pipeline = self._loaded.pop(name, None)
        if pipeline is None:
            return False
        try:
            pipeline.close()
        except Exception:
            log.exception("closing %s failed", name)
        return True

    def clear(self) -> None:
        """Close every model."""
        for name in self.names:
            self.drop(name)

    def make_room(self, needed_bytes: int) -> None:
        """Close models, least recently used first, until `needed_bytes` are free for memory not tracked here."""
        self._free(needed_bytes)

    def _refuse_too_large(self, name: str, size_bytes: int) -> None:
        if size_bytes > self.budget_bytes:
            raise InsufficientMemoryError(
                f"model {name!r} needs {size_bytes / 1e9:.1f} GB and the budget is {self.budget_bytes / 1e9:.1f} GB",
                field="model",
                value=name,
                hint="use a smaller tag (mold list), or raise MOLD_MEMORY_BUDGET_GB",
            )

    def _free(self, needed_bytes: int, sparing: str | None = None) -> None:
        for name in self.names:
            if self.used_bytes + needed_bytes <= self.budget_bytes:
                return
            if name != sparing:
                self.drop(name)


def _peak_bytes(pipeline: Pipeline) -> int:
    return max(pipeline.size_bytes, completed(pipeline, Pipeline).peak_bytes)
