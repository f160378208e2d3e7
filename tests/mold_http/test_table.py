"""The table of routes, and all that is made from it."""

from __future__ import annotations

import json
from pathlib import Path

from http_server import Server
from openapi_spec_validator import validate

import mold_core.errors as errors
from mold_core.plugins import load_plugins
from mold_http.errors import RateLimitedError
from mold_http.openapi import document
from mold_http.page import page
from mold_http.plugin_routes import all_routes
from mold_http.routes.route import ERRORS
from mold_http.routes.table import ROUTES

ROOT = Path(__file__).parents[2]
SERVED = tuple(route for route in all_routes(load_plugins()) if route.listed)

# The endpoint table of the specified page.
SPECIFIED = """
POST /api/generate
POST /api/generate/stream
POST /api/generate/chain
POST /api/generate/chain/stream
POST /api/expand
GET /api/models
POST /api/models/load
POST /api/models/pull
DELETE /api/models/unload
GET /api/gallery
GET /api/gallery/image/{name}
DELETE /api/gallery/image/{name}
GET /api/gallery/thumbnail/{name}
POST /api/upscale
POST /api/upscale/stream
POST /api/shutdown
GET /api/status
GET /health
GET /api/openapi.json
GET /api/docs
GET /metrics
"""

# What the rate-limit section of the page puts into the tier of work.
WORK = {
    "/api/generate",
    "/api/generate/stream",
    "/api/expand",
    "/api/upscale",
    "/api/upscale/stream",
    "/api/models/load",
    "/api/models/pull",
    "/api/models/unload",
}


def test_every_row_of_the_specified_table_is_there() -> None:
    ours = {f"{route.method} {route.path}" for route in ROUTES}
    assert set(SPECIFIED.split("\n")[1:-1]) <= ours


def test_a_method_of_a_path_is_there_once() -> None:
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)
    assert len({route.name for route in ROUTES}) == len(ROUTES)


def test_the_tiers_are_those_that_are_specified() -> None:
    tiers = {route.path: route.tier for route in ROUTES}
    assert {path for path in WORK if tiers[path] != "generation"} == set()
    assert tiers["/api/models"] == tiers["/api/status"] == tiers["/api/gallery"] == "read"
    assert {route.path for route in ROUTES if route.tier is None} == {route.path for route in ROUTES if route.public}


def test_the_document_is_valid_openapi() -> None:
    validate(document(SERVED))


def test_the_document_is_served(server: Server) -> None:
    served = server.ask("GET", "/api/openapi.json").json()
    plugins = load_plugins()
    families = tuple((family.name, tuple(family.parameters)) for family in plugins.families.values())
    described = document(SERVED, families=families, components=tuple(plugins.placement_components.values()))
    assert served == json.loads(json.dumps(described))
    assert set(served["paths"]) == {route.path for route in SERVED}


def test_every_field_of_the_document_is_described_and_has_its_bounds() -> None:
    schemas = document(SERVED)["components"]["schemas"]
    for name, schema in schemas.items():
        assert schema["description"], name
        for field, described in schema["properties"].items():
            assert name == "OpenAIError" or "const" in described or described["description"], (name, field)
    steps = schemas["GenerateRequest"]["properties"]["steps"]
    assert (steps["minimum"], steps["maximum"]) == (1, 100)
    assert schemas["GenerateRequest"]["required"] == ["prompt"]
    assert schemas["UpscaleRequest"]["required"] == ["image"]


def test_every_error_of_mold_has_its_status_in_the_table() -> None:
    classes = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.MoldError)]
    for cls in [*classes, *type(RateLimitedError("")).__mro__[1].__subclasses__()]:
        # One keeps a server from starting, the others are what its clients make of trouble.
        if cls.code not in ("DUPLICATE", "SERVER_ERROR", "UNREACHABLE"):
            assert ERRORS[cls.code][0] == cls.http_status, cls


def test_the_page_of_the_docs_is_made_from_the_table() -> None:
    assert (ROOT / "docs" / "http-api.md").read_text("utf-8") == page(), (
        "python -m mold_http.page > docs/http-api.md brings it up to date"
    )


def test_callers_are_not_told_the_words_of_foreign_exceptions() -> None:
    raised = errors.InferenceError("%s failed while generating: %s", "flux-nano:bf16", KeyError("/home/me/secret"))
    assert raised.to_json() == {
        "error": "flux-nano:bf16 failed while generating: KeyError; the server's log has the details",
        "code": "INFERENCE_ERROR",
    }
    assert str(raised) == "flux-nano:bf16 failed while generating: KeyError: '/home/me/secret'"
