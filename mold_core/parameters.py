"""The parameters of a model family: the shared fields of a request that it takes, and those of its own.

A family declares both as `Parameter`. A shared one only narrows a field of GenerateRequest. One of its own has a type;
requests carry it in `options`, and `complete_options` holds them against the declarations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeAlias

import attrs

from mold_core.errors import ValidationError
from mold_core.wire import GenerateRequest, ParameterInfo
from mold_core.wire.convert import scalar
from mold_core.wire.fields import Bounds, bound_problem, shorten, traits_of
from mold_core.wire.schema import field_schema

__all__ = [
    "LoraShorthand",
    "OptionValue",
    "Parameter",
    "complete_options",
    "declaration_problem",
    "describe",
    "own_parameters",
]

OptionValue: TypeAlias = bool | int | float | str
ScalarType: TypeAlias = type[bool] | type[int] | type[float] | type[str]

_MAX_INTEGER = 2**64 - 1
_MAX_TEXT_BYTES = 77_000
_SHARED = attrs.fields_dict(attrs.resolve_types(GenerateRequest))
_SCHEMA_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


@attrs.frozen(kw_only=True)
class LoraShorthand:
    """A group of LoRAs of the catalog, called ``GROUP:NAME``, that `mold run` has the flag ``--GROUP NAME|PATH`` for.

    `doc` is the help text of the flag.
    """

    group: str
    doc: str


def _as_tuple(values: Iterable[OptionValue]) -> tuple[OptionValue, ...]:
    return tuple(values)


@attrs.frozen(kw_only=True)
class Parameter:
    """One parameter that a family takes, described for people.

    Without `type` it is a shared one: `name` is a field of GenerateRequest, and `minimum`, `maximum` narrow that
    field's bounds. With `type` (bool, int, float or str) it is the family's own, and requests carry its value in
    `options`: `default` is what a request without it gets, `choices` are the only values where there are any, `group`
    is the heading that forms and help show it under. Help texts, the JSON Schema and forms are made from this.
    """

    name: str
    doc: str
    minimum: float | None = None
    maximum: float | None = None
    type: ScalarType | None = None
    default: OptionValue | None = None
    choices: tuple[OptionValue, ...] = attrs.field(default=(), converter=_as_tuple)
    group: str | None = None

    def take(self, value: object) -> Any:
        """Return `value` as this parameter's type. Raises ValueError that says what it must be."""
        assert self.type is not None  # shared fields are checked by the request's class
        taken = scalar(self.type, value)
        problem = bound_problem(self._bounds, taken)
        if problem is None and self.choices and taken not in self.choices:
            problem = f"must be one of {', '.join(map(str, self.choices))}, not {shorten(taken)}"
        if problem:
            raise ValueError(problem)
        return taken

    @property
    def _bounds(self) -> Bounds:
        least, most = (-_MAX_INTEGER, _MAX_INTEGER) if self.type is int else (None, None)
        return Bounds(
            minimum=least if self.minimum is None else self.minimum,
            maximum=most if self.maximum is None else self.maximum,
            max_length=_MAX_TEXT_BYTES,
        )


def own_parameters(parameters: Iterable[Parameter]) -> dict[str, Parameter]:
    """Return those that belong to the family itself, by name."""
    return {parameter.name: parameter for parameter in parameters if parameter.type is not None}


def declaration_problem(parameters: Iterable[Parameter]) -> str | None:
    """Say what is wrong with a family's own parameters, or return None."""
    names: set[str] = set()
    for parameter in parameters:
        if parameter.type is None:
            continue
        problem = _problem_of(parameter)
        if problem is None and parameter.name in names:
            problem = "is declared twice"
        if problem:
            return f"parameter {parameter.name!r} {problem}"
        names.add(parameter.name)
    return None


def _problem_of(parameter: Parameter) -> str | None:
    if not parameter.name.isidentifier():
        return "needs a name of letters, digits and underscores"
    if parameter.name in _SHARED:
        return "has a type, but is a field that all families share: leave the type out, or choose another name"
    if parameter.type not in _SCHEMA_TYPES:
        return "must have the type bool, int, float or str"
    try:
        for value in (*parameter.choices, *(() if parameter.default is None else (parameter.default,))):
            parameter.take(value)
    except ValueError as error:
        return f"has a default or choice that breaks its own declaration: it {error}"
    return None


def complete_options(given: Mapping[str, Any], parameters: Iterable[Parameter], model: str) -> dict[str, Any]:
    """Return the options of a request to `model`, checked, with the defaults of those that were not given.

    Raises ValidationError with every problem in it; null means the default.
    """
    own = own_parameters(parameters)
    taken: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for name, value in given.items():
        path = f"options.{name if str(name).isidentifier() else shorten(name)}"
        if name not in own:
            problems[path] = f"{path} {_unknown(str(name), own, model)}"
        elif value is not None:
            try:
                taken[name] = own[name].take(value)
            except ValueError as error:
                problems[path] = f"{path} {error}, with model {model}"
    if problems:
        raise ValidationError(
            "; ".join(problems.values()), field=next(iter(problems)), problems=tuple(problems.values())
        )
    known = {name: taken.get(name, parameter.default) for name, parameter in own.items()}
    return {name: value for name, value in known.items() if value is not None}


def _unknown(name: str, own: Mapping[str, Parameter], model: str) -> str:
    if name in _SHARED:
        return f"is a field of the request itself: give {name} outside of options"
    if not own:
        return f"is unknown: {model} has no options"
    near = get_close_matches(name, own, n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    return f"is unknown: {model} has the options {', '.join(own)}{meant}"


def describe(parameters: Iterable[Parameter], defaults: Mapping[str, Any] | None = None) -> tuple[ParameterInfo, ...]:
    """Return the parameters as clients see them; `defaults` are the model's values of shared fields, by name.

    A shared parameter that names no field of requests is left out: no request can carry it.
    """
    return tuple(
        _describe_own(parameter) if parameter.type is not None else _describe_shared(parameter, defaults or {})
        for parameter in parameters
        if parameter.type is not None or parameter.name in _SHARED
    )


def _describe_own(parameter: Parameter) -> ParameterInfo:
    assert parameter.type is not None
    schema = {
        "type": _SCHEMA_TYPES[parameter.type],
        "enum": list(parameter.choices) or None,
        "default": parameter.default,
    }
    return _info(parameter, schema, title=_title(parameter.name), own=True)


def _describe_shared(parameter: Parameter, defaults: Mapping[str, Any]) -> ParameterInfo:
    attribute = _SHARED[parameter.name]
    schema = field_schema(attribute, inline=True)
    if defaults.get(parameter.name) is not None:
        schema["default"] = defaults[parameter.name]
    traits = traits_of(attribute)
    return _info(parameter, schema, title=traits.title or _title(parameter.name), placed=traits.placed)


def _info(parameter: Parameter, schema: Mapping[str, Any], *, title: str, **more: Any) -> ParameterInfo:
    described = {
        **schema,
        "title": title,
        "description": parameter.doc,
        "minimum": schema.get("minimum") if parameter.minimum is None else parameter.minimum,
        "maximum": schema.get("maximum") if parameter.maximum is None else parameter.maximum,
    }
    return ParameterInfo(
        name=parameter.name,
        doc=parameter.doc,
        minimum=parameter.minimum,
        maximum=parameter.maximum,
        schema={key: value for key, value in described.items() if value is not None},
        group=parameter.group,
        **more,
    )


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()
