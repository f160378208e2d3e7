"""Models are placed on devices as requests or config.toml say, and what cannot be honoured is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mold_core import (
    Engine,
    GenerateRequest,
    LoadContext,
    PlacementComponent,
    Settings,
    SettingsError,
    ValidationError,
    load_plugins,
)
from mold_core.engine.worker.local import LocalWorker
from mold_core.placement.device_map import placed
from mold_core.testing import FakePlugin, RecordedRun, SketchFamily, engine_with, sketch_model
from mold_core.wire import DevicePlacement
from mold_core.wire.convert import from_json

SPEC = sketch_model("a:v1")
CPU = {"kind": "cpu"}
WHOLE_CPU = {"text_encoders": CPU, "advanced": {"transformer": CPU, "vae": CPU}}


def gpu(ordinal: int) -> dict[str, Any]:
    return {"kind": "gpu", "ordinal": ordinal}


def placement(table: dict[str, Any]) -> DevicePlacement:
    return from_json(DevicePlacement, table, strict_keys=True)


class Divided(SketchFamily):
    """A family that can place parts; it notes how its models are loaded."""

    placement_components = ("text_encoders", "t5", "transformer", "vae")

    def __init__(self) -> None:
        super().__init__()
        self.contexts: list[LoadContext] = []

    def load(self, spec: Any, files: Any, context: LoadContext) -> Any:
        self.contexts.append(context)
        return super().load(spec, files, context)


@pytest.mark.parametrize(
    ("table", "pool", "device", "devices"),
    [
        ({}, ["cuda:0", "cuda:1"], None, {}),
        ({"text_encoders": {"kind": "auto"}}, ["cuda"], None, {}),
        (WHOLE_CPU, ["cpu"], None, {}),
        ({"text_encoders": CPU}, ["cuda"], None, {"text_encoders": "cpu"}),
        ({"text_encoders": gpu(0)}, ["cuda"], "cuda", {"text_encoders": "cuda"}),
        ({"text_encoders": gpu(0)}, ["mps"], "mps", {"text_encoders": "mps"}),
        (
            {"text_encoders": CPU, "advanced": {"transformer": gpu(1), "t5": gpu(1)}},
            ["cuda:0", "cuda:1"],
            "cuda:1",
            {"text_encoders": "cpu", "transformer": "cuda:1", "t5": "cuda:1"},
        ),
        (
            WHOLE_CPU,
            ["cuda:0", "cuda:1"],
            None,
            {"text_encoders": "cpu", "transformer": "cpu", "vae": "cpu", "model": "cpu"},
        ),
    ],
)
def test_a_placement_becomes_devices_and_the_worker_that_has_to_run_it(
    table: dict[str, Any], pool: list[str], device: str | None, devices: dict[str, str]
) -> None:
    found = placed(SPEC, Divided(), placement(table), lambda: pool)
    assert (found.device, dict(found.spec.devices)) == (device, devices)


@pytest.mark.parametrize(
    ("table", "pool", "words"),
    [
        ({"text_encoders": gpu(0)}, ["cpu"], r"gpu:0 is not available in this server's worker pool \[\].*use cpu"),
        ({"text_encoders": gpu(0)}, ["cuda:1"], r"gpu:0 is not available in this server's worker pool \[1\]"),
        (
            {"text_encoders": gpu(1), "advanced": {"vae": gpu(0)}},
            ["cuda:0", "cuda:1"],
            "only supports placement on one GPU ordinal per request; got gpu:0, gpu:1",
        ),
        ({"advanced": {"vae": {"kind": "gpu"}}}, ["cuda"], "placement.advanced.vae.ordinal is required"),
        ({"advanced": {"qwen": CPU}}, ["cpu"], "has no part 'qwen'.*its parts are text_encoders, t5"),
    ],
)
def test_what_cannot_be_honoured_is_refused_with_its_path(table: dict[str, Any], pool: list[str], words: str) -> None:
    with pytest.raises(ValidationError, match=words) as caught:
        placed(SPEC, Divided(), placement(table), lambda: pool)
    assert (caught.value.field or "").startswith("placement")


def test_a_family_without_parts_is_placed_as_a_whole_or_not_at_all() -> None:
    assert placed(SPEC, SketchFamily(), placement({"text_encoders": gpu(1)}), lambda: ["cuda:1"]).device == "cuda:1"
    whole = placed(SPEC, SketchFamily(), placement(WHOLE_CPU), lambda: ["cuda"])
    assert whole.spec.devices["model"] == "cpu"
    with pytest.raises(ValidationError, match="placed as a whole only"):
        placed(SPEC, SketchFamily(), placement({"text_encoders": CPU}), lambda: ["cuda"])


def test_a_worker_loads_the_parts_where_they_are_placed_and_anew_when_that_changes(tmp_path: Path) -> None:
    family = Divided()
    encoder = PlacementComponent(name="t5", title="the second text encoder", group="text_encoders")
    plugins = load_plugins(found=(), extra=[("mine", FakePlugin(families=[family], placement_components=[encoder]))])
    # A worker of another device, for which nothing of it is needed as long as the family does not use it.
    worker = LocalWorker("mps", Settings(home=tmp_path, device_t5="cpu", device_vae="cpu"), plugins)
    for table in ({}, {"text_encoders": gpu(0)}, {"text_encoders": gpu(0)}, WHOLE_CPU, {}):
        spec = placed(SPEC, family, placement(table), lambda: ["mps"]).spec
        worker.load(spec, RecordedRun())
        assert worker.loaded() == {"a:v1"}
    unsaid, encoders, whole, again = family.contexts
    assert (unsaid.device, dict(unsaid.memory_policy.devices)) == ("mps", {"t5": "cpu", "vae": "cpu"})
    assert (encoders.device, dict(encoders.memory_policy.devices)) == ("mps", {"vae": "cpu", "text_encoders": "mps"})
    assert (whole.device, whole.memory_policy.device_of("transformer", default="mps")) == ("cpu", "cpu")
    assert again.memory_policy == unsaid.memory_policy
    assert worker.unload() == ("a:v1",)


def test_a_placement_is_kept_in_config_toml_and_comments_stay(home: Path) -> None:
    config = home / "config.toml"
    before = '# mine\nqueue_size = 1\n\n[models."b:v1"] # own\nfamily = "sketch"\nfiles = {a = "a"}\n'
    home.mkdir()
    config.write_text(before)
    plugins = load_plugins(found=(), extra=[("mine", FakePlugin(families=[Divided()], models=[SPEC]))])
    wanted = placement({"text_encoders": CPU, "advanced": {"vae": CPU}})
    with Engine(Settings.load(), plugins) as engine:
        assert engine.place("a", wanted) == "a:v1"
        assert engine.place("b:v1", placement({"advanced": {"t5": CPU}})) == "b:v1"
        assert engine.placement("a:v1") == wanted
    assert config.read_text().startswith(before)
    assert 'text_encoders = {kind = "cpu"}' in config.read_text()
    with Engine(Settings.load(), plugins) as engine:
        assert engine.placement("a") == wanted
        assert engine.placement("b") == placement({"advanced": {"t5": CPU}})
        assert engine.place("a", None) == engine.place("a", None) == "a:v1"
        engine.place("b", None)
        with pytest.raises(ValidationError, match="gpu:3"):
            engine.place("b", placement({"text_encoders": gpu(3)}))
    assert config.read_text() == before


def test_a_placement_of_a_model_that_nobody_brings_does_not_keep_mold_from_starting(home: Path) -> None:
    home.mkdir()
    (home / "config.toml").write_text('[models."gone:v1".placement]\ntext_encoders = {kind = "cpu"}\n')
    with Engine(Settings.load(), load_plugins(found=(), extra=[])) as engine:
        assert "gone:v1" not in engine.catalog()
        assert engine.place("gone:v1", None) == "gone:v1"
    assert (home / "config.toml").read_text() == ""


@pytest.mark.parametrize(
    "line", ["text_encoders = 3", 'encoders = { kind = "cpu" }', 'text_encoders = { kind = "tpu" }']
)
def test_a_placement_that_means_nothing_is_refused_with_its_place(home: Path, line: str) -> None:
    home.mkdir()
    (home / "config.toml").write_text(f'[models."a:v1".placement]\n{line}\n')
    with pytest.raises(SettingsError, match=r"models.'a:v1' placement: .*encoders"):
        Engine(Settings.load())


def test_a_request_has_a_placement_of_its_own() -> None:
    family = Divided()
    with engine_with(FakePlugin(families=[family], models=[SPEC])) as engine:
        request = GenerateRequest(prompt="p", model="a", width=32, steps=1, placement=placement(WHOLE_CPU))
        assert len(engine.generate(request).images) == 1
        with pytest.raises(ValidationError, match="gpu:1 is not available"):
            engine.generate(GenerateRequest(prompt="p", model="a", placement=placement({"text_encoders": gpu(1)})))
