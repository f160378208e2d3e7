"""The built-in executors and those of plugins, by name."""

from __future__ import annotations

from mold_core.engine.worker.local import InlineExecutor
from mold_core.engine.worker.process import ProcessExecutor
from mold_core.errors import SettingsError
from mold_core.hookspecs import Executor
from mold_core.plugins import Plugins

__all__ = ["executor_named"]


def executor_named(name: str, plugins: Plugins) -> Executor:
    """Return an executor by its name. Raises SettingsError that lists the known executors."""
    known: dict[str, Executor] = {executor.name: executor for executor in (InlineExecutor(), ProcessExecutor())}
    known = {**plugins.items["mold_executors"], **known}
    if name not in known:
        raise SettingsError(
            f"there is no executor {name!r}", field="executor", value=name, hint=f"there is {', '.join(sorted(known))}"
        )
    return known[name]
