"""mold config: show settings, and change them in config.toml."""

from __future__ import annotations

import json
import os
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import click

from mold_core.cli.output import echo, echo_json, style
from mold_core.cli.state import State
from mold_core.config_file import change_key
from mold_core.errors import OutputError, SettingsError

if TYPE_CHECKING:
    from mold_core.settings import Setting, Settings

__all__ = ["command"]

EPILOG = """\b
Examples:
  mold config list
  mold config set default_model flux-schnell:q8
  mold config set expand.temperature 0.9
  mold config where server_port
  mold config reset default_model"""


@click.group("config", epilog=EPILOG)
def command() -> None:
    """Show the settings of this machine and where each value comes from, and change config.toml.

    docs/settings.md describes every setting.
    """


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--all", "everything", is_flag=True, help="Include settings that have their default value.")
@click.pass_obj
def list_(state: State, as_json: bool, everything: bool) -> None:
    """List the settings that differ from the default, and where each value comes from."""
    from mold_core.settings import setting_table

    settings = state.plugins.read_settings(state.settings)
    rows = [(row, *_value(settings, row)) for row in (*setting_table(), *state.plugins.settings) if row.key]
    if as_json:
        content = {row.key: {"value": _plain(value), "from": source} for row, value, source in rows}
        echo_json(content)
        return
    listed = [(row, value, source) for row, value, source in rows if everything or source != "default"]
    width = max((len(row.key or "") for row, _, _ in listed), default=0)
    for row, value, source in listed:
        echo(f"{row.key:<{width}}  {_words(value)}  {style(f'({source})', dim=True)}")
    if not listed:
        echo("All settings have their defaults; --all lists them.")


@command.command("get")
@click.argument("key")
@click.option("--raw", is_flag=True, help="Print only the value; an empty line if there is none.")
@click.pass_obj
def get(state: State, key: str, raw: bool) -> None:
    """Show the current value of KEY."""
    row = _row(state, key)
    value, source = _value(state.plugins.read_settings(state.settings), row)
    echo(_words(value, none="") if raw else f"{row.key} = {_words(value)}  ({source})")


@command.command("where")
@click.argument("key")
@click.pass_obj
def where(state: State, key: str) -> None:
    """Show where the value of KEY comes from: an environment variable, config.toml or the default."""
    row = _row(state, key)
    _, source = _value(state.plugins.read_settings(state.settings), row)
    echo(source)


@command.command("set")
@click.argument("key")
@click.argument("value")
@click.pass_obj
def set_(state: State, key: str, value: str) -> None:
    """Set KEY in config.toml; the value 'none' removes it. Comments and order of the file are kept."""
    from mold_core.settings import parse_setting

    row = _row(state, key)
    assert row.key is not None
    path = state.settings.config_path
    if value.lower() == "none":
        change_key(path, row.key, None)
    else:
        parsed = parse_setting(row, value, row.key)
        if isinstance(parsed, dict):
            raise SettingsError(f"{row.key} is a table", field=row.key, hint="use mold config edit")
        change_key(path, row.key, parsed)
    if os.environ.get(row.env):
        echo(f"{style('note:', fg='yellow')} the environment variable {row.env} overrides config.toml", err=True)
    text = "default" if value.lower() == "none" else "<set>" if row.secret else value
    echo(f"{row.key} = {text}")


@command.command("reset")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@click.pass_obj
def reset(state: State, keys: tuple[str, ...]) -> None:
    """Remove keys from config.toml, which restores their defaults."""
    for row in [_row(state, key) for key in keys]:
        assert row.key is not None
        change_key(state.settings.config_path, row.key, None)
        echo(f"{row.key} = default")


@command.command("path")
@click.pass_obj
def path(state: State) -> None:
    """Print the path of config.toml, even if the file does not exist."""
    from mold_core.home import mold_home

    echo(mold_home() / "config.toml")


@command.command("edit")
@click.pass_obj
def edit(state: State) -> None:
    """Open config.toml in VISUAL or EDITOR, then check it."""
    from mold_core.home import mold_home

    file = mold_home() / "config.toml"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    except OSError as error:
        raise OutputError(f"{file} cannot be written: {error.strerror}") from None
    click.edit(filename=str(file))
    _check(state)
    echo(f"{file} is valid")


def _check(state: State) -> None:
    """Raise SettingsError for a config.toml that is not valid."""
    from mold_core.settings import Settings

    state.plugins.read_settings(Settings.load())


def _row(state: State, key: str) -> Setting:
    """Return the setting of a key or of an environment variable. Raises SettingsError with the nearest match."""
    from mold_core.settings import setting_table

    table = (*setting_table(), *state.plugins.settings)
    rows = {name: row for row in table if row.key for name in (row.key, row.env)}
    if key not in rows:
        near = get_close_matches(key, rows, n=1)
        hint = f"did you mean {near[0]}?" if near else "mold config list --all lists every setting"
        raise SettingsError(f"unknown setting {key!r}", field="key", value=key, hint=hint)
    return rows[key]


def _value(settings: Settings, row: Setting) -> tuple[Any, str]:
    """Return the value of a setting, masked if it is secret, and its source."""
    value = getattr(settings, row.name)
    source = settings.sources.get(row.name, "default")
    return ("<set>" if row.secret and value else value), source


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _words(value: Any, none: str = "none") -> str:
    if value is None:
        return none
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(value)
    return json.dumps(value) if isinstance(value, dict) else str(value)
