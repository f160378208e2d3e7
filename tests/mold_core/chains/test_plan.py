"""A chain request of either form becomes clips, or one error that says what is wrong."""

from __future__ import annotations

import pytest

from mold_core import ChainRequest, ChainStage, ValidationError
from mold_core.chains import ChainPlan, ClipRules, overlap_frames
from mold_core.chains import plan as plan_by
from mold_core.testing import FlipbookRenderer
from mold_core.wire.chain import Transition

RULES = ClipRules(stride=8, default=97)


def plan(request: ChainRequest, rules: ClipRules = RULES) -> ChainPlan:
    return plan_by(request, rules)


def auto(total: int | None, clip: int = 97, tail: int = 4, prompt: str | None = "a boat") -> ChainRequest:
    return ChainRequest(prompt=prompt, total_frames=total, clip_frames=clip, motion_tail_frames=tail)


def authored(*frames: int, tail: int = 4) -> ChainRequest:
    return ChainRequest(stages=tuple(ChainStage(prompt="a", frames=n) for n in frames), motion_tail_frames=tail)


@pytest.mark.parametrize(("tail", "overlap"), [(0, 0), (1, 1), (2, 9), (4, 9), (9, 9), (10, 17), (17, 17), (18, 25)])
def test_an_overlap_is_one_frame_and_whole_latents_and_at_least_the_tail(tail: int, overlap: int) -> None:
    assert overlap_frames(tail, 8) == overlap


@pytest.mark.parametrize(
    ("total", "clip", "tail", "frames"),
    [
        (400, 97, 4, [97] * 5),
        (200, 97, 4, [97] * 3),
        (97, 97, 4, [97]),
        (300, 97, 0, [97] * 4),
        (400, 97, 17, [97] * 5),
        (9, 97, 4, [9]),
    ],
)
def test_frames_are_divided_into_clips(total: int, clip: int, tail: int, frames: list[int]) -> None:
    made = plan(auto(total, clip, tail))
    assert [stage.frames for stage in made.stages] == frames
    assert made.total_frames == total <= made.rendered_frames


def test_a_plan_counts_what_each_clip_adds() -> None:
    made = plan(auto(400))
    assert made.overlap == 9
    assert made.emitted == (97, 88, 88, 88, 88)
    assert made.rendered_frames == 449


def test_a_source_image_starts_the_first_clip_only() -> None:
    made = plan(ChainRequest(prompt="a boat", total_frames=200, source_image=b"png"))
    assert [stage.source_image for stage in made.stages] == [b"png", None, None]


def test_stages_come_out_whole() -> None:
    made = plan(authored(97, 33, 97))
    assert made.total_frames == made.rendered_frames == 97 + 24 + 88


def test_cuts_and_fades_overlap_as_they_say() -> None:
    stages = (
        ChainStage(prompt="a", frames=33, transition="fade", fade_frames=4),
        ChainStage(prompt="b", frames=33, transition="cut"),
        ChainStage(prompt="c", frames=33, transition="fade"),
        ChainStage(prompt="d", frames=33, transition="fade", fade_frames=16),
    )
    made = plan(ChainRequest(stages=stages))
    assert made.emitted == (33, 33, 25, 17)
    assert made.stages[0].transition == "smooth"


@pytest.mark.parametrize(
    ("request_", "field", "words"),
    [
        (auto(100, prompt=None), "prompt", "either stages, or prompt and total_frames"),
        (auto(100, prompt=" "), "prompt", "either stages, or prompt and total_frames"),
        (auto(None), "total_frames", "total_frames is required"),
        (auto(0), "total_frames", "at least 1"),
        (auto(100, clip=0), "clip_frames", "at least 1"),
        (auto(100, clip=96), "clip_frames", "the nearest are 89 and 97"),
        (auto(100, clip=9, tail=9), "motion_tail_frames", "must be less than clip_frames"),
        (auto(100, clip=9, tail=4), "motion_tail_frames", "never add up to 100"),
        (auto(50), "total_frames", "the nearest are 49 and 57"),
        (auto(4000), "total_frames", "would take 46 stages; maximum is 16"),
        (authored(97, 96), "stages[1].frames", "8n+1"),
        (authored(97, 0), "stages[1].frames", "at least 1"),
        (authored(97, 1), "motion_tail_frames", "must be less than stages[1].frames"),
        (authored(97, 9), "stages[1].frames", "overlap by 9 frames, and stages[1] has only 9"),
        (authored(*[97] * 17), "stages", "maximum is 16"),
    ],
)
def test_what_cannot_be_is_refused_with_its_field(request_: ChainRequest, field: str, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        plan(request_)
    assert caught.value.field == field
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("frames", "transitions", "field"),
    [
        ((33, 17), (("fade", 17),), "stages[1].fade_frames"),
        ((17, 33), (("fade", 17),), "stages[1].fade_frames"),
        ((33, 17, 33), (("fade", 8), ("fade", 9)), "stages[2].fade_frames"),
        ((33, 17, 33), (("smooth", None), ("fade", 8)), "stages[2].fade_frames"),
    ],
)
def test_fades_leave_every_clip_a_frame_of_its_own(
    frames: tuple[int, ...], transitions: tuple[tuple[Transition, int | None], ...], field: str
) -> None:
    rest = (
        ChainStage(prompt="a", frames=count, transition=transition, fade_frames=length)
        for count, (transition, length) in zip(frames[1:], transitions, strict=True)
    )
    with pytest.raises(ValidationError, match="is too long") as caught:
        plan(ChainRequest(stages=(ChainStage(prompt="a", frames=frames[0]), *rest)))
    assert caught.value.field == field


def test_a_renderer_of_another_stride_has_other_lengths_and_overlaps() -> None:
    class Renderer(FlipbookRenderer):
        frame_stride, default_clip_frames = 4, 21

    renderer = Renderer()
    made = plan(ChainRequest(prompt="a boat", total_frames=50), ClipRules.of(renderer))
    assert (made.overlap, [stage.frames for stage in made.stages]) == (5, [21] * 3)
    assert made.emitted == (21, 16, 16)
    with pytest.raises(ValidationError, match=r"clip_frames must be of the form 4n\+1, not 22") as caught:
        plan(auto(50, clip=22), ClipRules.of(renderer))
    assert caught.value.hint == "the nearest are 21 and 25"


def test_a_renderer_of_mold_0_1_has_the_lengths_of_then() -> None:
    class Renderer:
        family = "flipbook"

    assert ClipRules.of(Renderer()) == ClipRules(stride=8, default=97, largest=97)  # type: ignore[arg-type]


def test_without_a_renderer_any_length_goes() -> None:
    made = plan(ChainRequest(prompt="a boat", total_frames=50), ClipRules.of(None))
    assert [stage.frames for stage in made.stages] == [50]
    assert [stage.frames for stage in plan(auto(50, clip=30), ClipRules()).stages] == [30, 30]
