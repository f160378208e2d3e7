"""A parameter that a family has of its own, from its one line of declaration to everything that reads it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from http_server import EXECUTABLE, Server, serving

from mold_core.media.metadata import read_metadata

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "mold_plasma"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the example as an installed distribution."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "mold_plasma.py").write_text((EXAMPLE / "mold_plasma.py").read_text("utf-8"), "utf-8")
    about = folder / "mold_plasma-0.1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mold-plasma\nVersion: 0.1.0\n")
    (about / "entry_points.txt").write_text("[mold]\nplasma = mold_plasma\n")
    return folder


@pytest.fixture(scope="module")
def server(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("own") / "home"
    with serving(home, PYTHONPATH=str(site), MOLD_PLUGINS="plasma,http") as running:
        yield running


def mold(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site), "MOLD_HOME": str(folder / "home"), "MOLD_PLUGINS": "plasma"}
    return subprocess.run([EXECUTABLE, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def post(server: Server, **fields: Any) -> Any:
    body = {"model": "plasma:v1", "prompt": "a storm", "seed": 7, "width": 32, "height": 32, **fields}
    return server.ask("POST", "/api/generate", body)


# --- HTTP ----------------------------------------------------------------------------------------------------------


def test_a_request_over_http_is_generated_with_the_option_and_records_it(server: Server) -> None:
    calm, wild, usual = (post(server, options=options).body for options in ({"waves": 1}, {"waves": 30}, {}))
    assert len({calm, wild, usual}) == 3
    recorded = [read_metadata(data) for data in (calm, wild, usual)]
    assert [found and found.options for found in recorded] == [{"waves": 1.0}, {"waves": 30.0}, {"waves": 9.0}]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"waves": 41}, "options.waves must be from 0.5 to 40, not 41"),
        ({"waves": "many"}, "options.waves must be a number, not 'many'"),
        ({"wave": 3}, "options.wave is unknown: plasma:v1 has the options waves; did you mean waves?"),
        ({"steps": 3}, "options.steps is a field of the request itself"),
        ([1], "options must be an object"),
    ],
)
def test_an_option_that_does_not_fit_the_declaration_is_refused_with_its_path(
    server: Server, options: object, words: str
) -> None:
    answer = post(server, options=options)
    assert (answer.status, answer.json()["code"]) == (422, "VALIDATION_ERROR")
    assert words in answer.json()["error"]


@pytest.mark.parametrize("feature", [{"control_image": "aGk="}, {"control_model": "canny"}, {"edit_images": ["aGk="]}])
def test_a_known_feature_that_the_model_lacks_is_refused_and_an_unknown_field_ignored(
    server: Server, feature: dict[str, Any]
) -> None:
    refused = post(server, **feature)
    assert (refused.status, next(iter(feature)) in refused.json()["error"]) == (422, True)
    assert post(server, no_such_field=1, edit_images=[], control_scale=1.0).status == 200


def test_capabilities_and_openapi_describe_it(server: Server) -> None:
    (family,) = server.ask("GET", "/api/capabilities").json()["families"]
    waves = next(one for one in family["parameters"] if one["name"] == "waves")
    assert waves["own"] is True
    assert waves["schema"] == {
        "type": "number",
        "title": "Waves",
        "description": "Waves across an image.",
        "default": 9.0,
        "minimum": 0.5,
        "maximum": 40,
    }
    schemas = server.ask("GET", "/api/openapi.json").json()["components"]["schemas"]
    assert schemas["OptionsOf_plasma"]["properties"]["waves"] == waves["schema"]
    assert {"$ref": "#/components/schemas/OptionsOf_plasma"} in schemas["GenerateRequest"]["properties"]["options"][
        "anyOf"
    ]


# --- the command line ----------------------------------------------------------------------------------------------


def test_the_command_line_lists_it_sets_it_and_takes_it_up_again(site: Path, tmp_path: Path) -> None:
    for listing in (["info", "plasma:v1"], ["run", "-m", "plasma:v1", "--help"], ["run", "--help", "-m", "plasma:v1"]):
        assert re.search(
            r"waves=NUMBER +Waves across an image. +\[0.5 to +40, +default +9.0\]",
            re.sub(r"\s+", " ", mold(site, tmp_path, *listing).stdout),
        ), listing
    first = mold(site, tmp_path, "run", "-m", "plasma:v1", "a storm", "--seed", "7", "-p", "waves=2", "-o", "a.png")
    assert first.returncode == 0, first.stderr
    assert mold(site, tmp_path, "run", "--from", "a.png", "-o", "b.png").returncode == 0
    assert mold(site, tmp_path, "run", "--from", "a.png", "-p", "waves=3", "-o", "c.png").returncode == 0
    images = [(tmp_path / name).read_bytes() for name in ("a.png", "b.png", "c.png")]
    assert images[0] == images[1] != images[2]
    assert [read_metadata(data).options for data in images] == [{"waves": 2.0}, {"waves": 2.0}, {"waves": 3.0}]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "words"), [("wave=2", "did you mean waves?"), ("waves=lots", "must be a number"), ("waves", "-p waves=5")]
)
def test_a_flag_that_does_not_fit_is_refused(site: Path, tmp_path: Path, text: str, words: str) -> None:
    done = mold(site, tmp_path, "run", "-m", "plasma:v1", "a storm", "-p", text)
    assert done.returncode != 0
    assert words in done.stderr


# --- the page ------------------------------------------------------------------------------------------------------


def test_the_form_of_the_page_has_it(server: Server) -> None:
    driver = pytest.importorskip("playwright.sync_api")
    executable = next(
        (path for path in map(Path, ("/usr/bin/chromium", "/usr/bin/google-chrome")) if path.exists()), None
    )
    if executable is None:
        pytest.skip("no browser is installed")
    with driver.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.goto(f"http://127.0.0.1:{server.port}/#/create")
        control = page.locator("#set-waves")
        control.wait_for()
        assert [control.get_attribute(name) for name in ("min", "max", "type")] == ["0.5", "40", "range"]
        control.fill("3.5")
        page.locator("#prompt").fill("a storm on the page")
        page.keyboard.press("Control+Enter")
        page.locator("#stage[data-state=done]").wait_for()
        browser.close()
    newest = server.ask("GET", "/api/gallery?limit=1").json()[0]["metadata"]
    assert (newest["prompt"], newest["options"]) == ("a storm on the page", {"waves": 3.5})


# --- the page for contributors -------------------------------------------------------------------------------------


def test_the_diffs_for_contributors_are_in_the_code() -> None:
    page = (ROOT / "docs" / "contributing.md").read_text("utf-8")
    own, shared, *_ = re.findall(r"```diff\n(.*?)```", page, re.DOTALL)
    added = [line[1:] for line in own.splitlines() if line.startswith("+")]
    assert len(added) == 1
    assert added[0] in (EXAMPLE / "mold_plasma.py").read_text("utf-8")
    declared = "\n".join(line[1:] for line in shared.splitlines())
    assert declared in (ROOT / "mold_core" / "wire" / "generate.py").read_text("utf-8")
