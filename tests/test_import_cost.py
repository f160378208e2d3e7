"""Heavy libraries are imported where a model is loaded, and never to show a help page or a list."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "diffusers", "av", "falcon", "numpy", "huggingface_hub", "httpx2", "tomlkit")

PLUGIN_MODULES = sorted({entry.value for entry in entry_points(group="mold")})


def imported_by(code: str) -> list[str]:
    """Return which heavy libraries a fresh Python has imported after running `code`."""
    report = f"print('imported:', *(name for name in {HEAVY!r} if name in sys.modules))"
    # Commands keep standard output to their result, so what is printed after one goes to standard error.
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\n{report}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    return next(line for line in reversed(done.stdout.splitlines()) if line.startswith("imported:")).split()[1:]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["list"],
        ["plugins"],
        ["info"],
        ["version"],
        ["run", "--help"],
        ["gallery", "list"],
        ["pull", "--help"],
        ["config", "list"],
        ["ps"],
        ["stats"],
    ],
    ids=" ".join,
)
def test_a_command_that_makes_no_image_is_light(arguments: list[str]) -> None:
    run = f"""
from mold_core.cli.main import main
sys.argv = ["mold", *{arguments!r}]
try:
    main()
except SystemExit as exit_:
    assert not exit_.code, exit_.code
"""
    assert imported_by(run) == []


@pytest.mark.parametrize("module", ["mold_core", "mold_core.cli.main", "mold_core.testing", "mold_core.engine"])
def test_a_module_of_the_core_is_light(module: str) -> None:
    assert imported_by(f"import {module}") == []


def test_all_public_names_together_are_light() -> None:
    assert imported_by("import mold_core\nfor name in mold_core.__all__: getattr(mold_core, name)") == []


@pytest.mark.parametrize("module", PLUGIN_MODULES)
def test_the_module_of_a_plugin_is_light(module: str) -> None:
    assert imported_by(f"import {module}") == []


def test_importing_mold_core_imports_nothing_of_it_but_the_version() -> None:
    code = "import sys, mold_core; print(*sorted(name for name in sys.modules if name.startswith('mold_core')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["mold_core", "mold_core.version"]


def test_there_are_plugins_to_look_at() -> None:
    assert PLUGIN_MODULES


def test_the_help_page_asks_only_for_what_it_shows(home: Path) -> None:
    code = """
import sys
from mold_core.cli.main import main
sys.argv = ["mold", "--help"]
try:
    main()
except SystemExit:
    pass
"""
    report = "print('loaded:', *(name for name in ('cattrs', 'mold_core.wire', 'PIL', 'ssl') if name in sys.modules))"
    for _ in ("commands of plugins are looked for once", "and remembered"):
        done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded:"


@pytest.mark.parametrize("family", ["mold_flux.family.FluxFamily", "mold_ltx2.family.Ltx2Family"])
def test_a_family_warms_up_for_its_first_model(family: str) -> None:
    module, name = family.rsplit(".", 1)
    made = f"from {module} import {name}\nfamily = {name}()"
    assert "torch" not in imported_by(made)
    loading = f"{module.removesuffix('.family')}.loading"
    warm = imported_by(f"{made}\nfamily.warm()\nassert {loading!r} in sys.modules")
    assert "torch" in warm
    assert not {"diffusers", "transformers"}.intersection(warm)
