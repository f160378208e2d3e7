"""The OpenAPI 3.1 document, generated from the table of routes and the wire classes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from types import UnionType
from typing import Any, Union, get_args, get_origin

import attrs

from mold_core.parameters import Parameter, describe, own_parameters
from mold_core.settings import PlacementComponent
from mold_core.version import VERSION
from mold_core.wire import AdvancedPlacement, DeviceRef, ProgressEvent
from mold_core.wire.chain import ChainEvent
from mold_core.wire.events import event_type
from mold_core.wire.schema import REFERENCE, class_schema, classes_within, type_schema
from mold_http.responses import JSON, dumps
from mold_http.routes.route import ERRORS, Query, ResponseSpec, Route

__all__ = ["classes_of", "component_docs", "document", "document_text"]

Json = dict[str, Any]

_RETRYABLE = frozenset({"RATE_LIMITED", "QUEUE_FULL", "INSUFFICIENT_MEMORY"})


Families = tuple[tuple[str, tuple[Parameter, ...]], ...]
Components = tuple[PlacementComponent, ...]


@lru_cache(maxsize=4)
def document_text(
    routes: tuple[Route, ...], prefix: str = "", families: Families = (), components: Components = ()
) -> bytes:
    """Return the document as JSON text."""
    return dumps(document(routes, prefix, families, components))


def document(routes: Sequence[Route], prefix: str = "", families: Families = (), components: Components = ()) -> Json:
    """Return the document that describes the routes.

    `prefix` is the path that clients call the server below, `families` the parameters of each family by its name,
    `components` what plugins let people place on devices.
    """
    paths: dict[str, Json] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mold",
            "version": VERSION,
            "description": (
                "Generates images and video on your own machine. Every response has an `X-Request-ID`; every error is "
                '`{"error": MESSAGE, "code": CODE}`.'
            ),
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": prefix or "/"}],
        "security": [{"key": []}],
        "tags": [{"name": tag} for tag in dict.fromkeys(route.tag for route in routes)],
        "paths": paths,
        "components": {
            "schemas": _with_components(_with_options(_schemas(routes), families), components),
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
                "bearer": {"type": "http", "scheme": "bearer", "description": "The same keys, where a route has this."},
                "basic": {"type": "http", "scheme": "basic", "description": "The key as the password."},
            },
        },
    }


def _operation(route: Route) -> Json:
    operation: Json = {
        "operationId": route.name,
        "summary": route.summary,
        "tags": [route.tag],
        "responses": {**_error_responses(route), **_responses(route.responses)},
    }
    operation["responses"] = dict(sorted(operation["responses"].items()))
    if route.doc:
        operation["description"] = route.doc
    if route.public:
        operation["security"] = []
    elif route.key_scheme is not None:
        operation["security"] = [{"key": []}, {route.key_scheme: []}]
    parameters = [*_path_parameters(route), *map(_parameter, route.parameters)]
    if parameters:
        operation["parameters"] = parameters
    if route.request is not None:
        operation["requestBody"] = {
            "required": not route.request_optional,
            "content": {route.body_type: {"schema": type_schema(route.request)}},
        }
    return operation


def _path_parameters(route: Route) -> list[Json]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": route.path_docs.get(name, ""),
            "schema": {"type": "string"},
        }
        for name in re.findall(r"{(\w+)}", route.path)
    ]


def _parameter(query: Query) -> Json:
    schema = type_schema(query.type)
    limits = {"minimum": query.minimum, "maximum": query.maximum, "default": query.default}
    schema.update({name: value for name, value in limits.items() if value is not None})
    described = {"name": query.name, "in": query.place, "description": query.doc, "schema": schema}
    return {**described, "required": True} if query.required else described


def _responses(specs: Iterable[ResponseSpec]) -> Json:
    return {str(spec.status): _response(spec) for spec in specs}


def _response(spec: ResponseSpec) -> Json:
    headers = {name: {"description": doc, "schema": {"type": "string"}} for name, doc in spec.headers.items()}
    response: Json = {"description": spec.doc, "headers": {**headers, **_REQUEST_ID}}
    if spec.content:
        response["content"] = {name: _media(name, carried) for name, carried in spec.content.items()}
    return response


def _events_schema(names: tuple[str, ...]) -> Json:
    """Return the schema of the server-sent events of a stream; their data is JSON."""
    data: Json = {"type": "string", "contentMediaType": JSON}
    if "progress" in names:
        data["description"] = "JSON; for `progress` one of the schemas named *Event."
    return {
        "type": "object",
        "description": "Each event of the stream.",
        "required": ["event", "data"],
        "properties": {"event": {"type": "string", "enum": list(names)}, "data": data, "id": {"type": "string"}},
    }


_REQUEST_ID = {"X-Request-ID": {"description": "The id from the request, or a new one.", "schema": {"type": "string"}}}


def _media(content_type: str, carried: Any) -> Json:
    if isinstance(carried, tuple):
        return {"schema": _events_schema(carried)}
    if isinstance(carried, str):
        text = content_type.startswith("text/") and content_type != "text/javascript"
        return {"schema": {"type": "string", "description": carried}} if text else {}
    if isinstance(carried, dict):
        return {"schema": carried}
    return {"schema": type_schema(carried)}


def _error_responses(route: Route) -> Json:
    by_status: dict[int, list[str]] = {}
    for code in route.all_errors:
        by_status.setdefault(ERRORS[code][0], []).append(code)
    taken = {spec.status for spec in route.responses}
    return {str(status): _error_response(codes, route) for status, codes in by_status.items() if status not in taken}


def _error_response(codes: Sequence[str], route: Route) -> Json:
    words = " ".join(f"`{code}`: {ERRORS[code][1]}" for code in codes)
    name = "OpenAIError" if route.path.startswith("/v1/") else "Error"
    headers: Json = dict(_REQUEST_ID)
    if _RETRYABLE.intersection(codes):
        headers["Retry-After"] = {"description": "Seconds to wait.", "schema": {"type": "string"}}
    return {
        "description": words,
        "headers": headers,
        "content": {JSON: {"schema": {"$ref": f"#/components/schemas/{name}"}}},
    }


def _schemas(routes: Sequence[Route]) -> Json:
    classes = {cls for route in routes for cls in classes_of(route)}
    schemas: Json = {cls.__name__: class_schema(cls) for cls in sorted(classes, key=lambda cls: cls.__name__)}
    if len(schemas) != len(classes):
        raise ValueError("two wire classes have the same name")
    for route in routes:
        if route.request is not None and route.body_type == "multipart/form-data":
            _as_files(schemas[route.request.__name__])
        elif route.request is not None:
            for cls in _attrs_classes(route.request):
                _allow_null(schemas[cls.__name__])
    schemas["Error"] = _ERROR
    schemas["OpenAIError"] = _OPENAI_ERROR
    for event in (*get_args(ProgressEvent), *get_args(ChainEvent)):
        schemas[f"{event.__name__}Event"] = _event_schema(event)
    return schemas


def classes_of(route: Route) -> set[type]:
    """Return the wire classes in the bodies of a route's requests and responses."""
    roots: list[Any] = [] if route.request is None else [route.request]
    roots += [carried for spec in route.responses for carried in spec.content.values()]
    return {cls for root in roots if not isinstance(root, str | dict | tuple) for cls in _attrs_classes(root)}


def _with_options(schemas: Json, families: Families) -> Json:
    """Describe the field `options` of requests by the parameters that each family declares."""
    described = {
        f"OptionsOf_{name}": _options_schema(name, parameters)
        for name, parameters in families
        if own_parameters(parameters)
    }
    if not described:
        return schemas
    choices = [{"$ref": f"{REFERENCE}{name}"} for name in described]
    for name in ("GenerateRequest", "ChainRequest"):
        options = schemas.get(name, {}).get("properties", {}).get("options")
        if options is not None:
            options["anyOf"] = [*choices, {"type": ["object", "null"], "maxProperties": 0}]
    return {**schemas, **described}


def _with_components(schemas: Json, components: Components) -> Json:
    """Describe the components of plugins as fields of placements."""
    placement = schemas.get(AdvancedPlacement.__name__)
    if placement is not None:
        placement["properties"] |= {name: _placed_schema(doc) for name, doc in component_docs(components).items()}
    return schemas


def component_docs(components: Iterable[PlacementComponent]) -> dict[str, str]:
    """Return the meaning of each component's field in placements."""
    return {component.name: f"{component.title[:1].upper()}{component.title[1:]}." for component in components}


def _placed_schema(doc: str) -> Json:
    return {"anyOf": [type_schema(DeviceRef), {"type": "null"}], "description": doc}


def _options_schema(family: str, parameters: Sequence[Parameter]) -> Json:
    return {
        "type": "object",
        "description": f"Options of models of the family {family}.",
        "properties": {info.name: info.schema for info in describe(parameters) if info.own},
        "additionalProperties": False,
    }


def _as_files(schema: Json) -> None:
    """Describe the binary fields of a form as files."""
    for name, field in schema["properties"].items():
        for option in field.get("anyOf", [field]):
            if option.pop("contentEncoding", None):
                option["contentMediaType"] = "application/octet-stream"
        if schema["properties"][name].get("type") == ["string", "null"]:
            schema["properties"][name] = {**field, "type": "string"}


def _allow_null(schema: Json) -> None:
    """Allow null for each optional field of a request."""
    for name, field in schema["properties"].items():
        if name in schema.get("required", ()):
            continue
        if "enum" in field and None not in field["enum"]:
            field["enum"] = [*field["enum"], None]
        kinds = field.get("type", [])
        if isinstance(kinds, str):
            field["type"] = [kinds, "null"]
        elif "$ref" in field:
            field["anyOf"] = [{"$ref": field.pop("$ref")}, {"type": "null"}]


def _attrs_classes(type_: Any) -> Iterable[type]:
    if get_origin(type_) in (Union, UnionType, tuple):
        return [cls for option in get_args(type_) for cls in _attrs_classes(option)]
    return classes_within(type_) if attrs.has(type_) else ()


def _event_schema(event: type) -> Json:
    schema = class_schema(event)
    schema["properties"] = {"type": {"const": event_type(event)}, **schema["properties"]}
    schema["required"] = ["type", *schema.get("required", [])]
    return schema


_ERROR: Json = {
    "type": "object",
    "description": "Every error.",
    "required": ["error", "code"],
    "properties": {
        "error": {"type": "string", "description": "Error message."},
        "code": {"type": "string", "enum": list(ERRORS), "description": "Error code."},
    },
}

_OPENAI_ERROR: Json = {
    "type": "object",
    "description": "Every error under /v1, in the form of OpenAI's API.",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
