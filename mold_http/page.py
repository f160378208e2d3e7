"""docs/http-api.md, generated from the table of routes: ``python -m mold_http.page > docs/http-api.md``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from mold_core.plugins import load_plugins
from mold_core.wire import AdvancedPlacement, DeviceRef
from mold_core.wire.fields import bounds_of, doc_of, traits_of
from mold_core.wire.schema import classes_within, type_schema
from mold_http.openapi import component_docs
from mold_http.routes.route import ERRORS, Route
from mold_http.routes.table import LISTED

__all__ = ["page"]

_START = """\
# The HTTP API

`mold serve` (or `make serve`) listens on http://127.0.0.1:7680. This page is generated from the table of routes in
`mold_http/routes`: `python -m mold_http.page > docs/http-api.md`. The same table defines `/api/openapi.json` (OpenAPI
3.1) and `/api/docs`, an interactive reference.

```
curl -X POST localhost:7680/api/generate \\
  -H 'Content-Type: application/json' \\
  -d '{"prompt": "a red house under a yellow moon"}' -o house.png
```

**API keys.** If `MOLD_API_KEY` is set, every route except the public ones below requires a key in `X-Api-Key`. Routes
under `/v1` also accept `Authorization: Bearer KEY`. Without keys, only clients on this machine may stop the server,
delete results and place models.

**Rate limits.** `MOLD_RATE_LIMIT=10/min` allows each address 10 generation requests (*generation* below) and 100 read
requests a minute; `MOLD_RATE_LIMIT_BURST` sets the burst. Beyond that the response is 429 with `Retry-After`.

**Bodies** are JSON (`Content-Type: application/json`) of at most 64 MiB, with a time limit for their arrival. Files are
base64 (RFC 4648) in either alphabet, with or without padding and line breaks, or `data:` URLs. Raw line breaks, as in
the output of `base64 < photo.png`, are accepted in these fields only. Null is the same as omitting a field. Unknown
fields are ignored. All other problems are reported together, each with its path.

**Errors** have the form `{"error": "message", "code": "ERROR_CODE"}`; under `/v1` they have OpenAI's form. All codes
are listed at the end. Every path may return `BAD_REQUEST`, `FORBIDDEN`, `NOT_FOUND`, `METHOD_NOT_ALLOWED` and
`INTERNAL_ERROR`. A route with a key may return `UNAUTHORIZED`, one with a rate limit `RATE_LIMITED`, and one with a
body `BODY_TOO_LARGE`, `UNSUPPORTED_MEDIA_TYPE` and `VALIDATION_ERROR`. A route that runs a model may also return
`WORKER_DIED`, `CHECKPOINT_ERROR`, `OUTPUT_ERROR`, `PLUGIN_ERROR` and `SETTINGS_ERROR`.

**Every response** has an `X-Request-ID`: the id from the request if it is plain (`[A-Za-z0-9._-]`, at most 64
characters), or a new one. The log contains it too.

**HEAD** works on every GET route. If a route offers several content types, the quality values of `Accept` decide (RFC
9110); between equals the first type of the route wins. Bodies with a `Content-Encoding` are refused with 415. Under
`/v1`, an error that a retry cannot fix has `X-Should-Retry: false`.

**Streams** are server-sent events: `event: progress` with `{"type": …}`, then one `event: complete` or one
`event: error` with `{"message", "code"}`. After ten seconds without an event a comment is sent.

**Browsers.** A server on the loopback interface accepts only requests whose Host is this machine or is allowed by
`MOLD_ALLOWED_HOSTS`, and refuses cross-origin requests that change something. `MOLD_CORS_ORIGIN` allows one origin.
"""


def page() -> str:
    """Return the page as Markdown."""
    parts = [_START, "## Routes\n", *_table(), ""]
    for tag in dict.fromkeys(route.tag for route in LISTED):
        parts.append(f"## {tag.capitalize()}\n")
        for route in LISTED:
            if route.tag == tag:
                parts += _route(route)
    parts += ["## Objects\n", *_objects(), "## Error codes\n", *_codes()]
    return "\n".join(parts).rstrip() + "\n"


def _table() -> Iterator[str]:
    yield "| method | path | description | key | rate limit |"
    yield "|---|---|---|---|---|"
    for route in LISTED:
        key = "public" if route.public else "key"
        yield f"| {route.method} | `{_colons(route.path)}` | {route.summary} | {key} | {route.tier or 'none'} |"


def _route(route: Route) -> Iterator[str]:
    yield f"### {route.method} {_colons(route.path)}\n"
    yield f"{route.summary}. {route.doc}".strip() + "\n"
    if route.request is not None:
        optional = ", optional" if route.request_optional else ""
        yield f"Body: [{route.request.__name__}](#{route.request.__name__.lower()}){optional}.\n"
    for query in route.parameters:
        kind = "Header" if query.place == "header" else "Parameter"
        words = _words(type_schema(query.type))
        default = f", default `{query.default}`" if query.default is not None else ""
        yield f"{kind} `{query.name}` ({words}{default}): {query.doc}\n"
    for spec in route.responses:
        types = ", ".join(f"`{name}`{_link(carried)}" for name, carried in spec.content.items())
        yield f"{spec.status}: {spec.doc}{f' {types}.' if types else ''}\n"
        for name, doc in spec.headers.items():
            yield f"- `{name}`: {doc}"
        if spec.headers:
            yield ""
    if route.errors:
        codes = ", ".join(f"`{code}`" for code in ERRORS if code in route.errors)
        yield f"Errors in addition to those of every route: {codes}.\n"
    if route.example:
        yield f"```\n{route.example}\n```\n"


def _objects() -> Iterator[str]:
    for cls in _classes():
        yield f"### {cls.__name__}\n"
        yield " ".join((cls.__doc__ or "").split()) + "\n"
        yield "| field | type | default | meaning |"
        yield "|---|---|---|---|"
        for field in attrs.fields(attrs.resolve_types(cls)):
            if not traits_of(field).open_ended:
                default = "required" if field.default is attrs.NOTHING else _default(field.default)
                yield f"| `{field.name}` | {_type(field)} | {default} | {doc_of(field)} |"
        if cls is AdvancedPlacement:
            for name, doc in component_docs(load_plugins().placement_components.values()).items():
                yield f"| `{name}` | {_words(type_schema(DeviceRef))} | – | {doc} |"
        yield ""


def _classes() -> list[type]:
    """Return every class of a request or response body, in the order of the routes."""
    found: dict[type, None] = {}
    for route in LISTED:
        carried: list[Any] = [route.request] if route.request else []
        carried += [value for spec in route.responses for value in spec.content.values()]
        for root in carried:
            found.update(dict.fromkeys(cls for part in _roots(root) for cls in reversed(list(classes_within(part)))))
    return list(found)


def _roots(carried: Any) -> Iterable[type]:
    if isinstance(carried, str | dict | tuple):
        return ()
    inner = getattr(carried, "__args__", None)
    options = inner if inner is not None else (carried,)
    return [option for option in options if isinstance(option, type) and attrs.has(option)]


def _type(field: attrs.Attribute[Any]) -> str:
    bounds = bounds_of(field)
    words = _words(type_schema(field.type))
    low, high = bounds.minimum, bounds.maximum
    if low is not None and high is not None:
        return f"{words}, {low:,} to {high:,}"
    if low is not None:
        return f"{words}, at least {low:,}"
    return f"{words}, at most {high:,}" if high is not None else words


def _words(schema: dict[str, Any]) -> str:
    """Return a short description of a JSON Schema, without null."""
    if "anyOf" in schema:
        return " or ".join(_words(option) for option in schema["anyOf"] if option.get("type") != "null")
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in schema:
        return ", ".join(f"`{word}`" for word in schema["enum"])
    kind = schema.get("type", "anything")
    if isinstance(kind, list):
        kind = next(word for word in kind if word != "null")
    if kind == "array":
        return f"list of {_words(schema['items'])}"
    if "contentEncoding" in schema:
        return "base64 text"
    return _KINDS.get(kind, str(kind))


_KINDS = {"integer": "whole number", "string": "text", "boolean": "true or false"}


def _default(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if isinstance(value, str | int | float) else "none"


def _link(carried: Any) -> str:
    roots = [*_roots(carried)]
    return f" ({', '.join(f'[{cls.__name__}](#{cls.__name__.lower()})' for cls in roots)})" if roots else ""


def _codes() -> Iterator[str]:
    yield "| status | code | meaning |"
    yield "|---|---|---|"
    for code, (status, doc) in ERRORS.items():
        yield f"| {status} | `{code}` | {doc} |"


def _colons(path: str) -> str:
    return re.sub(r"{(\w+)}", r":\1", path)


if __name__ == "__main__":
    print(page(), end="")
