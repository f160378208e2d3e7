"""Plugins are found; a broken one is listed with its reason and harms no other."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mold_core import Plugins, hookimpl, load_plugins
from mold_core.hookspecs import ModelFamily
from mold_core.plugins import PluginInfo
from mold_core.testing import FakePlugin, SketchFamily, sketch_model

Listed = Callable[..., dict[str, dict[str, Any]]]

GOOD = """
from mold_core import hookimpl
from mold_core.testing import SketchFamily, sketch_model

@hookimpl
def mold_families():
    return [SketchFamily()]

@hookimpl
def mold_models():
    return [sketch_model("sketch:v1"), sketch_model("sketch:v2")]
"""


def install(site: Path, name: str, source: str, *, version: str = "1.2.3", module: str | None = None) -> None:
    """Install a plugin as pip would leave it: a module, and the entry point in the folder of its distribution."""
    module = module or f"plugin_{name}"
    site.mkdir(exist_ok=True)
    (site / f"{module}.py").write_text(source)
    about = site / f"mold_{module}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: mold-{module}\nVersion: {version}\n")
    (about / "entry_points.txt").write_text(f"[mold]\n{name} = {module}\n")


@pytest.fixture
def listed(mold: Callable[..., Any], tmp_path: Path) -> Callable[..., dict[str, dict[str, Any]]]:
    """Run `mold plugins --json` and return what it says of the plugins in `tmp_path`, by name."""

    def run(*arguments: str, **environ: str) -> dict[str, dict[str, Any]]:
        done = mold(*arguments, "plugins", "--json", paths=[tmp_path], **environ)
        assert done.returncode == 0, done.stderr
        ours = {"", *(path.stem for path in tmp_path.glob("*.py"))}
        return {info["name"]: info for info in json.loads(done.stdout) if info["module"] in ours}

    return run


def entry_point(
    monkeypatch: pytest.MonkeyPatch, name: str, *, module: str | None = None, **attributes: Any
) -> EntryPoint:
    """Return an entry point to a module that exists in memory only."""
    module = module or f"plugin_{name}"
    made = ModuleType(module)
    vars(made).update(attributes)
    monkeypatch.setitem(sys.modules, module, made)
    return EntryPoint(name=name, value=module, group="mold")


def info(plugins: Plugins, name: str) -> PluginInfo:
    (found,) = (info for info in plugins.infos if info.name == name)
    return found


def brings(*families: ModelFamily) -> Any:
    @hookimpl
    def mold_families() -> list[ModelFamily]:
        return list(families)

    return mold_families


# --- installed distributions -------------------------------------------------------------------------------------


def test_an_installed_plugin_is_listed_with_version_and_what_it_brings(tmp_path: Path, listed: Listed) -> None:
    install(tmp_path, "good", GOOD)
    assert listed() == {
        "good": {
            "name": "good",
            "module": "plugin_good",
            "version": "1.2.3",
            "provides": {"family": ["sketch"], "model": ["sketch:v1", "sketch:v2"]},
            "failure": None,
            "blocked": False,
        }
    }


def test_a_plugin_that_cannot_be_imported_is_listed_with_its_reason_and_others_work(
    tmp_path: Path, listed: Listed
) -> None:
    install(tmp_path, "abroken", "import a_module_that_is_nowhere")
    install(tmp_path, "bbroken", "raise RuntimeError('no licence\\nsecond line')")
    install(tmp_path, "cbroken", "import sys; sys.exit('go away')")
    install(tmp_path, "dbroken", "def f(:")
    install(tmp_path, "good", GOOD)
    found = listed()
    assert found["abroken"]["failure"] == (
        "cannot be imported: ModuleNotFoundError: No module named 'a_module_that_is_nowhere'"
    )
    assert found["bbroken"]["failure"] == "cannot be imported: RuntimeError: no licence"
    assert found["cbroken"]["failure"] == "cannot be imported: SystemExit: go away"
    assert found["dbroken"]["failure"].startswith("cannot be imported: SyntaxError: ")
    assert found["good"]["failure"] is None
    assert found["good"]["provides"]["family"] == ["sketch"]


def test_mold_plugins_chooses_which_are_loaded(tmp_path: Path, listed: Listed) -> None:
    install(tmp_path, "good", GOOD)
    install(tmp_path, "other", "raise RuntimeError('must not be imported')")
    found = listed(MOLD_PLUGINS="good,missing")
    assert found["good"]["provides"]["family"] == ["sketch"]
    assert (found["other"]["blocked"], found["other"]["failure"]) == (True, None)
    assert found["missing"]["failure"] == "is not installed"


def test_no_plugins_loads_none(tmp_path: Path, listed: Listed) -> None:
    install(tmp_path, "good", "raise RuntimeError('must not be imported')")
    assert listed("--no-plugins")["good"]["blocked"] is True


def test_two_distributions_with_one_plugin_name_are_both_named(tmp_path: Path, listed: Listed) -> None:
    install(tmp_path, "good", GOOD, module="aaa")
    install(tmp_path, "good", GOOD, module="bbb")
    (found,) = listed().values()
    first, second = found["module"], "bbb" if found["module"] == "aaa" else "aaa"
    assert found["failure"] == f"two plugins have the name 'good': {first} and {second}; the first is used"
    assert found["provides"]["family"] == ["sketch"]


# --- hooks -------------------------------------------------------------------------------------------------------


def test_a_hook_that_raises_costs_only_its_own_things(monkeypatch: pytest.MonkeyPatch) -> None:
    @hookimpl
    def mold_models() -> list[object]:
        raise OSError("disk on fire")

    plugins = load_plugins(
        found=[
            entry_point(monkeypatch, "bad", mold_families=brings(SketchFamily(name="mine")), mold_models=mold_models),
            entry_point(monkeypatch, "good", mold_families=brings(SketchFamily())),
        ]
    )
    assert info(plugins, "bad").failure == "mold_models failed: OSError: disk on fire"
    assert set(plugins.families) == {"mine", "sketch"}


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        (None, "mold_families failed: TypeError: 'NoneType' object is not iterable"),
        ([5], "mold_families failed: AttributeError: 'int' object has no attribute 'name'"),
    ],
)
def test_a_hook_that_returns_something_else_is_listed(
    monkeypatch: pytest.MonkeyPatch, returned: object, reason: str
) -> None:
    @hookimpl
    def mold_families() -> object:
        return returned

    plugins = load_plugins(found=[entry_point(monkeypatch, "bad", mold_families=mold_families)])
    assert info(plugins, "bad").failure == reason


def test_a_misspelt_hook_is_reported_and_the_right_one_suggested(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = load_plugins(
        found=[entry_point(monkeypatch, "bad", mold_familys=brings(), mold_families=brings(SketchFamily()))]
    )
    assert info(plugins, "bad").failure == "mold_familys is no hook of mold (did you mean mold_families?)"
    assert set(plugins.families) == {"sketch"}


def test_a_hook_under_another_name_is_taken_by_the_name_it_states(monkeypatch: pytest.MonkeyPatch) -> None:
    @hookimpl(specname="mold_families")
    def my_families() -> list[ModelFamily]:
        return [SketchFamily()]

    plugins = load_plugins(found=[entry_point(monkeypatch, "good", my_families=my_families)])
    assert info(plugins, "good").failure is None
    assert set(plugins.families) == {"sketch"}


def test_a_hook_with_an_unknown_argument_needs_a_newer_core(monkeypatch: pytest.MonkeyPatch) -> None:
    @hookimpl
    def mold_models(galaxy: object) -> list[object]:
        return []

    plugins = load_plugins(
        found=[entry_point(monkeypatch, "bad", mold_families=brings(SketchFamily()), mold_models=mold_models)]
    )
    failure = info(plugins, "bad").failure or ""
    assert failure.startswith("needs another version of mold-core: ")
    assert "galaxy" in failure
    assert not plugins.families, "a plugin works as it was meant to, or not at all"


def test_one_thing_of_two_plugins_stays_with_the_first_and_both_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = SketchFamily(), SketchFamily()
    plugins = load_plugins(
        found=[
            entry_point(monkeypatch, "aaa", mold_families=brings(first)),
            entry_point(monkeypatch, "bbb", mold_families=brings(second, SketchFamily(name="more"))),
        ]
    )
    assert info(plugins, "bbb").failure == (
        "both aaa and bbb provide the family 'sketch'; that of aaa is used; uninstall one of the plugins"
    )
    assert plugins.families["sketch"] is first
    assert info(plugins, "bbb").provides == {"family": ("more",)}
    assert info(plugins, "aaa").failure is None


def test_one_thing_brought_twice_by_a_plugin_is_reported() -> None:
    plugins = load_plugins(found=(), extra=[("mine", FakePlugin(models=[sketch_model("a:b"), sketch_model("a:b")]))])
    assert info(plugins, "mine").failure == "mine provides the model 'a:b' twice; the first one is used"


def test_several_faults_of_a_plugin_are_all_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = load_plugins(
        found=[
            entry_point(monkeypatch, "aaa", mold_families=brings(SketchFamily())),
            entry_point(monkeypatch, "bbb", mold_families=brings(SketchFamily()), mold_job_done=brings()),
        ]
    )
    failure = info(plugins, "bbb").failure or ""
    assert "mold_job_done is no hook of mold" in failure
    assert "both aaa and bbb provide the" in failure


def test_one_plugin_installed_under_two_names_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    first = entry_point(monkeypatch, "aaa", module="the_same", mold_families=brings(SketchFamily()))
    plugins = load_plugins(found=[first, EntryPoint(name="bbb", value="the_same", group="mold")])
    assert info(plugins, "aaa").failure is None
    assert (info(plugins, "bbb").failure or "").startswith("cannot be registered: ValueError")


def test_a_broken_plugin_does_not_hide_a_good_one_of_the_same_name(monkeypatch: pytest.MonkeyPatch) -> None:
    good = entry_point(monkeypatch, "same", mold_families=brings(SketchFamily()))
    plugins = load_plugins(found=[good, EntryPoint(name="same", value="a_module_that_is_nowhere", group="mold")])
    assert "two plugins have the name 'same'" in (info(plugins, "same").failure or "")
    assert set(plugins.families) == {"sketch"}


def test_the_version_is_that_of_the_distribution(tmp_path: Path) -> None:
    install(tmp_path, "good", GOOD, version="9.8")
    (distribution,) = Distribution.discover(path=[str(tmp_path)])
    (entry,) = distribution.entry_points
    assert info(load_plugins((), found=[entry]), "good").version == "9.8"


def test_models_of_one_plugin_may_be_for_the_family_of_another() -> None:
    plugins = load_plugins(
        found=(),
        extra=[("family", FakePlugin(families=[SketchFamily()])), ("models", FakePlugin(models=[sketch_model("a:b")]))],
    )
    assert plugins.models["a:b"].family in plugins.families
    assert plugins.owners["mold_models", "a:b"] == "models"


def test_telling_plugins_something_reaches_all_and_returns_failures() -> None:
    heard: list[object] = []
    plugins = load_plugins(
        found=(),
        extra=[
            ("one", FakePlugin(on_finished=lambda job: 1 / 0)),
            ("two", FakePlugin(on_finished=heard.append)),
        ],
    )
    ((name, error),) = plugins.notify("mold_job_finished", job="job")
    assert (name, type(error)) == ("one", ZeroDivisionError)
    assert heard == ["job"]
