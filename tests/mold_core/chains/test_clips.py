"""Clips on disk become one video: whole, continuous, and the same however often the work was stopped."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import attrs
import av
import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from mold_core import CancelledError, ChainRequest, ChainStage, GenerateRequest, InferenceError, VideoData
from mold_core.catalog import LocalFiles
from mold_core.chains import Chain, ChainStore, ClipRules, encode_clip, join, lay_out, plan, render_clip, stage_seed
from mold_core.hookspecs import DecodedClip, LoadContext
from mold_core.media.video import decode_frames, probe_video
from mold_core.testing import FlipbookFamily, FlipbookRenderer, RecordedRun, ball_at, flipbook_model

RENDERER = FlipbookRenderer()
FAMILY = FlipbookFamily()


def pipeline() -> object:
    context = LoadContext(device="cpu", threads=None, cache_dir=Path(), report=lambda event: None)
    return FAMILY.load(flipbook_model(), LocalFiles({}), context)


def laid_out(request: ChainRequest, folder: Path) -> Chain:
    made = plan(request, ClipRules.of(RENDERER))
    clips = [
        GenerateRequest(
            prompt=stage.prompt,
            model="flipbook:v1",
            width=64,
            height=48,
            steps=2,
            guidance=1.0,
            fps=24,
            frames=stage.frames,
            seed=stage_seed(request.seed or 0, index, stage),
        )
        for index, stage in enumerate(made.stages)
    ]
    return lay_out(request, made, clips, ChainStore(folder).clips)


def make(request: ChainRequest, folder: Path) -> VideoData:
    chain = laid_out(request, folder)
    for work in chain.works[chain.first_missing :]:
        render_clip(RENDERER, pipeline(), work, RecordedRun())
    for work in chain.ready:
        encode_clip(RENDERER, pipeline(), work)
    return join(chain, None)


def frames_of(video: VideoData) -> list[Image.Image]:
    return list(decode_frames(BytesIO(video.data)))


def colours(frame: Image.Image) -> set[str]:
    """Return what is clearly red, green or blue in a frame."""
    pixels = np.asarray(frame, np.int16).reshape(-1, 3)
    return {
        name
        for index, name in enumerate(("red", "green", "blue"))
        if (pixels[:, index] - np.delete(pixels, index, 1).max(1) > 90).any()
    }


def steps_between(frames: list[Image.Image]) -> list[float]:
    """Return how far the ball flies from each frame to the next, in pixels."""
    places = np.array([ball_at(frame) for frame in frames])
    return [float(step) for step in np.hypot(*np.diff(places, axis=0).T)]


SMOOTH = ChainRequest(prompt="a red ball", total_frames=60, clip_frames=25, motion_tail_frames=4, seed=3)


def test_the_video_has_the_frames_and_the_sound_that_were_asked_for(tmp_path: Path) -> None:
    video = make(SMOOTH, tmp_path)
    info = probe_video(BytesIO(video.data))
    assert (info.frames, info.fps, info.width, info.height) == (60, 24.0, 64, 48)
    assert len(frames_of(video)) == video.frames == 60
    assert (video.has_audio, video.audio_sample_rate, video.audio_channels) == (True, 8000, 2)
    with av.open(BytesIO(video.data), format="mp4") as container:
        heard = sum(frame.samples for frame in container.decode(audio=0))
    assert abs(heard - 60 * 8000 / 24) <= 8000 / 24 + 1024


def test_a_ball_flies_on_across_the_seams(tmp_path: Path) -> None:
    steps = steps_between(frames_of(make(SMOOTH, tmp_path)))
    seams = [25 - 1, 41 - 1, 57 - 1]  # 25 frames, then 16 more a clip
    inside = [step for index, step in enumerate(steps) if index not in seams]
    assert max(steps[index] for index in seams) <= 1.2 * max(inside)


def test_without_a_tail_it_jumps(tmp_path: Path) -> None:
    request = attrs.evolve(SMOOTH, motion_tail_frames=0, total_frames=50)
    steps = steps_between(frames_of(make(request, tmp_path)))
    assert steps[24] > 3 * max(steps[:24])


def test_stages_follow_as_their_transitions_say(tmp_path: Path) -> None:
    stages = (
        ChainStage(prompt="a red ball", frames=17),
        ChainStage(prompt="a blue ball", frames=17, transition="cut"),
        ChainStage(prompt="a green ball", frames=17, transition="fade", fade_frames=8),
    )
    frames = frames_of(make(ChainRequest(stages=stages, seed=1), tmp_path))
    assert len(frames) == 17 + 17 + 9

    expected = [(0, "red"), (16, "red"), (17, "blue"), (25, "blue"), (42, "green")]
    assert [colours(frames[index]) for index, _ in expected] == [{name} for _, name in expected]
    middle = np.asarray(frames[17 + 9 + 4], np.int16).reshape(-1, 3)
    bluish = (middle[:, 2] - middle[:, 0] > 40).any()
    greenish = (middle[:, 1] - middle[:, 0] > 40).any()
    assert bluish and greenish  # half way through the fade both are there


@pytest.mark.parametrize("stop", range(8))
def test_a_chain_that_was_stopped_anywhere_ends_in_the_same_bytes(tmp_path: Path, stop: int) -> None:
    whole = make(SMOOTH, tmp_path / "whole")
    chain = laid_out(SMOOTH, tmp_path / "stopped")
    for _ in range(stop):
        if chain.ready:
            encode_clip(RENDERER, pipeline(), chain.ready[0])
        else:
            render_clip(RENDERER, pipeline(), chain.works[chain.first_missing], RecordedRun())
    rendered = chain.first_missing
    FAMILY.clips.clear()
    again = make(SMOOTH, tmp_path / "stopped")
    assert again.data == whole.data
    assert again.gif_preview == whole.gif_preview
    assert len(FAMILY.clips) == 4 - rendered


def test_a_clip_is_decoded_with_what_comes_before_and_after_it_in_view(tmp_path: Path) -> None:
    seen: list[tuple[float | None, float | None]] = []

    class Watched(FlipbookRenderer):
        def decode(self, pipeline: object, clip: Any, before: Any, overlap: int, after: Any) -> DecodedClip:  # type: ignore[override]
            seen.append(tuple(None if other is None else float(other["start"][0]) for other in (before, after)))  # type: ignore[arg-type]
            return super().decode(pipeline, clip, before, overlap, after)  # type: ignore[arg-type]

    stages = [ChainStage(prompt=f"a {colour} ball", frames=17) for colour in ("red", "green", "blue", "yellow")]
    stages[2] = attrs.evolve(stages[2], transition="cut")
    chain = laid_out(ChainRequest(stages=tuple(stages), seed=1), tmp_path)
    starts = []
    for work in chain.works:
        render_clip(RENDERER, pipeline(), work, RecordedRun())
        starts.append(float(load_file(work.files.latents)["start"][0]))
    for work in chain.ready:
        encode_clip(Watched(), pipeline(), work)
    assert seen == [(None, starts[1]), (starts[0], None), (None, starts[3]), (starts[2], None)]


def test_a_changed_last_stage_changes_the_end_of_the_one_before(tmp_path: Path) -> None:
    stages = [ChainStage(prompt=f"a {colour} ball", frames=17) for colour in ("red", "green", "blue")]
    old = laid_out(ChainRequest(stages=tuple(stages), seed=1), tmp_path).works
    stages[2] = attrs.evolve(stages[2], prompt="a yellow ball")
    new = laid_out(ChainRequest(stages=tuple(stages), seed=1), tmp_path).works
    pairs = [(one.files, other.files) for one, other in zip(old, new, strict=True)]
    assert [one.latents == other.latents for one, other in pairs] == [True, True, False]
    assert [one.video == other.video for one, other in pairs] == [True, False, False]


def test_a_cancelled_clip_leaves_nothing(tmp_path: Path) -> None:
    chain = laid_out(SMOOTH, tmp_path)
    with pytest.raises(CancelledError):
        render_clip(RENDERER, pipeline(), chain.works[0], RecordedRun(cancel_after=1))
    assert list(ChainStore(tmp_path).clips.iterdir()) == []
    assert chain.first_missing == 0


def test_a_changed_stage_is_made_again_and_so_is_what_goes_on_from_it(tmp_path: Path) -> None:
    stages = [ChainStage(prompt=f"a {colour} ball", frames=17) for colour in ("red", "green", "blue", "yellow")]
    stages[3] = attrs.evolve(stages[3], transition="cut")
    make(ChainRequest(stages=tuple(stages), seed=1), tmp_path)
    FAMILY.clips.clear()
    stages[1] = attrs.evolve(stages[1], prompt="a yellow ball")
    make(ChainRequest(stages=tuple(stages), seed=1), tmp_path)
    assert [clip.prompt for clip in FAMILY.clips] == ["a yellow ball", "a blue ball"]


@pytest.mark.parametrize("format", ["gif", "apng", "webp"])
def test_other_formats_play_as_long(tmp_path: Path, format: str) -> None:
    video = make(attrs.evolve(SMOOTH, output_format=format), tmp_path)
    with Image.open(BytesIO(video.data)) as image:
        durations_ms = [_duration(image, index) for index in range(image.n_frames)]  # type: ignore[attr-defined]
    assert 58 <= len(durations_ms) <= video.frames == 60  # frames that look the same may be one that is shown longer
    assert sum(durations_ms) == pytest.approx(2500, abs=60)
    assert not video.has_audio


def _duration(image: Image.Image, index: int) -> float:
    image.seek(index)
    image.load()
    return float(image.info["duration"])


def test_a_preview_comes_with_the_video(tmp_path: Path) -> None:
    video = make(SMOOTH, tmp_path)
    assert video.gif_preview is not None and video.thumbnail is not None
    with Image.open(BytesIO(video.gif_preview)) as gif, Image.open(BytesIO(video.thumbnail)) as first:
        assert gif.n_frames == 20  # type: ignore[attr-defined]
        assert gif.info["duration"] in (120, 130)  # eight frames a second, in hundredths
        assert ball_at(first.convert("RGB")) == pytest.approx(ball_at(frames_of(video)[0]), abs=0.5)


def test_a_preview_shows_every_third_frame_of_the_whole_also_across_cuts_and_fades(tmp_path: Path) -> None:
    stages = (
        ChainStage(prompt="a red ball", frames=17),
        ChainStage(prompt="a red ball", frames=17),
        ChainStage(prompt="a red ball", frames=25, transition="cut"),
        ChainStage(prompt="a red ball", frames=17, transition="fade", fade_frames=2),
    )
    video = make(ChainRequest(stages=stages, seed=1), tmp_path)
    frames = frames_of(video)[::3]
    with Image.open(BytesIO(video.gif_preview or b"")) as gif:
        assert gif.n_frames == len(frames)  # type: ignore[attr-defined]
        for index, frame in enumerate(frames):
            gif.seek(index)
            off = np.abs(np.asarray(gif.convert("RGB"), np.int16) - np.asarray(frame, np.int16))
            assert off.mean() < 6


def test_a_lost_preview_is_made_again_from_the_clip(tmp_path: Path) -> None:
    whole = make(SMOOTH, tmp_path)
    chain = laid_out(SMOOTH, tmp_path)
    chain.works[1].files.preview.unlink()
    assert chain.ready == (chain.works[1],)
    again = make(SMOOTH, tmp_path)
    assert again.data == whole.data
    with Image.open(BytesIO(again.gif_preview or b"")) as new, Image.open(BytesIO(whole.gif_preview or b"")) as old:
        assert new.n_frames == old.n_frames == 20  # type: ignore[attr-defined]
        for index in range(20):
            new.seek(index)
            old.seek(index)
            off = np.abs(np.asarray(new.convert("RGB"), np.int16) - np.asarray(old.convert("RGB"), np.int16))
            assert off.mean() < 4


def test_a_longer_video_with_another_preview_keeps_the_clips_that_are_here(tmp_path: Path) -> None:
    stages = tuple(
        ChainStage(prompt="a red ball", frames=25, transition="cut" if index else "smooth") for index in range(3)
    )
    make(ChainRequest(stages=stages, seed=1), tmp_path)
    old = laid_out(ChainRequest(stages=stages, seed=1), tmp_path).works
    shorter = attrs.evolve(stages[0], frames=17)
    new = laid_out(ChainRequest(stages=(shorter, *stages[1:]), seed=1), tmp_path)
    assert [work.files.video == other.files.video for work, other in zip(new.works, old, strict=True)] == [
        False,
        True,
        True,
    ]
    assert new.works[1].ready and new.works[1].decoded  # only its preview is missing
    again = make(ChainRequest(stages=(shorter, *stages[1:]), seed=1), tmp_path)
    fresh = make(ChainRequest(stages=(shorter, *stages[1:]), seed=1), tmp_path / "fresh")
    assert again.data == fresh.data
    with Image.open(BytesIO(again.gif_preview or b"")) as gif:
        assert gif.n_frames == 23  # type: ignore[attr-defined]


def test_a_clip_whose_end_was_lost_is_decoded_again(tmp_path: Path) -> None:
    stages = (
        ChainStage(prompt="a red ball", frames=17),
        ChainStage(prompt="a blue ball", frames=17, transition="fade", fade_frames=4),
    )
    whole = make(ChainRequest(stages=stages, seed=1), tmp_path)
    first, second = laid_out(ChainRequest(stages=stages, seed=1), tmp_path).works
    first.files.faded.unlink()
    second.files.video.unlink()
    assert make(ChainRequest(stages=stages, seed=1), tmp_path).data == whole.data


def test_a_renderer_that_makes_too_few_frames_is_found_out(tmp_path: Path) -> None:
    class Short(FlipbookRenderer):
        def decode(self, *arguments: object) -> DecodedClip:  # type: ignore[override]
            video = super().decode(*arguments)  # type: ignore[arg-type]
            return DecodedClip(images=list(video.images)[:-2], sound=video.sound)

    work, following, *_ = laid_out(SMOOTH, tmp_path).works
    for clip in (work, following):
        render_clip(RENDERER, pipeline(), clip, RecordedRun())
    with pytest.raises(InferenceError, match="has 23 frames after its overlap, not 25"):
        encode_clip(Short(), pipeline(), work)
    assert not work.encoded
