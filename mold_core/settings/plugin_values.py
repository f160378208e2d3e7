"""The second phase of reading settings: the settings of plugins, after the plugins are loaded.

A setting selects the plugins to load. Therefore `Settings.load` reads mold's own settings first and keeps the sources;
`with_plugin_values` then reads the plugins' settings from these sources, and rejects unknown ones.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from mold_core.errors import SettingsError
from mold_core.settings.parsing import parse_setting
from mold_core.settings.reading import find, unknown_keys
from mold_core.settings.row import Setting
from mold_core.settings.table import Settings, SettingSources, setting_table

__all__ = ["OtherPlugins", "setting_problem", "with_plugin_values"]

log = logging.getLogger("mold.settings")


@attrs.frozen(kw_only=True)
class OtherPlugins:
    """Installed plugins that are not loaded.

    `owners` maps the name of a setting, and its key in config.toml, to the plugin that declares it. `broken` lists
    plugins that cannot be loaded, whose settings are therefore unknown.
    """

    owners: Mapping[str, str] = attrs.Factory(dict)
    broken: tuple[str, ...] = ()


def with_plugin_values(settings: Settings, rows: Sequence[Setting], others: Callable[[], OtherPlugins]) -> Settings:
    """Return the settings with the values of the plugins' settings. A second call changes nothing.

    `others` is called only for unknown names. A key of config.toml that belongs to a disabled plugin is ignored; a key
    that may belong to a broken plugin is ignored with a warning. Raises SettingsError for any other unknown key, for
    unknown names and for invalid values.
    """
    sources = settings.unread or SettingSources()
    _refuse_unknown_keys(settings, sources, rows, others)
    _refuse_unknown_names({**settings.plugin_values, **sources.flags}, rows, others)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for row in rows:
        found = find(row, sources.flags, sources.environ, sources.config)
        if row.name in settings.plugin_values:
            values[row.name] = _checked(row, settings.plugin_values[row.name])
        elif found is not None:
            values[row.name] = parse_setting(row, *found)
            origins[row.name] = found[1]
    return attrs.evolve(
        settings,
        plugin_values=values,
        plugin_defaults={row.name: row.default for row in rows},
        sources={**settings.sources, **origins},
        unread=None,
    )


def setting_problem(row: Setting, others: Sequence[Setting]) -> str | None:
    """Return what is wrong with a plugin's declaration of a setting, given the existing `others`; None if nothing."""
    if not row.name.isidentifier() or hasattr(Settings, row.name):
        return f"{row.name!r} cannot be the name of a setting"
    if not row.env.startswith("MOLD_"):
        return f"its variable {row.env!r} must begin with MOLD_"
    for other in others:
        for what in ("name", "env", "key"):
            value = getattr(row, what)
            if value is not None and value == getattr(other, what):
                return f"its {what} {value!r} belongs to another setting"
    return None


def _checked(row: Setting, value: Any) -> Any:
    return value if value == row.default else parse_setting(row, value, row.name)


def _refuse_unknown_keys(
    settings: Settings, sources: SettingSources, rows: Sequence[Setting], others: Callable[[], OtherPlugins]
) -> None:
    table = (*setting_table(), *rows)
    unknown = unknown_keys(sources.config, table)
    elsewhere = others() if unknown else OtherPlugins()
    for key in unknown:
        if key in elsewhere.owners:
            continue
        if elsewhere.broken:
            broken = ", ".join(elsewhere.broken)
            log.warning("%s: unknown key %r is ignored: it may belong to %s", settings.config_path, key, broken)
            continue
        known = [row.key for row in table if row.key]
        near = _nearest(key, known)
        hint = f"did you mean {near}?" if near else f"known: {', '.join(known)}"
        raise SettingsError("%s has an unknown key %r", settings.config_path, key, field=key, hint=hint)


def _refuse_unknown_names(
    values: Mapping[str, Any], rows: Sequence[Setting], others: Callable[[], OtherPlugins]
) -> None:
    names = {row.name for row in rows}
    for name in values.keys() - names:
        owner = others().owners.get(name)
        near = _nearest(name, [*names, *(row.name for row in setting_table())])
        hint = f"did you mean {near}?" if near else "mold config list --all lists every setting"
        if owner is not None:
            hint = f"it is a setting of the plugin {owner}, which is disabled (mold plugins)"
        raise SettingsError(
            f"neither mold nor a loaded plugin has a setting {name!r}", field=name, value=values[name], hint=hint
        )


def _nearest(name: str, known: Sequence[str]) -> str | None:
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, known, n=1)), None)
