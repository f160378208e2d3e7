"""Routes that plugins add to the server, with the guards and the document of mold's own."""

from __future__ import annotations

import base64
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import httpx2
import pytest
from inside_server import InsideServer, serving_inside
from openapi_spec_validator import validate

import mold_http
from mold_core import hookimpl
from mold_core.testing import FakePlugin, engine_with, sketch_model
from mold_core.wire.fields import wire_field
from mold_http import JSON, ResponseSpec, Route, check_routes, read_json, respond_json
from mold_http.guard.authorization import Authorization
from mold_http.openapi import document
from mold_http.plugin_routes import all_routes
from mold_http.routes.table import ROUTES


@attrs.frozen(kw_only=True)
class Greeting:
    """A greeting."""

    name: str = wire_field("Who is greeted.", not_blank=True, max_length=20)


async def greet(service: Any, req: Any, resp: Any) -> None:
    """Respond with the greeting."""
    respond_json(resp, await read_json(req, Greeting))


GREET = Route(
    method="POST",
    path="/greetings",
    name="greet",
    summary="Greet",
    handler=greet,
    tag="greetings",
    request=Greeting,
    responses=(ResponseSpec(doc="The greeting.", content={JSON: Greeting}),),
    tier="generation",
    scheme="basic",
)
KEY = "schlüssel"
SECOND_KEY = "third"


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InsideServer]:
    home = tmp_path_factory.mktemp("routes") / "home"
    with serving_inside(
        home, FakePlugin(routes=[GREET]), api_key=f"{KEY},{SECOND_KEY}", rate_limit="2/hour", rate_limit_burst=2
    ) as at:
        yield at


def post(inside: InsideServer, body: object, **headers: str) -> httpx2.Response:
    url = f"http://localhost:{inside.port}/greetings"
    return httpx2.post(url, json=body, headers={name.replace("_", "-"): value for name, value in headers.items()})


def basic(name: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"


def test_a_route_of_a_plugin_is_guarded_and_documented(inside: InsideServer) -> None:
    assert post(inside, {"name": "Ann"}).json() == {"error": "missing X-Api-Key header", "code": "UNAUTHORIZED"}
    assert post(inside, {"name": "Ann"}, Authorization=basic("me", "wrong")).status_code == 401
    assert post(inside, {"name": "Ann"}, Authorization="Basic ???").status_code == 401
    assert post(inside, {"name": "Ann"}, Authorization=f"Bearer {SECOND_KEY}").status_code == 401
    assert post(inside, {"name": "Ann"}, Authorization=basic("me", KEY)).json() == {"name": "Ann"}
    assert post(inside, {"name": ""}, Authorization=basic(KEY, "")).json()["code"] == "VALIDATION_ERROR"
    assert post(inside, {"name": "Ann"}, Authorization=basic("me", KEY)).status_code == 429
    served = httpx2.get(f"http://localhost:{inside.port}/api/openapi.json").json()
    validate(served)
    assert served["paths"]["/greetings"]["post"]["security"] == [{"key": []}, {"basic": []}]
    assert served["components"]["schemas"]["Greeting"]["required"] == ["name"]


def test_the_scheme_of_a_route_counts_for_all_its_paths() -> None:
    route = attrs.evolve(GREET, path="/greetings/{id}/files/{name}", rest="name")
    key_of = Authorization([route]).key_of
    assert key_of("/greetings/a/files/b/c.png", basic("me", "a-key")) == "a-key"
    assert key_of("/greetings/a/b/files/c.png", basic("me", "a-key")) is None
    assert key_of("/greetings/a/files/", basic("me", "a-key")) is None


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"path": "/api/status", "method": "GET"}, "GET /api/status is also a route of mold"),
        ({"path": "/api/gallery/image/{id}", "method": "GET"}, "is also a route of mold"),
        ({"name": "generate"}, "the name generate is that of POST /api/generate of mold"),
        ({"path": "/v1/videos/{other}/frames"}, "conflicts with another route"),
        ({"path": "greetings"}, "a path must start with /"),
        ({"public": True}, "requires a key"),
        ({"tier": None}, "has a rate limit"),
        ({"path": "/health"}, "this path needs no key"),
        ({"errors": ("NOT_AN_ERROR",)}, "unknown error codes: NOT_AN_ERROR"),
        (
            {"request": type("GenerateRequest", (Greeting,), {"__doc__": "Another."})},
            "another wire class is called GenerateRequest",
        ),
    ],
)
def test_a_conflict_is_named_and_the_route_left_out(
    changes: dict[str, Any], problem: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    odd = attrs.evolve(GREET, **changes)
    second = attrs.evolve(GREET, path="/second", name="second", request=None)
    with engine_with(FakePlugin(routes=[odd, second]), home=tmp_path) as engine:
        added = all_routes(engine.plugins)[len(ROUTES) :]
    assert added == (second,)
    (message,) = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert problem in message


def test_two_plugins_with_one_route_and_one_that_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(FakePlugin):
        @hookimpl
        def mold_routes(self) -> Any:
            """Fail."""
            raise OSError("no routes today")

    with engine_with(FakePlugin(routes=[GREET]), Failing(), FakePlugin(routes=[GREET, "x"]), home=tmp_path) as engine:
        added = all_routes(engine.plugins)[len(ROUTES) :]
    assert added == (GREET,)
    text = caplog.text
    assert "POST /greetings is also a route of" in text
    assert "must return mold_http.Route, not str" in text
    assert "no routes today" in text


def test_the_routes_of_the_page_work_as_they_are_printed(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text("utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page.partition("### Routes")[2].partition("\n## ")[0], re.DOTALL)
    (tmp_path / "counts_plugin.py").write_text(block, "utf-8")
    spec = importlib.util.spec_from_file_location("counts_plugin", tmp_path / "counts_plugin.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules["counts_plugin"] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        check_routes(module.mold_routes())
        with serving_inside(tmp_path / "home", module, FakePlugin(models=[sketch_model()])) as at:
            answer = httpx2.get(f"http://localhost:{at.port}/counts/models")
    finally:
        del sys.modules["counts_plugin"]
    assert answer.json() == {"count": 1}


def test_the_kit_names_every_route_that_would_be_left_out() -> None:
    check_routes([GREET])
    with pytest.raises(
        AssertionError, match=r"POST /greetings is also a route of this plugin, which is used; .* not str"
    ):
        check_routes([GREET, GREET, "x"])


def test_the_names_for_plugins_exist() -> None:
    assert sorted(mold_http.__all__) == dir(mold_http)
    assert all(getattr(mold_http, name) is not None for name in mold_http.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Manager'"):
        _ = mold_http.Manager
    assert json.dumps(document(ROUTES))
