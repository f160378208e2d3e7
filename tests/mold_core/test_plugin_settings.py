"""A plugin declares settings and components that people can place; mold itself knows neither."""

from __future__ import annotations

import logging
import pickle
import re
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest
from click.testing import CliRunner

from mold_core import (
    AdvancedPlacement,
    DevicePlacement,
    DeviceRef,
    Engine,
    GenerateRequest,
    LoadContext,
    PlacementComponent,
    Plugins,
    Setting,
    Settings,
    SettingsError,
    ValidationError,
    load_plugins,
)
from mold_core.cli.main import mold
from mold_core.cli.state import State
from mold_core.testing import FakePlugin, SketchFamily, engine_with, sketch_model
from mold_core.wire.convert import check, from_json, to_json
from mold_http.openapi import document
from mold_http.routes.table import LISTED

ROOT = Path(__file__).parents[2]
CPU = DeviceRef(kind="cpu")


class Inked(SketchFamily):
    """A family whose models have a component that only they have. It keeps the contexts of loading."""

    placement_components = ("text_encoders", "ink", "transformer", "vae")

    def __init__(self) -> None:
        super().__init__()
        self.contexts: list[LoadContext] = []

    def load(self, spec: Any, files: Any, context: LoadContext) -> Any:
        self.contexts.append(context)
        return super().load(spec, files, context)


INK = PlacementComponent(name="ink", title="the ink encoder", group="text_encoders")
BRUSH = Setting(
    name="ink_brush",
    env="MOLD_INK_BRUSH",
    key="ink.brush",
    type=Literal["auto", "wide", "fine"],
    default="auto",
    doc="Brush of the ink encoder.",
    flag="Brush of the ink encoder: wide or fine.",
    variant_of="ink",
)
DROPS = Setting(name="ink_drops", env="MOLD_INK_DROPS", type=int, default=3, minimum=1, maximum=9, doc="Drops of ink.")


def ink(family: Inked | None = None) -> FakePlugin:
    return FakePlugin(
        families=[family or Inked()], models=[sketch_model()], settings=[BRUSH, DROPS], placement_components=[INK]
    )


def plugins(*extra: object) -> Plugins:
    return load_plugins(found=(), extra=[(f"plugin-{number}", plugin) for number, plugin in enumerate(extra)])


def write_config(home: Path, text: str) -> None:
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(text, "utf-8")


def test_a_family_loads_with_the_values_of_its_settings() -> None:
    family = Inked()
    with engine_with(ink(family), ink_brush="fine", device_ink="cpu") as engine:
        engine.generate(GenerateRequest(prompt="a fish", model="sketch"))
        assert (engine.settings.ink_brush, engine.settings.ink_drops) == ("fine", 3)
    (context,) = family.contexts
    assert dict(context.settings) == {"device_ink": "cpu", "ink_brush": "fine", "ink_drops": 3}
    assert context.memory_policy.variants == {"ink": "fine"}
    assert context.memory_policy.devices == {"ink": "cpu"}


def test_settings_of_plugins_come_from_flag_variable_file_or_default(home: Path) -> None:
    write_config(home, "[ink]\nbrush = 'fine'\n[placement]\nink = 'cpu'\n")
    found = plugins(ink())

    def load(flags: Any = None, **environ: str) -> Settings:
        return found.read_settings(Settings.load(flags, {"MOLD_HOME": str(home), **environ}))

    assert load({"ink_brush": "wide"}, MOLD_INK_BRUSH="fine").ink_brush == "wide"
    assert load(MOLD_INK_BRUSH="WIDE").ink_brush == "wide"
    settings = load(MOLD_INK_DROPS="7")
    assert (settings.ink_brush, settings.device_ink, settings.ink_drops) == ("fine", "cpu", 7)
    assert settings.sources == {
        "ink_brush": "ink.brush in config.toml",
        "device_ink": "placement.ink in config.toml",
        "ink_drops": "MOLD_INK_DROPS",
    }
    assert found.read_settings(settings) == settings == pickle.loads(pickle.dumps(settings))
    assert attrs.evolve(settings, ink_drops=1, threads=2).ink_drops == 1  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("environ", "config", "words"),
    [
        ({"MOLD_INK_BRUSH": "soft"}, "", "MOLD_INK_BRUSH must be one of auto, wide, fine, not 'soft'"),
        ({"MOLD_INK_DROPS": "10"}, "", "MOLD_INK_DROPS must be from 1 to 9, not 10"),
        ({}, "[ink]\nbrush = 3", "ink.brush in config.toml must be one of auto, wide, fine, not 3"),
        ({}, "[ink]\nbruhs = 'fine'", r"unknown key 'ink\.bruhs'; did you mean ink\.brush\?"),
    ],
)
def test_a_bad_value_or_key_is_refused_when_the_plugins_are_loaded(
    home: Path, environ: dict[str, str], config: str, words: str
) -> None:
    write_config(home, config)
    with pytest.raises(SettingsError, match=words):
        Engine(Settings.load({}, {"MOLD_HOME": str(home), **environ}), plugins(ink()))


def test_a_setting_that_nobody_declares_is_refused_by_name() -> None:
    with (
        pytest.raises(SettingsError, match=r"has a setting 'ink_brusch'; did you mean ink_brush\?"),
        engine_with(ink(), ink_brusch="fine"),
    ):
        pass
    with pytest.raises(SettingsError, match="has a setting 'ink_brush'"), engine_with(ink_brush="fine"):
        pass
    with pytest.raises(AttributeError, match="neither mold nor a loaded plugin has a setting 'ink_brush'"):
        assert Settings().ink_brush


def test_keys_of_disabled_plugins_are_ignored_and_others_are_not(home: Path) -> None:
    def load(config: str) -> Settings:
        write_config(home, f"plugins = []\n{config}")
        settings = Settings.load({}, {"MOLD_HOME": str(home)})
        return load_plugins(settings.plugins).read_settings(settings)

    assert load("t5_variant = 'q8'\n[placement]\nclip_l = 'cpu'").plugin_values == {}
    with pytest.raises(SettingsError, match="unknown key 't5_varian'"):
        load("t5_varian = 'q8'")
    settings = Settings(home=home, t5_variant="q8")  # type: ignore[call-arg]
    with pytest.raises(SettingsError, match="'t5_variant'; it is a setting of the plugin flux, which is disabled"):
        load_plugins(()).read_settings(settings)


def test_a_key_that_may_belong_to_a_broken_plugin_is_ignored_with_a_warning(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_config(home, "brush = 'fine'\n")
    broken = EntryPoint(name="ink", group="mold", value="no_such_module_of_ink")
    with caplog.at_level(logging.WARNING, "mold.settings"):
        load_plugins(found=[broken]).read_settings(Settings.load({}, {"MOLD_HOME": str(home)}))
    assert "unknown key 'brush' is ignored: it may belong to ink" in caplog.text


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (attrs.evolve(DROPS, name="threads"), "'threads' cannot be the name of a setting"),
        (attrs.evolve(DROPS, name="load"), "'load' cannot be the name of a setting"),
        (attrs.evolve(DROPS, env="INK_DROPS"), "its variable 'INK_DROPS' must begin with MOLD_"),
        (attrs.evolve(DROPS, env="MOLD_PORT"), "its env 'MOLD_PORT' belongs to another setting"),
        (attrs.evolve(DROPS, key="placement.ink"), "its key 'placement.ink' belongs to another setting"),
    ],
)
def test_a_declaration_that_cannot_work_is_the_failure_of_its_plugin(row: Setting, words: str) -> None:
    found = plugins(FakePlugin(placement_components=[INK]), FakePlugin(settings=[row]))
    assert words in (found.infos[1].failure or "")
    assert row not in found.settings


# --- placements --------------------------------------------------------------------------------------------------


def test_a_component_is_a_field_of_placements() -> None:
    table = {"advanced": {"ink": {"kind": "gpu", "ordinal": 1}, "vae": {"kind": "cpu"}}}
    placement = from_json(DevicePlacement, table)
    assert placement.advanced is not None
    assert placement.advanced == AdvancedPlacement(vae=CPU, ink=DeviceRef(kind="gpu", ordinal=1))
    assert (placement.advanced.ink, placement.advanced.unknown) == (DeviceRef(kind="gpu", ordinal=1), None)
    assert to_json(placement)["advanced"]["ink"] == {"kind": "gpu", "ordinal": 1}
    assert from_json(DevicePlacement, to_json(placement)) == placement


def test_problems_of_a_component_are_reported_with_their_path() -> None:
    with pytest.raises(ValidationError) as caught:
        from_json(DevicePlacement, {"advanced": {"ink": {"kind": "tpu"}, "vae": 3}})
    assert set(caught.value.problems) == {
        "advanced.ink.kind must be one of auto, cpu, gpu, not 'tpu'",
        "advanced.vae must be an object, not 3",
    }
    with pytest.raises(ValidationError, match=r"^advanced\.ink\.ordinal must be from 0 to 1023, not -1$"):
        check(DevicePlacement(advanced=AdvancedPlacement(ink=DeviceRef(kind="gpu", ordinal=-1))))


def test_placing_the_group_places_its_components() -> None:
    family = Inked()
    with engine_with(ink(family), device_ink="cpu", device_vae="cpu") as engine:
        request = GenerateRequest(prompt="a fish", model="sketch", placement=DevicePlacement(text_encoders=CPU))
        engine.generate(request)
        unknown = DevicePlacement(advanced=AdvancedPlacement(qwen=CPU))
        with pytest.raises(ValidationError, match="has no part 'qwen' to place"):
            engine.generate(attrs.evolve(request, placement=unknown))


def test_the_openapi_document_describes_the_components_of_plugins() -> None:
    schemas = document(LISTED, components=(INK,))["components"]["schemas"]
    placement = schemas["AdvancedPlacement"]
    assert set(placement["properties"]) == {"transformer", "vae", "ink"}
    assert placement["properties"]["ink"]["description"] == "The ink encoder."
    assert placement["additionalProperties"] == {"$ref": "#/components/schemas/DeviceRef"}


# --- the command line --------------------------------------------------------------------------------------------


def run(*arguments: str) -> Any:
    state = State()
    state.plugins = plugins(ink())
    return CliRunner().invoke(mold, arguments, obj=state)


def test_flags_and_help_of_a_plugin_come_with_it(home: Path) -> None:
    for command in ("run", "info"):
        help_ = run(command, "--help").output
        assert "--ink-brush TEXT" in help_ and "--device-ink DEVICE" in help_
        assert "--t5-variant" not in help_
    assert "--ink-brush must be one of auto" in str(run("run", "a fish", "--ink-brush", "soft").exception)
    assert "No such option '--t5-variant'" in run("run", "a fish", "--t5-variant", "q8").output


def test_mold_config_lists_reads_and_writes_settings_of_plugins(home: Path) -> None:
    assert run("config", "set", "ink.brush", "fine").output == "ink.brush = fine\n"
    assert run("config", "get", "ink.brush").output == "ink.brush = fine  (ink.brush in config.toml)\n"
    assert "ink.brush  fine" in run("config", "list").output
    assert "unknown setting 't5_variant'" in str(run("config", "get", "t5_variant").exception)


# --- documentation -----------------------------------------------------------------------------------------------


def test_the_page_for_contributors_shows_the_setting_as_it_is_declared() -> None:
    page = (ROOT / "docs" / "contributing.md").read_text("utf-8").partition("## A setting of a plugin")[2]
    setting, component = re.findall(r"```diff\n(.*?)```", page, re.DOTALL)
    plugin = (ROOT / "plugins" / "mold_flux" / "mold_flux" / "plugin.py").read_text("utf-8")
    for declared in (setting, component):
        assert "".join(f"{line[1:]}\n" for line in declared.splitlines()) in plugin
