"""Finds plugins and collects the objects they provide. A broken plugin is listed with the reason."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import TYPE_CHECKING, Any

import attrs
import pluggy

from mold_core import hookspecs
from mold_core.errors import DuplicateError
from mold_core.hookspecs import (
    HOOK_API,
    OLDEST_HOOK_API,
    ChainRenderer,
    Executor,
    ModelFamily,
    PromptExpander,
    UpscalerArchitecture,
    WeightLoader,
)
from mold_core.parameters import declaration_problem
from mold_core.plugin_members import completed, member_faults
from mold_core.settings import (
    OtherPlugins,
    PlacementComponent,
    Setting,
    Settings,
    setting_problem,
    setting_table,
    with_plugin_values,
)

if TYPE_CHECKING:
    from mold_core.catalog import ModelSpec

__all__ = ["PluginInfo", "PluginSource", "Plugins", "load_plugins"]

GROUP = "mold"

# Hook → kind of its objects in listings, and the function that returns their unique name.
_KINDS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "mold_families": ("family", lambda item: item.name),
    "mold_models": ("model", lambda item: item.name),
    "mold_signatures": ("signature", lambda item: item.name),
    "mold_loaders": ("loader", lambda item: item.name),
    "mold_chain_renderers": ("chain renderer", lambda item: item.family),
    "mold_upscalers": ("upscaler", lambda item: item.name),
    "mold_expanders": ("expander", lambda item: item.name),
    "mold_executors": ("executor", lambda item: item.name),
    "mold_placement_components": ("placement component", lambda item: item.name),
    "mold_settings": ("setting", lambda item: item.name),
}

# Hook → protocol of its objects. Catalog entries are values of mold itself.
_PROTOCOLS: dict[str, type] = {
    "mold_families": ModelFamily,
    "mold_loaders": WeightLoader,
    "mold_chain_renderers": ChainRenderer,
    "mold_upscalers": UpscalerArchitecture,
    "mold_expanders": PromptExpander,
    "mold_executors": Executor,
}


@attrs.frozen(kw_only=True)
class PluginInfo:
    """A plugin in `mold plugins`. `failure` is the reason why it provides nothing, or not everything."""

    name: str
    module: str
    version: str | None = None
    provides: dict[str, tuple[str, ...]] = attrs.Factory(dict)
    failure: str | None = None
    blocked: bool = False


@attrs.frozen(kw_only=True)
class PluginSource:
    """The origin of plugins, to load the same ones in another process: names of entry points, and objects by name."""

    names: tuple[str, ...] = ()
    extra: tuple[tuple[str, object], ...] = ()


@attrs.frozen(kw_only=True)
class Plugins:
    """The objects of the loaded plugins, by kind and name."""

    source: PluginSource = PluginSource()
    manager: pluggy.PluginManager
    infos: tuple[PluginInfo, ...]
    items: dict[str, dict[str, Any]]
    owners: dict[tuple[str, str], str]
    catalog: Mapping[str, ModelSpec] | None = None

    @property
    def families(self) -> dict[str, ModelFamily]:
        """Model families by name."""
        return self.items["mold_families"]

    @property
    def chain_renderers(self) -> dict[str, ChainRenderer]:
        """Chain renderers by family."""
        return self.items["mold_chain_renderers"]

    @property
    def expanders(self) -> dict[str, PromptExpander]:
        """Prompt expanders by name."""
        return self.items["mold_expanders"]

    @property
    def models(self) -> Mapping[str, ModelSpec]:
        """Catalog entries by full name: those of `catalog`, or else of the plugins in their order."""
        return self.items["mold_models"] if self.catalog is None else self.catalog

    @property
    def loaders(self) -> tuple[WeightLoader, ...]:
        """Readers of additional weight file formats."""
        return tuple(self.items["mold_loaders"].values())

    @property
    def upscalers(self) -> dict[str, UpscalerArchitecture]:
        """Super-resolution architectures by name, in the order of the plugins."""
        return self.items["mold_upscalers"]

    @property
    def placement_components(self) -> dict[str, PlacementComponent]:
        """Components of models that people can place, beside those that every family may have, by name."""
        return self.items["mold_placement_components"]

    @property
    def settings(self) -> tuple[Setting, ...]:
        """The settings that plugins declare, those of placement components included."""
        return tuple(row for rows in self.settings_by_plugin().values() for row in rows)

    def settings_by_plugin(self) -> dict[str, list[Setting]]:
        """Return the settings of each plugin that declares some."""
        rows = [("mold_placement_components", name, item.setting) for name, item in self.placement_components.items()]
        rows += [("mold_settings", name, row) for name, row in self.items["mold_settings"].items()]
        found: dict[str, list[Setting]] = {}
        for hook, name, row in rows:
            found.setdefault(self.owners[hook, name], []).append(row)
        return found

    def read_settings(self, settings: Settings) -> Settings:
        """Return the settings with the values of those that plugins declare.

        Raises SettingsError for bad values, and for names and keys of config.toml that no installed plugin declares.
        While a plugin is broken, unknown keys are ignored with a warning: they may be its own.
        """
        return with_plugin_values(settings, self.settings, self._not_loaded)

    def _not_loaded(self) -> OtherPlugins:
        """Return what plugins declare that are disabled; this imports them."""
        disabled = [info.name for info in self.infos if info.blocked]
        others = load_plugins(disabled) if disabled else None
        infos = (*self.infos, *(others.infos if others else ()))
        rows = others.settings_by_plugin() if others else {}
        owners = {name: owner for owner, declared in rows.items() for row in declared for name in (row.name, row.key)}
        return OtherPlugins(
            owners={name: owner for name, owner in owners.items() if name is not None},
            broken=tuple(info.name for info in infos if info.failure),
        )

    def with_catalog(self, models: Mapping[str, ModelSpec]) -> Plugins:
        """Return the same with another catalog."""
        return attrs.evolve(self, catalog=models)

    def provided(self, hook: str) -> Iterator[tuple[str, list[Any] | Exception]]:
        """Call a hook that `load_plugins` does not call; yield each plugin's name with its objects or its exception."""
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            try:
                yield implementation.plugin_name, list(implementation.function())
            except Exception as error:
                yield implementation.plugin_name, error

    def notify(self, hook: str, **arguments: Any) -> list[tuple[str, Exception]]:
        """Call a hook without results on each plugin. Returns the failures instead of raising them."""
        failures: list[tuple[str, Exception]] = []
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            try:
                implementation.function(*(arguments[name] for name in implementation.argnames))
            except Exception as error:
                failures.append((implementation.plugin_name, error))
        return failures


def load_plugins(
    only: Iterable[str] | None = None,
    *,
    extra: Iterable[tuple[str, ModuleType | object]] = (),
    found: Iterable[EntryPoint] | None = None,
) -> Plugins:
    """Return all plugins that are installed, or those whose entry-point name is in `only` (empty: none).

    `extra` adds plugin objects by name without an entry point, which tests and scripts use. Nothing a plugin does makes
    this raise: import errors, refused hooks, exceptions and duplicates become the plugin's `failure`.
    """
    loading = _Loading(None if only is None else set(only))
    for entry in sorted(entry_points(group=GROUP) if found is None else found, key=lambda entry: entry.name):
        loading.add_entry_point(entry)
    for name, plugin in extra:
        loading.add_object(name, plugin)
    loading.report_unknown_names()
    return loading.collect()


class _Loading:
    """The state of one `load_plugins` call."""

    def __init__(self, only: set[str] | None) -> None:
        self.only = only
        self.manager = pluggy.PluginManager("mold")
        self.manager.add_hookspecs(hookspecs)
        self.infos: dict[str, PluginInfo] = {}
        self.names: list[str] = []
        self.extra: list[tuple[str, object]] = []

    def add_entry_point(self, entry: EntryPoint) -> None:
        info = PluginInfo(name=entry.name, module=entry.value, version=entry.dist.version if entry.dist else None)
        if self.only is not None and entry.name not in self.only:
            self.infos.setdefault(entry.name, attrs.evolve(info, blocked=True))
        elif self._is_new(info):
            self.names.append(entry.name)
            try:
                plugin = entry.load()
            except (Exception, SystemExit) as error:
                self.infos[entry.name] = attrs.evolve(info, failure=_reason("cannot be imported", error))
            else:
                self._register(plugin, info)

    def add_object(self, name: str, plugin: object) -> None:
        info = PluginInfo(name=name, module=getattr(plugin, "__name__", type(plugin).__name__))
        if self._is_new(info):
            self.extra.append((name, plugin))
            self._register(plugin, info)

    def _is_new(self, info: PluginInfo) -> bool:
        other = self.infos.get(info.name)
        if other is not None:
            failure = f"two plugins have the name {info.name!r}: {other.module} and {info.module}; the first is used"
            self._fail(info.name, failure)
        return other is None

    def _register(self, plugin: object, info: PluginInfo) -> None:
        misfit = _hook_api_misfit(getattr(plugin, "MOLD_HOOK_API", None))
        if misfit:
            self.infos[info.name] = attrs.evolve(info, failure=misfit)
            return
        try:
            self.manager.register(plugin, info.name)
            failure = _misspelt(plugin)
        except pluggy.PluginValidationError as error:
            # Hooks before the refused one are registered by now, and a plugin must not work partially.
            self.manager.unregister(name=info.name)
            failure = f"needs another version of mold-core: {' '.join(str(error).split())}"
        except Exception as error:
            failure = _reason("cannot be registered", error)
        self.infos[info.name] = attrs.evolve(info, failure=failure)

    def report_unknown_names(self) -> None:
        for name in sorted((self.only or set()) - self.infos.keys()):
            self.infos[name] = PluginInfo(name=name, module="", failure="is not installed")

    def collect(self) -> Plugins:
        items: dict[str, dict[str, Any]] = {hook: {} for hook in _KINDS}
        owners: dict[tuple[str, str], str] = {}
        for hook in _KINDS:
            for implementation in getattr(self.manager.hook, hook).get_hookimpls():
                self._collect_one(hook, implementation, items, owners)
        source = PluginSource(names=tuple(self.names), extra=tuple(self.extra))
        infos = tuple(self.infos.values())
        return Plugins(source=source, manager=self.manager, infos=infos, items=items, owners=owners)

    def _collect_one(
        self, hook: str, implementation: Any, collected: dict[str, dict[str, Any]], owners: dict[Any, str]
    ) -> None:
        owner = implementation.plugin_name
        items = collected[hook]
        kind, name_of = _KINDS[hook]
        try:
            provided = [(name_of(item), item) for item in implementation.function()]
        except (Exception, SystemExit) as error:
            self._fail(owner, _reason(f"{hook} failed", error))
            return
        mine: list[str] = []
        for name, item in provided:
            if name in items:
                self._fail(owner, str(_duplicate(kind, name, owners[hook, name], owner)))
                continue
            problem = _declaration_problem(hook, item, collected)
            if problem:
                self._fail(owner, f"{kind} {name!r}: {problem}")
                continue
            items[name] = self._checked(item, hook, f"{kind} {name!r}", owner)
            owners[hook, name] = owner
            mine.append(name)
        if mine:
            info = self.infos[owner]
            self.infos[owner] = attrs.evolve(info, provides={**info.provides, kind: tuple(mine)})

    def _checked(self, item: object, hook: str, what: str, owner: str) -> object:
        """Return an object with the defaults of its protocol, and report problems of its members."""
        protocol = _PROTOCOLS.get(hook)
        if protocol is None:
            return item
        try:
            for fault in member_faults(item, protocol):
                self._fail(owner, f"{what}: {fault}")
            return completed(item, protocol)
        except (Exception, SystemExit) as error:
            self._fail(owner, _reason(f"{what}: its members cannot be read", error))
            return item

    def _fail(self, owner: str, failure: str) -> None:
        info = self.infos[owner]
        both = f"{info.failure}; {failure}" if info.failure else failure
        self.infos[owner] = attrs.evolve(info, failure=both)


def _declaration_problem(hook: str, item: Any, collected: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Say what is wrong with what an object declares, beside what was collected before; None: nothing."""
    if hook == "mold_families":
        return declaration_problem(getattr(item, "parameters", ()))
    if hook not in ("mold_settings", "mold_placement_components"):
        return None
    components = [component.setting for component in collected["mold_placement_components"].values()]
    others = [*setting_table(), *collected["mold_settings"].values(), *components]
    return setting_problem(item if hook == "mold_settings" else item.setting, others)


def _duplicate(kind: str, name: str, first: str, second: str) -> DuplicateError:
    if first == second:
        return DuplicateError(f"{first} provides the {kind} {name!r} twice", hint="the first one is used")
    return DuplicateError(
        f"both {first} and {second} provide the {kind} {name!r}",
        hint=f"that of {first} is used; uninstall one of the plugins",
    )


def _hook_api_misfit(declared: object) -> str | None:
    """Return why the hook API versions that a plugin declares do not fit, or None."""
    if declared is None:
        return None
    match declared:
        case (int(first), int(last)) if first <= last:
            pass
        case _:
            return f"MOLD_HOOK_API is {declared!r}; it must be the first and the last version, such as (1, {HOOK_API})"
    if first > HOOK_API:
        return f"requires hook API {first} or later, and this mold has {HOOK_API}: pip install -U mold-core"
    if last < OLDEST_HOOK_API:
        return f"requires hook API {last} or earlier, and this mold needs {OLDEST_HOOK_API}: install a newer version"
    return None


def _misspelt(plugin: object) -> str | None:
    """Return which functions are marked as hook implementations but match no hook."""
    known = {name for name in vars(hookspecs) if name.startswith("mold_")}
    hints = []
    for attribute in dir(plugin):
        options = getattr(getattr(plugin, attribute, None), "mold_impl", None)
        name = options and (options.get("specname") or attribute)
        if name and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hints.append(f"{name} is no hook of mold" + (f" (did you mean {near[0]}?)" if near else ""))
    return "; ".join(hints) or None


def _reason(what: str, error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{what}: {type(error).__name__}" + (f": {text[0]}" if text else "")
