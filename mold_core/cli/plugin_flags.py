"""Flags of commands that plugins declare: for their settings, and for groups of LoRAs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from mold_core.cli.state import State
from mold_core.errors import MoldError
from mold_core.text import visible

if TYPE_CHECKING:
    from mold_core.plugins import Plugins
    from mold_core.settings import Setting
    from mold_core.wire import LoraWeight

__all__ = ["CommandWithPluginFlags", "lora_flags", "setting_flags", "taken_loras"]

FlagsOf = Callable[["Plugins"], list[click.Option]]

_PHASE = "mold.plugin_flags"
_LORAS = "mold.plugin_loras"


class CommandWithPluginFlags(click.Command):
    """A command that has the flags of plugins as well.

    The plugins are loaded only for its help, and for arguments that are none of its own flags. `plugin_flags` are
    functions that return options, by the name of the parameter after which the options come.
    """

    def __init__(self, *args: Any, plugin_flags: Mapping[str, FlagsOf] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._plugin_flags = plugin_flags or {}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments, with the flags of plugins where it takes them."""
        ctx.meta[_PHASE] = self._phase(args, ctx.help_option_names)
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the parameters, each followed by the options of plugins that come after it."""
        parameters = super().get_params(ctx)
        taken = {flag for parameter in parameters for flag in parameter.opts}
        for after, options in self._options(ctx).items():
            index = max(index for index, parameter in enumerate(parameters) if parameter.name == after) + 1
            parameters[index:index] = [option for option in options if not taken.intersection(option.opts)]
        return parameters

    def _phase(self, args: Sequence[str], help_flags: Sequence[str]) -> str:
        known = {flag for option in self.params for flag in (*option.opts, *option.secondary_opts)}
        flags = {arg.partition("=")[0] for arg in args if arg.startswith("-")}
        if flags.intersection(help_flags):
            return "help"
        return "parse" if flags - known else "skip"

    def _options(self, ctx: click.Context) -> dict[str, list[click.Option]]:
        phase = ctx.meta.get(_PHASE, "help")
        state = ctx.find_object(State)
        if state is None or phase == "skip":
            return {}
        try:
            return {after: make(state.plugins) for after, make in self._plugin_flags.items()}
        except MoldError:
            if phase == "parse":
                raise
            return {}  # a broken config.toml must not break the help page


def setting_flags(plugins: Plugins) -> list[click.Option]:
    """Return a flag for each setting of plugins that has one."""
    return [_setting_flag(row) for row in plugins.settings if row.flag is not None]


def _setting_flag(row: Setting) -> click.Option:
    def take(ctx: click.Context, _option: click.Parameter, value: str | None) -> None:
        if value is not None:
            ctx.ensure_object(State).use_flags(**{row.name: value})

    metavar = "DEVICE" if row.name.startswith("device_") else None
    name = f"--{row.name.replace('_', '-')}"
    return click.Option([name], metavar=metavar, expose_value=False, callback=take, help=visible(row.flag or ""))


def lora_flags(plugins: Plugins) -> list[click.Option]:
    """Return a flag for each group of LoRAs that a family has a shorthand for."""
    shorthands = {
        shorthand.group: shorthand for family in plugins.families.values() for shorthand in family.lora_shorthands
    }
    return [_lora_flag(group, shorthand.doc) for group, shorthand in shorthands.items()]


def _lora_flag(group: str, doc: str) -> click.Option:
    def take(ctx: click.Context, _option: click.Parameter, value: str | None) -> None:
        if value is not None:
            ctx.meta.setdefault(_LORAS, []).append(_lora(group, value))

    return click.Option([f"--{group}"], metavar="NAME|PATH", expose_value=False, callback=take, help=visible(doc))


def _lora(group: str, text: str) -> LoraWeight:
    from mold_core.wire import LoraWeight

    return LoraWeight(path=os.path.abspath(text) if os.path.isfile(text) else f"{group}:{text}")


def taken_loras() -> tuple[LoraWeight, ...]:
    """Return the LoRAs that flags of plugins gave to the current command."""
    return tuple(click.get_current_context().meta.get(_LORAS, ()))
