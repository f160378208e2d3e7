"""An engine with specified plugins and a temporary MOLD_HOME, for tests."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from mold_core.catalog import ModelSpec
from mold_core.engine import Engine, Job
from mold_core.gallery import Gallery
from mold_core.hookspecs import ChainRenderer, ModelFamily, PromptExpander, hookimpl
from mold_core.plugins import load_plugins
from mold_core.settings import PlacementComponent, Setting, Settings

__all__ = ["FakePlugin", "engine_with"]


class FakePlugin:
    """A plugin that provides the passed objects. `on_finished` is called as the hook `mold_job_finished`."""

    def __init__(
        self,
        *,
        families: Sequence[ModelFamily] = (),
        models: Sequence[ModelSpec] = (),
        chain_renderers: Sequence[ChainRenderer] = (),
        expanders: Sequence[PromptExpander] = (),
        commands: Sequence[click.Command] = (),
        routes: Sequence[Any] = (),
        settings: Sequence[Setting] = (),
        placement_components: Sequence[PlacementComponent] = (),
        on_finished: Callable[[Job], object] | None = None,
    ) -> None:
        self._families = families
        self._models = models
        self._chain_renderers = chain_renderers
        self._expanders = expanders
        self._commands = commands
        self._routes = routes
        self._settings = settings
        self._placement_components = placement_components
        self._on_finished = on_finished

    @hookimpl
    def mold_families(self) -> Sequence[ModelFamily]:
        """Return the families."""
        return self._families

    @hookimpl
    def mold_models(self) -> Sequence[ModelSpec]:
        """Return the models."""
        return self._models

    @hookimpl
    def mold_chain_renderers(self) -> Sequence[ChainRenderer]:
        """Return the chain renderers."""
        return self._chain_renderers

    @hookimpl
    def mold_routes(self) -> Sequence[Any]:
        """Return the routes."""
        return self._routes

    @hookimpl
    def mold_expanders(self) -> Sequence[PromptExpander]:
        """Return the expanders."""
        return self._expanders

    @hookimpl
    def mold_settings(self) -> Sequence[Setting]:
        """Bring the settings."""
        return self._settings

    @hookimpl
    def mold_placement_components(self) -> Sequence[PlacementComponent]:
        """Bring the components that can be placed."""
        return self._placement_components

    @hookimpl
    def mold_commands(self, cli: click.Group) -> None:
        """Add the commands."""
        for command in self._commands:
            cli.add_command(command)

    @hookimpl
    def mold_job_finished(self, job: Job) -> None:
        """Call `on_finished`."""
        if self._on_finished is not None:
            self._on_finished(job)


@contextmanager
def engine_with(
    *plugins: object,
    home: Path | None = None,
    durable: bool = False,
    gallery: Gallery | None = None,
    **settings: Any,
) -> Iterator[Engine]:
    """Yield an engine with only these plugins, and close it at the end.

    It runs on the CPU. `durable` and `gallery` are those of `Engine`, `settings` are fields of `Settings` that override
    the defaults. Default of `home`: a temporary folder.
    """
    with tempfile.TemporaryDirectory(prefix="mold-test-") as folder:
        loaded = load_plugins(found=(), extra=[(f"plugin-{number}", plugin) for number, plugin in enumerate(plugins)])
        chosen = Settings(**{"home": home or Path(folder), "device": "cpu", **settings})
        engine = Engine(chosen, loaded, durable=durable, gallery=gallery)
        try:
            yield engine
        finally:
            engine.close()
