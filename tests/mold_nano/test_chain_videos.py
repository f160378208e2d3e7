"""What ltx2-nano shows and lets hear, judged by a tracker and a listener: a test that noise or another clip fails."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from random import Random

import av
import numpy as np
import pytest
from clips import FPS, Clip, begun, caption, frames, random_clip, sound
from listener import fits
from PIL import Image
from tracker import Seen, agrees, see

from mold_core import ChainRequest, Engine, GenerateRequest, Settings
from mold_core.media.metadata import OutputMetadata
from mold_core.media.video import probe_video
from mold_core.wire import DenoiseStep, Info

NANO = "ltx2-nano:bf16"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(Settings(device="cpu", home=tmp_path_factory.mktemp("videos"))) as engine:
        yield engine


def watched(data: bytes) -> Seen:
    with av.open(BytesIO(data)) as container:
        return see([frame.to_image() for frame in container.decode(video=0)])


def heard(data: bytes) -> tuple[np.ndarray, int]:
    with av.open(BytesIO(data)) as container:
        rate = container.streams.audio[0].rate
        return np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1), rate


def made(engine: Engine, prompt: str, **fields: object) -> bytes:
    answer = engine.generate(GenerateRequest(prompt=prompt, model=NANO, **fields))  # type: ignore[arg-type]
    assert answer.video is not None
    return answer.video.data


@pytest.mark.parametrize(
    ("prompt", "kind", "colour", "motion", "time"),
    [
        ("a red ball bouncing left to right", "ball", "red", "right", "day"),
        ("a yellow ball bouncing up and down", "ball", "yellow", "bounce", "day"),
        ("a red boat sailing right to left", "boat", "red", "left", "day"),
        ("a yellow balloon rising over the sea at sunset", "balloon", "yellow", "up", "sunset"),
    ],
)
def test_one_sees_what_moves_where(engine: Engine, prompt: str, kind: str, colour: str, motion: str, time: str) -> None:
    seen = [watched(made(engine, prompt, seed=seed)) for seed in range(1, 4)]
    right = [(s.kind, s.colour, s.motion, s.time) == (kind, colour, motion, time) for s in seen]
    assert sum(right) >= 2


@pytest.mark.soak
def test_many_captions_come_out_right_and_are_heard(engine: Engine) -> None:
    rng = Random(80)
    clips = [begun(random_clip(rng), rng) for _ in range(10)]
    seen_right = heard_right = 0
    for clip in clips:
        data = made(engine, caption(clip, rng), seed=rng.getrandbits(31))
        seen = watched(data)
        samples, rate = heard(data)
        seen_right += all(agrees(seen, clip).values())
        heard_right += fits(seen.kind, seen.track, FPS, samples, rate)
    assert seen_right >= 4
    assert heard_right >= 4


def test_sound_is_as_long_as_the_images(engine: Engine) -> None:
    data = made(engine, "a red ball bouncing", frames=25, seed=1)
    info = probe_video(BytesIO(data))
    samples, rate = heard(data)
    assert info.frames == 25
    assert abs(samples.shape[1] / rate - 25 / FPS) <= 1 / FPS
    assert np.abs(samples).max() > 0.05


def test_steps_of_a_model_that_has_its_own_are_told_to_be_ignored(engine: Engine) -> None:
    job = engine.submit(GenerateRequest(prompt="a red ball", model=NANO, frames=9, steps=3, seed=1))
    video = job.result(timeout_s=300).video
    assert job.warnings == (f"{NANO} always takes 8 steps; 3 is ignored",)
    assert any(isinstance(event, Info) and event.message == job.warnings[0] for event in job.events())
    with av.open(BytesIO(video.data)) as container:
        metadata = OutputMetadata.from_json(container.metadata["mold:parameters"])
    assert metadata.steps == sum(isinstance(event, DenoiseStep) for event in job.events()) == 8
    assert engine.submit(GenerateRequest(prompt="a red ball", model=NANO, frames=9, seed=1)).warnings == ()


def test_a_clip_begins_with_its_source_image(engine: Engine) -> None:
    clip = Clip(kind="boat", colour="green", motion="left", place="sea", start=0.7)
    image = Image.fromarray(frames(clip, 1, 64, 64)[0])
    kept = BytesIO()
    image.save(kept, "PNG")
    data = made(engine, "a green boat sailing to the left", source_image=kept.getvalue(), strength=1.0, seed=2)
    seen = watched(data)
    assert (seen.kind, seen.colour, seen.motion) == ("boat", "green", "left")
    assert abs(seen.track[0, 0] - 0.7) < 0.06


def test_a_chain_goes_on_across_its_seams(engine: Engine) -> None:
    """Without a tail the second clip begins again, which the same measure has to notice."""
    jumps = {}
    for tail in (4, 0):
        request = ChainRequest(
            model=NANO, prompt="a red boat sailing left to right", total_frames=49 if tail else 66,
            clip_frames=33 if tail == 0 else 29 - 4, motion_tail_frames=tail, seed=5,
        )  # fmt: skip
        seam = request.clip_frames
        track = watched(engine.chain(request).video.data).track
        jumps[tail] = float(np.abs(track[seam] - 2 * track[seam - 1] + track[seam - 2]).max())
    assert jumps[4] < 0.05 < jumps[0]


def test_the_judges_tell_true_clips_from_others() -> None:
    rng = Random(81)
    for index in range(8):
        clip, another = begun(random_clip(rng), rng), begun(random_clip(rng), rng)
        shown = see([Image.fromarray(frame) for frame in frames(clip, 33, 64, 64)])
        assert all(agrees(shown, clip).values())
        assert fits(clip.kind, shown.track, FPS, sound(clip, 33 / FPS, Random(index), 64, 64)[:, ::2], 24_000)
        if another.kind != clip.kind:
            assert not all(agrees(shown, another).values())
