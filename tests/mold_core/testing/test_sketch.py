"""The fakes do what tests ask of them."""

from __future__ import annotations

import threading

import pytest

from mold_core import GenerateRequest, InferenceError
from mold_core.testing import FakePlugin, Gate, SketchFamily, engine_with, sketch_model
from mold_core.testing import sketch as sketch_module


def test_a_gate_lets_through_as_many_as_it_is_told() -> None:
    gate = Gate()
    passed: list[int] = []

    def walk() -> None:
        for number in range(3):
            gate.pass_through()
            passed.append(number)

    walker = threading.Thread(target=walk)
    walker.start()
    gate.wait_for_arrival()
    assert passed == []
    gate.let()
    gate.wait_for_arrival()
    assert passed == [0]
    gate.open()
    walker.join(10)
    assert passed == [0, 1, 2]


def test_waiting_at_a_gate_for_nobody_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketch_module, "_PATIENCE_S", 0.01)
    with pytest.raises(TimeoutError, match="the pipeline to come to the gate"):
        Gate().wait_for_arrival()
    with pytest.raises(TimeoutError, match="the test to open the gate"):
        Gate().pass_through()


def test_a_family_writes_down_what_it_was_asked_to_do() -> None:
    family = SketchFamily(step_s=0.001, error=RuntimeError("boom"), error_for="cursed")
    with engine_with(FakePlugin(families=[family], models=[sketch_model("a:v1")])) as engine:
        engine.generate(GenerateRequest(prompt="fine", model="a"))
        with pytest.raises(InferenceError, match="boom"):
            engine.generate(GenerateRequest(prompt="cursed", model="a"))
    assert [[one.prompt for one in batch] for batch in family.batches] == [["fine"], ["cursed"]]
    assert (family.loads, family.closes) == (["a:v1"], ["a:v1"])


def test_a_model_may_have_a_size_of_its_own() -> None:
    family = SketchFamily(size_bytes=10)
    models = [sketch_model("a:v1"), sketch_model("b:v1", size_bytes=2_000_000_000)]
    with engine_with(FakePlugin(families=[family], models=models), memory_budget_gb=1.0) as engine:
        assert engine.generate(GenerateRequest(prompt="p", model="a")).images
        with pytest.raises(Exception, match=r"needs 2\.0 GB"):
            engine.generate(GenerateRequest(prompt="p", model="b"))


def test_an_engine_for_tests_lives_in_a_folder_that_is_gone_afterwards() -> None:
    with engine_with() as engine:
        assert engine.settings.home.is_dir()
    assert not engine.settings.home.exists()
