"""The conformance kit passes a good family and says what is wrong with each kind of bad one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mold_core import CancelledError, Frames, GenerateRequest, ModelNotFoundError, Parameter, Run, SizeRules
from mold_core.testing import SketchFamily, check_family, sketch_model

Generate = Callable[[Sequence[GenerateRequest], Run], list[Frames]]


def family_with(change: Callable[[Generate], Generate], **attributes: Any) -> SketchFamily:
    """Return a sketch family whose pipelines generate in a changed way."""

    class Changed(SketchFamily):
        def load(self, *arguments: Any) -> Any:
            pipeline = super().load(*arguments)
            changed = change(pipeline.generate)

            class Wrapper:
                size_bytes = attributes.get("size_bytes", 5)
                close = pipeline.close

                def generate(self, requests: Sequence[GenerateRequest], run: Run) -> list[Frames]:
                    return changed(requests, run)

            return Wrapper()

    return Changed()


def check(family: SketchFamily, **options: Any) -> None:
    check_family(family, sketch_model(), **{"module": "mold_core.testing.sketch", **options})


def test_a_good_family_passes() -> None:
    check(SketchFamily())


def test_a_good_family_passes_at_another_size_and_number_of_steps() -> None:
    family = SketchFamily()
    check(family, width=64, height=40, steps=5)
    assert {(one.width, one.height) for batch in family.batches for one in batch} >= {(64, 40)}
    assert {one.steps for batch in family.batches for one in batch} == {5}


def test_every_model_that_was_loaded_is_closed() -> None:
    family = SketchFamily()
    check(family)
    assert len(family.loads) == len(family.closes) == 2


def test_files_of_the_model_are_looked_for_where_they_were_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"1")
    spec = sketch_model(files=["weights"])
    check_family(SketchFamily(), spec, models_dir=tmp_path)
    with pytest.raises(ModelNotFoundError):
        check_family(SketchFamily(), spec)


def drawing_at_random(generate: Generate) -> Generate:
    counter = iter(range(1000))

    def changed(requests: Sequence[GenerateRequest], run: Run) -> list[Frames]:
        generate(requests, run)
        return [Frames(images=(Image.new("RGB", (32, 32), (next(counter), 0, 0)),)) for _ in requests]

    return changed


def forgetting_seeds_in_batches(generate: Generate) -> Generate:
    def changed(requests: Sequence[GenerateRequest], run: Run) -> list[Frames]:
        made = generate(requests, run)
        return made if len(made) == 1 else made[:1] * len(made)

    return changed


def dropping_the_last_of_a_batch(generate: Generate) -> Generate:
    return lambda requests, run: generate(requests, run)[: max(len(requests) - 1, 1)]


def returning_nothing(generate: Generate) -> Generate:
    return lambda requests, run: []


def never_cancelling(generate: Generate) -> Generate:
    class Deaf:
        def __init__(self, run: Run) -> None:
            self.run = run

        def step(self, step: int, total: int, elapsed_ms: int) -> None:
            with suppress(CancelledError):
                self.run.step(step, total, elapsed_ms)

    return lambda requests, run: generate(requests, Deaf(run))  # type: ignore[arg-type]


def counting_from_zero(generate: Generate) -> Generate:
    class Shifted:
        def __init__(self, run: Run) -> None:
            self.run = run

        def step(self, step: int, total: int, elapsed_ms: int) -> None:
            self.run.step(step - 1, total, elapsed_ms)

    return lambda requests, run: generate(requests, Shifted(run))  # type: ignore[arg-type]


def always_square(generate: Generate) -> Generate:
    def changed(requests: Sequence[GenerateRequest], run: Run) -> list[Frames]:
        return [Frames(images=(made.images[0].resize((32, 32)),)) for made in generate(requests, run)]

    return changed


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (drawing_at_random, "equal requests gave different images"),
        (forgetting_seeds_in_batches, "in a batch the image differs by"),
        (dropping_the_last_of_a_batch, "3 requests gave 2 results"),
        (returning_nothing, "one request gave 0 results"),
        (never_cancelling, r"the pipeline continued after run\.step\(\) raised CancelledError"),
        (counting_from_zero, r"a request of 2 steps must report steps 1 to 2, not \[\(0, 2\), \(1, 2\)\]"),
        (always_square, r"the image has size \(32, 32\) instead of \(40, 32\)"),
    ],
)
def test_a_family_that_breaks_a_promise_is_told_which(change: Callable[[Generate], Generate], sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check(family_with(change))


def test_a_family_must_know_its_size() -> None:
    with pytest.raises(AssertionError, match="size_bytes must be a number of bytes"):
        check(family_with(lambda generate: generate, size_bytes="5"))


def test_a_family_must_declare_itself() -> None:
    family = SketchFamily()
    del family.title
    with pytest.raises(AssertionError, match="title is missing, which ModelFamily requires"):
        check(family)


def test_parameters_must_be_fields_of_a_request() -> None:
    with pytest.raises(AssertionError, match="parameter 'colour' is not a field of GenerateRequest"):
        check(SketchFamily(parameters=(Parameter(name="colour", doc="Colour."),)))


def test_recommended_sizes_must_be_possible() -> None:
    with pytest.raises(AssertionError, match=r"the recommended size \(33, 33\) violates the family's size rules"):
        check(SketchFamily(sizes=SizeRules(multiple=8, recommended=((33, 33),))))


def test_a_module_that_imports_torch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("")
    (tmp_path / "heavy_plugin.py").write_text("import torch")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AssertionError, match="importing heavy_plugin imports torch"):
        check(SketchFamily(), module="heavy_plugin")


def test_a_module_that_cannot_be_imported_is_refused() -> None:
    with pytest.raises(AssertionError, match="heavy_plugin cannot be imported by itself"):
        check(SketchFamily(), module="heavy_plugin")


def test_the_kit_needs_neither_pytest_nor_torch() -> None:
    code = "import sys, mold_core.testing; print([n for n in ('pytest', 'torch', 'numpy') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
