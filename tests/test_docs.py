"""The documentation says what the code does."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mold_core import hookspecs
from mold_core.testing import check_upscaler
from mold_core.version import VERSION

ROOT = Path(__file__).parents[1]
PLUGINS_PAGE = (ROOT / "docs" / "plugins.md").read_text("utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
CHANGELOG = (ROOT / "CHANGELOG.md").read_text("utf-8")
EXAMPLE = (ROOT / "examples" / "mold_plasma" / "mold_plasma.py").read_text("utf-8")
EXAMPLE_PROJECT = (ROOT / "examples" / "mold_plasma" / "pyproject.toml").read_text("utf-8")

HOOKS = [name for name in vars(hookspecs) if name.startswith("mold_")]


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_documented_with_its_exact_arguments(name: str) -> None:
    arguments = ", ".join(inspect.signature(getattr(hookspecs, name)).parameters)
    assert f"`{name}({arguments})`" in PLUGINS_PAGE


def test_no_hook_is_documented_that_is_not_there() -> None:
    assert set(re.findall(r"`(mold_\w+)\(", PLUGINS_PAGE)) == set(HOOKS)


def test_the_tutorial_shows_the_example_as_it_is() -> None:
    tutorial = PLUGINS_PAGE.partition("## A family in four steps")[2].partition("## Rules for a family")[0]
    for language, block in re.findall(r"```(python|toml)\n(.*?)```", tutorial, re.DOTALL):
        source = EXAMPLE if language == "python" else EXAMPLE_PROJECT
        for line in block.splitlines():
            elided = line.strip() == "..." or line.startswith("from mold_core import") or line.strip() == "return image"
            assert elided or line in source.splitlines(), line


def test_the_upscaler_of_the_page_works_as_it_is_printed(tmp_path: Path) -> None:
    section = PLUGINS_PAGE.partition("## An upscaler")[2].partition("\n## ")[0]
    (block,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    page: dict[str, Any] = {"__name__": "mold_core.version"}  # a module that is cheap to import, as the check asks
    exec(block, page)
    (doubler,) = page["mold_upscalers"]()
    torch.manual_seed(0)
    save_file({"doubler.weight": torch.randn(12, 3, 3, 3) / 30}, tmp_path / "doubler.safetensors")
    check_upscaler(doubler, tmp_path / "doubler.safetensors")


OWN_CODE = re.findall(r"^\| `([\w/]+\.py)` \| (\d+) \|", ARCHITECTURE, re.MULTILINE)


@pytest.mark.parametrize(("module", "lines"), OWN_CODE)
def test_the_size_of_own_code_is_about_what_the_page_says(module: str, lines: str) -> None:
    actual = len((ROOT / module).read_text("utf-8").splitlines())
    assert abs(actual - int(lines)) <= 0.2 * actual, (
        f"docs/architecture.md says {lines} lines of {module}, it has {actual}"
    )


def test_the_table_of_own_code_is_found() -> None:
    assert len(OWN_CODE) > 10


DEPENDENCIES = re.findall(r"^\| ([^|`]+) \|", ARCHITECTURE.partition("## Dependencies")[2], re.MULTILINE)


def test_every_dependency_has_its_reason() -> None:
    named = {name.strip() for row in DEPENDENCIES for name in re.split(r",|\(.*?\)", row)}
    projects = [ROOT / "pyproject.toml", *ROOT.glob("plugins/*/pyproject.toml")]
    wanted = {name for project in projects for name in required(tomllib.loads(project.read_text("utf-8"))["project"])}
    assert wanted - named - {project.parent.name.replace("_", "-") for project in projects} - {"mold-core"} == set()


def required(project: dict[str, Any]) -> set[str]:
    """Return the names of what a project depends on, in its extras, too."""
    groups = [project["dependencies"], *project.get("optional-dependencies", {}).values()]
    return {re.match(r"[\w-]+", line)[0] for group in groups for line in group}  # type: ignore[index]


def test_the_page_of_the_command_line_is_made_from_its_help() -> None:
    # In a process of its own: commands keep the help option of whichever context asked for it first.
    made = subprocess.run([sys.executable, "-m", "mold_core.cli.page"], capture_output=True, check=True).stdout
    assert (ROOT / "docs" / "cli.md").read_text("utf-8") == made.decode("utf-8"), (
        "python -m mold_core.cli.page > docs/cli.md brings it up to date"
    )


def test_the_newest_section_of_the_changelog_is_the_version_of_the_code() -> None:
    versions = re.findall(r"^## \[([\d.]+)\]", CHANGELOG, re.MULTILINE)
    assert versions[0] == VERSION
    assert versions == sorted(versions, key=lambda version: [*map(int, version.split("."))], reverse=True)


def test_the_changelog_groups_its_lines_as_keep_a_changelog_does() -> None:
    groups = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
    for section in re.split(r"^## ", CHANGELOG, flags=re.MULTILINE)[1:]:
        found = re.findall(r"^### (.+)$", section, re.MULTILINE)
        assert found == [group for group in groups if group in found]


def test_the_plugins_have_the_version_of_the_core() -> None:
    versions = {
        project.parent.name: tomllib.loads(project.read_text("utf-8"))["project"]["version"]
        for project in ROOT.glob("plugins/*/pyproject.toml")
    }
    assert set(versions.values()) == {VERSION}, versions
