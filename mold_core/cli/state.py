"""What commands share: settings, plugins and the engine, each created on first use."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from mold_core.cli.output import echo, foreign_code, reserve, style
from mold_core.errors import SettingsError, UnreachableError

if TYPE_CHECKING:
    from mold_core.client import Client
    from mold_core.client.disk_usage import RemoteDiskInventory
    from mold_core.client.gallery import RemoteGallery
    from mold_core.engine import Engine
    from mold_core.engine.disk_usage import DiskInventory
    from mold_core.gallery import Gallery
    from mold_core.plugins import Plugins
    from mold_core.settings import Settings

    AnyEngine: TypeAlias = Engine | Client
    AnyGallery: TypeAlias = Gallery | RemoteGallery
    AnyDiskInventory: TypeAlias = DiskInventory | RemoteDiskInventory

__all__ = ["State"]


class State:
    """The state of one invocation of `mold`.

    `engine` runs requests: a client of the server that MOLD_HOST or --host names, or of one that runs on this machine
    with the same MOLD_HOME, or else an engine in this process. With `falls_back`, this process replaces a named server
    that refuses the connection; `lost` then holds the error.
    """

    def __init__(self, *, owns_process: bool = False) -> None:
        """`owns_process`: only this command runs in the process, so Ctrl-C may end the process."""
        self._owns_process = owns_process
        self.no_plugins = False
        self.commands_added = False
        self.local = False
        self.falls_back = True
        self.lost: UnreachableError | None = None
        self._flags: dict[str, Any] = {}
        self._bound: list[str] = []

    def use_flags(self, **flags: Any) -> None:
        """Override settings with flags of the command, by field name; None means not given. Call it before `engine`.

        All but the host apply to this machine only, so the command runs locally.
        """
        self._flags.update(flags)
        self._bound += [
            f"--{name.replace('_', '-')}" for name, value in flags.items() if value is not None and name != "host"
        ]
        for name in ("settings", "_first_settings"):
            self.__dict__.pop(name, None)  # they may have been read before, to find plugins

    def stay_here(self, what: str) -> None:
        """Run in this process because of `what`, which no server can do. Call it before `engine`."""
        self._bound.append(what)

    def refuse_server(self, what: str) -> None:
        """Run in this process because of `what`. Raises SettingsError if a server is named."""
        self.stay_here(what)
        self._named()

    @cached_property
    def settings(self) -> Settings:
        """The current settings, flags of the command included.

        Those of plugins are read, and the plugins loaded, only where there are names that mold does not declare.
        """
        first = self._first_settings
        return self.plugins.read_settings(first) if first.has_unread_names else first

    @cached_property
    def _first_settings(self) -> Settings:
        from mold_core.settings import Settings

        return Settings.load(self._flags)

    @cached_property
    def plugins(self) -> Plugins:
        """The plugins that are installed and enabled."""
        from mold_core.plugins import load_plugins

        with foreign_code():
            return load_plugins(() if self.no_plugins else self._first_settings.plugins)

    @cached_property
    def engine(self) -> AnyEngine:
        """What runs requests. Raises SettingsError for flags that a server cannot apply, and UnreachableError."""
        return self._client() or self.local_engine

    @cached_property
    def local_engine(self) -> Engine:
        """The engine in this process. Creating it does not import torch."""
        from mold_core.cli.interrupt import end_soon_when_interrupted
        from mold_core.engine import Engine

        if self._owns_process:
            end_soon_when_interrupted(lambda: echo(style("error: ", fg="red") + "interrupted", err=True))
        reserve()
        return Engine(self.settings, self.plugins)

    @cached_property
    def disk(self) -> AnyDiskInventory:
        """The disk of the named server, or of this machine if none is named."""
        return self.server.disk if self._named() else self.local_engine.disk

    @cached_property
    def gallery(self) -> AnyGallery:
        """The gallery of this machine, or of the named server. Raises SettingsError if there is none."""
        if self._named():
            return self.server.gallery
        from mold_core.gallery import Gallery

        gallery = Gallery.of(self.settings)
        if gallery is None:
            raise SettingsError("there is no gallery: MOLD_OUTPUT_DIR is empty", hint="unset it, or set it to a folder")
        gallery.reconcile()
        return gallery

    @cached_property
    def server(self) -> Client:
        """The named server, or the one that runs on this machine. Raises UnreachableError if there is none."""
        from mold_core.client import Client
        from mold_core.client.local import local_client

        settings = self.settings
        if settings.host:
            return Client(settings.host, settings.first_api_key() or "")
        client = local_client(settings)
        if client is None:
            raise UnreachableError("no server is running on this machine", hint="mold server start, or --host HOST")
        return client

    def _client(self) -> Client | None:
        """Return the server to use; None to run in this process."""
        settings = self.settings
        if self.local or not (settings.host or (settings.use_server == "auto" and not self._bound)):
            return None
        if not settings.host:
            from mold_core.client.local import local_client

            return local_client(settings)
        self._refuse_bound()
        try:
            self.server.health()
        except UnreachableError as error:
            if not (error.refused and self.falls_back):
                raise
            self.lost = error
            note = style("note:", fg="yellow")
            echo(f"{note} {error.message}; running on this machine instead", err=True)
            return None
        return self.server

    def _named(self) -> bool:
        """Return whether a named server is to be used. Raises SettingsError for flags that it cannot apply."""
        named = self.settings.host is not None and not self.local
        if named:
            self._refuse_bound()
        return named

    def _refuse_bound(self) -> None:
        if self._bound:
            raise SettingsError(
                f"{self._bound[0]} applies to this machine only, and {self.settings.host} would run the command",
                hint="leave it out, or add --local",
            )
