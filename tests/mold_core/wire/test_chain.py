"""Chain requests come in strictly, and chain events look on the wire as the API page says."""

from __future__ import annotations

import pytest

from mold_core import ChainRequest, ChainStage, ValidationError
from mold_core.wire import ChainDenoiseStep, ChainEvent, ChainStageDone, ChainStageStart, ChainStart, Stitching
from mold_core.wire.convert import from_json
from mold_core.wire.events import event_to_json


@pytest.mark.parametrize(
    ("event", "json"),
    [
        (
            ChainStart(stage_count=5, estimated_total_frames=449),
            {"type": "chain_start", "stage_count": 5, "estimated_total_frames": 449},
        ),
        (ChainStageStart(stage_idx=0), {"type": "stage_start", "stage_idx": 0}),
        (
            ChainDenoiseStep(stage_idx=0, step=1, total=8),
            {"type": "denoise_step", "stage_idx": 0, "step": 1, "total": 8},
        ),
        (
            ChainStageDone(stage_idx=0, frames_emitted=97),
            {"type": "stage_done", "stage_idx": 0, "frames_emitted": 97},
        ),
        (Stitching(total_frames=400), {"type": "stitching", "total_frames": 400}),
    ],
)
def test_an_event_has_the_shape_of_the_page(event: ChainEvent, json: dict[str, object]) -> None:
    assert event_to_json(event) == json


def test_stages_are_read_from_json() -> None:
    request = from_json(ChainRequest, {"stages": [{"prompt": "a cat", "frames": 97, "source_image": "AAE="}]})
    assert request.stages == (ChainStage(prompt="a cat", frames=97, source_image=b"\x00\x01"),)
    assert request.motion_tail_frames == 4


def test_every_problem_is_named_by_its_path() -> None:
    body = {"stages": [{"prompt": "a", "frames": 97}, {"frames": "97", "transition": "wipe"}], "fps": 0}
    with pytest.raises(ValidationError) as caught:
        from_json(ChainRequest, body)
    assert [problem.split(" ")[0] for problem in caught.value.problems] == [
        "stages[1].prompt",
        "stages[1].frames",
        "stages[1].transition",
        "fps",
    ]
