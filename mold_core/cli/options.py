"""The flag -p of `mold run`: parameters that a model's family declares, and their section in the help."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from mold_core.cli.output import foreign_code
from mold_core.cli.plugin_flags import CommandWithPluginFlags
from mold_core.errors import MoldError, ValidationError
from mold_core.text import visible

if TYPE_CHECKING:
    from mold_core.cli.state import State
    from mold_core.wire import ParameterInfo

__all__ = ["CommandOfModel", "own_rows", "parse_options"]

_TRUTHS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def parse_options(texts: Sequence[str], parameters: Iterable[ParameterInfo]) -> dict[str, Any]:
    """Return the options in texts like "waves=5", converted to the types of their parameters.

    The value of an unknown name stays text: the engine refuses the name and lists the known ones. Raises
    ValidationError.
    """
    types = {parameter.name: parameter.schema.get("type") for parameter in parameters if parameter.own}
    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ValidationError(f"-p {text!r} must be NAME=VALUE", field="options", hint="as in -p waves=5")
        if name in options:
            raise ValidationError(f"-p {name} occurs twice", field=f"options.{name}", hint="leave one out")
        options[name] = _value(name, value, types.get(name))
    return options


def _value(name: str, text: str, type_: str | None) -> Any:
    try:
        match type_:
            case "integer":
                return int(text)
            case "number":
                return float(text)
            case "boolean":
                return _TRUTHS[text.lower()]
    except (ValueError, KeyError):
        what = {"integer": "a whole number", "number": "a number", "boolean": "true or false"}[type_ or ""]
        raise ValidationError(f"options.{name} must be {what}, not {text!r}", field=f"options.{name}") from None
    return text


def own_rows(parameters: Iterable[ParameterInfo]) -> list[tuple[str, str, str]]:
    """Return (group, "name=TYPE", description) of each parameter that the family declares."""
    return [
        (visible(parameter.group or ""), f"{visible(parameter.name)}={_values(parameter)}", _description(parameter))
        for parameter in parameters
        if parameter.own
    ]


def _values(parameter: ParameterInfo) -> str:
    choices = parameter.schema.get("enum")
    if choices:
        return visible("|".join(map(_value_text, choices)))
    kinds = {"integer": "INTEGER", "number": "NUMBER", "boolean": "true|false"}
    return kinds.get(parameter.schema.get("type", ""), "TEXT")


def _description(parameter: ParameterInfo) -> str:
    schema = parameter.schema
    least, most = schema.get("minimum"), schema.get("maximum")
    facts = [
        f"{least} to {most}" if least is not None and most is not None else "",
        f"at least {least}" if least is not None and most is None else "",
        f"at most {most}" if least is None and most is not None else "",
        f"default {_value_text(schema['default'])}" if "default" in schema else "",
    ]
    details = ", ".join(filter(None, facts))
    return visible(f"{parameter.doc} [{details}]" if details else parameter.doc)


def _value_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class CommandOfModel(CommandWithPluginFlags):
    """A command whose help also lists the parameters of the model in -m or in the first word."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Store the model before --help ends the parsing."""
        ctx.meta[_MODEL] = self._model_in(ctx, list(args))
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, and the parameters of the model below."""
        super().format_options(ctx, formatter)
        model = ctx.meta.get(_MODEL)
        if model is None or ctx.obj is None:
            return
        with formatter.section(f"Parameters of {visible(model)} (-p NAME=VALUE)"):
            formatter.write_dl(_rows_of(ctx.obj, model))

    def _model_in(self, ctx: click.Context, args: list[str]) -> str | None:
        parsed = click.Context(self, info_name=ctx.info_name, obj=ctx.obj, resilient_parsing=True)
        parsed.allow_extra_args = parsed.ignore_unknown_options = True
        try:
            options, words, _ = self.make_parser(parsed).parse_args(args)
        except click.UsageError:
            return None
        named = options.get("model")
        if isinstance(named, str):
            return named
        parsed_words = options.get("words")
        first = next(iter(parsed_words if isinstance(parsed_words, tuple | list) else words), None)
        return first if isinstance(first, str) and ":" in first else None


_MODEL = "mold.model"


def _rows_of(state: State, model: str) -> list[tuple[str, str]]:
    try:
        with foreign_code():  # loading plugins redirects standard output, where the help goes
            rows = own_rows(state.disk.model(model).parameters)
    except MoldError as error:
        return [("-", visible(str(error)))]
    if not rows:
        return [("-", "none")]
    return [(name, f"{group}: {doc}" if group else doc) for group, name, doc in rows]
