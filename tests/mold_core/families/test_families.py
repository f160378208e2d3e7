"""What families share: reported stages, numbers of threads, size rules of a model."""

from __future__ import annotations

import attrs
import pytest
import torch

from mold_core import DenoiseStep, SizeRules, StageDone, StageStart
from mold_core.families import StepReporter, compute_threads, sizes_from_options, stage
from mold_core.testing import RecordedRun, sketch_model


def test_a_stage_is_reported_with_its_begin_and_its_end() -> None:
    run = RecordedRun()
    with stage(run, "Decoding"):
        assert [type(event) for event in run.events] == [StageStart]
    begin, end = run.events
    assert isinstance(begin, StageStart) and isinstance(end, StageDone)
    assert (begin.name, end.name) == ("Decoding", "Decoding")
    assert end.elapsed_ms >= 0


def test_a_stage_that_fails_reports_no_end() -> None:
    run = RecordedRun()
    with pytest.raises(OSError, match="full"), stage(run, "Decoding"):
        raise OSError("full")
    assert [type(event) for event in run.events] == [StageStart]


@pytest.mark.parametrize("count", [None, 1, 2])
def test_the_number_of_threads_is_restored(count: int | None) -> None:
    before = torch.get_num_threads()
    with compute_threads(count):
        assert torch.get_num_threads() == (count or before)
    assert torch.get_num_threads() == before


def test_a_model_may_have_size_rules_of_its_own() -> None:
    rules, spec = SizeRules(multiple=16), sketch_model()
    assert sizes_from_options(spec, rules) is rules
    own = attrs.evolve(spec, options={"sizes": {"multiple": 8, "max_pixels": 100, "recommended": [[8, 8]]}})
    assert sizes_from_options(own, rules) == SizeRules(multiple=8, max_pixels=100, recommended=((8, 8),))


def test_steps_are_numbered_through_all_passes() -> None:
    run = RecordedRun()
    steps = StepReporter(run, 3)
    for _ in range(3):
        steps.advance()
    assert [(event.step, event.total) for event in run.events if isinstance(event, DenoiseStep)] == [
        (1, 3),
        (2, 3),
        (3, 3),
    ]
