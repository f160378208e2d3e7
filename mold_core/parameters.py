"""The parameters of a model family: shared fields of requests, and parameters that the family declares itself.

A family lists both as `Parameter`. A shared one only narrows a field of GenerateRequest. One declared by the family has
a type; requests carry its value in `options`, which `complete_options` validates.
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
    """A parameter that a family accepts.

    Without `type` it is shared: `name` is a field of GenerateRequest, and `minimum` and `maximum` (inclusive) narrow
    the bounds of that field. With `type` (bool, int, float or str) it is declared by the family, and requests carry its
    value in `options`. `default` is the value for requests without it, `choices` the only allowed values if not empty,
    `group` the heading in forms and help. `doc` is one sentence. Help, JSON Schema and forms are generated from these.
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
        """Return `value` converted to this parameter's type. Raises ValueError with the reason it is refused."""
        assert self.type is not None  # shared fields are checked by the request's class
        converted = scalar(self.type, value)
        problem = bound_problem(self._bounds, converted)
        if problem is None and self.choices and converted not in self.choices:
            problem = f"must be one of {', '.join(map(str, self.choices))}, not {shorten(converted)}"
        if problem:
            raise ValueError(problem)
        return converted

    @property
    def _bounds(self) -> Bounds:
        least, most = (-_MAX_INTEGER, _MAX_INTEGER) if self.type is int else (None, None)
        return Bounds(
            minimum=least if self.minimum is None else self.minimum,
            maximum=most if self.maximum is None else self.maximum,
            max_length=_MAX_TEXT_BYTES,
        )


def own_parameters(parameters: Iterable[Parameter]) -> dict[str, Parameter]:
    """Return the parameters that the family declares itself, by name."""
    return {parameter.name: parameter for parameter in parameters if parameter.type is not None}


def declaration_problem(parameters: Iterable[Parameter]) -> str | None:
    """Return what is wrong with the parameters that a family declares, or None."""
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


def complete_options(options: Mapping[str, Any], parameters: Iterable[Parameter], model: str) -> dict[str, Any]:
    """Return the validated options of a request to `model`, with defaults for missing ones and for null.

    Raises ValidationError that lists every problem.
    """
    declared = own_parameters(parameters)
    values: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for name, value in options.items():
        path = f"options.{name if str(name).isidentifier() else shorten(name)}"
        if name not in declared:
            problems[path] = f"{path} {_unknown(str(name), declared, model)}"
        elif value is not None:
            try:
                values[name] = declared[name].take(value)
            except ValueError as error:
                problems[path] = f"{path} {error}, with model {model}"
    if problems:
        raise ValidationError(
            "; ".join(problems.values()), field=next(iter(problems)), problems=tuple(problems.values())
        )
    completed = {name: values.get(name, parameter.default) for name, parameter in declared.items()}
    return {name: value for name, value in completed.items() if value is not None}


def _unknown(name: str, declared: Mapping[str, Parameter], model: str) -> str:
    if name in _SHARED:
        return f"is a field of the request itself: move {name} out of options"
    if not declared:
        return f"is unknown: {model} has no options"
    near = get_close_matches(name, declared, n=1)
    suggestion = f"; did you mean {near[0]}?" if near else ""
    return f"is unknown: {model} has the options {', '.join(declared)}{suggestion}"


def describe(parameters: Iterable[Parameter], defaults: Mapping[str, Any] | None = None) -> tuple[ParameterInfo, ...]:
    """Return the parameters as servers describe them to clients. `defaults` has the model's values of shared fields.

    A shared parameter that is not a field of requests is omitted.
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
