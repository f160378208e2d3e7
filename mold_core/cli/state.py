"""What commands share: settings, plugins and the engine, each made when it is first asked for."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mold_core.engine import Engine
    from mold_core.plugins import Plugins
    from mold_core.settings import Settings

__all__ = ["State"]


class State:
    """The state of one invocation of `mold`."""

    def __init__(self) -> None:
        self.no_plugins = False
        self.commands_added = False
        self._flags: dict[str, Any] = {}

    def use_flags(self, **flags: Any) -> None:
        """Let flags of the command decide settings, by field name; None means not given. Call it before `engine`."""
        self._flags.update(flags)
        self.__dict__.pop("settings", None)  # they may have been read before, to look for plugins

    @cached_property
    def settings(self) -> Settings:
        """The settings in force, flags of the command included."""
        from mold_core.settings import Settings

        return Settings.load(self._flags)

    @cached_property
    def plugins(self) -> Plugins:
        """The plugins that are installed and wanted."""
        from mold_core.plugins import load_plugins

        return load_plugins(() if self.no_plugins else self.settings.plugins)

    @cached_property
    def engine(self) -> Engine:
        """The engine; torch is not imported before it makes something."""
        from mold_core.engine import Engine

        return Engine(self.settings, self.plugins)
