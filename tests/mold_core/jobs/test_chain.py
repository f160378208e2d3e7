"""Chains through the engine: events, the video, what is refused, and going on after a stop."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest

from mold_core import (
    CancelledError,
    ChainError,
    ChainRequest,
    ChainResponse,
    ChainStage,
    Engine,
    GenerateRequest,
    InferenceError,
    Info,
    LoraWeight,
    ModelFile,
    UnknownModelError,
    ValidationError,
)
from mold_core.catalog import LocalFiles, ModelSpec
from mold_core.hookspecs import LoadContext, Pipeline
from mold_core.jobs.queue import JobQueue
from mold_core.media import read_metadata
from mold_core.media.video import decode_frames, read_video_metadata
from mold_core.testing import (
    FakePlugin,
    FlipbookFamily,
    FlipbookRenderer,
    Gate,
    SketchFamily,
    ball_at,
    engine_with,
    flipbook_model,
    sketch_model,
)
from mold_core.wire.events import event_to_json
from mold_core.wire.generate import OutputFormat

VIDEO = ChainRequest(model="flipbook", prompt="a red ball", total_frames=40, clip_frames=17, seed=3)


def plugin(family: FlipbookFamily) -> FakePlugin:
    return FakePlugin(
        families=[family, SketchFamily()],
        models=[flipbook_model(), flipbook_model("flipbook-single:v1", chains=False), sketch_model()],
        chain_renderers=[FlipbookRenderer()],
    )


@pytest.fixture
def family() -> FlipbookFamily:
    return FlipbookFamily()


@pytest.fixture
def engine(family: FlipbookFamily) -> Iterator[Engine]:
    with engine_with(plugin(family)) as engine:
        yield engine


def stages(*prompts: str, **fields: Any) -> tuple[ChainStage, ...]:
    return tuple(ChainStage(prompt=prompt, frames=17, **fields) for prompt in prompts)


def frames(response: ChainResponse) -> int:
    return sum(1 for _ in decode_frames(BytesIO(response.video.data)))


def test_a_chain_gives_the_frames_that_were_asked_for(engine: Engine) -> None:
    response = engine.chain(VIDEO)
    assert frames(response) == response.video.frames == 40
    assert (response.stage_count, response.model, response.seed_used) == (4, "flipbook:v1", 3)
    assert response.video.has_audio


def test_events_come_in_the_order_of_the_page(engine: Engine) -> None:
    events: list[dict[str, object]] = []
    engine.chain(VIDEO, lambda event: events.append(event_to_json(event)))
    told = [event for event in events if event["type"] not in ("queued", "info")]
    clip = [("stage_start", None), ("denoise_step", 1), ("denoise_step", 2), ("stage_done", None)]
    assert told[0] == {"type": "chain_start", "stage_count": 4, "estimated_total_frames": 41}
    assert [(event["type"], event["stage_idx"], event.get("step")) for event in told[1:-1]] == [
        (kind, index, step) for index in range(4) for kind, step in clip
    ]
    assert [event["frames_emitted"] for event in told if event["type"] == "stage_done"] == [17, 8, 8, 8]
    assert told[-1] == {"type": "stitching", "total_frames": 40}


def test_the_file_says_what_it_was_made_from(engine: Engine) -> None:
    metadata = read_video_metadata(BytesIO(engine.chain(VIDEO).video.data))
    assert metadata is not None
    assert (metadata.prompt, metadata.seed, metadata.frames, metadata.fps) == ("a red ball", 3, 40, 24)


@pytest.mark.parametrize("format", ["gif", "apng", "webp"])
def test_files_of_other_formats_say_it_too(engine: Engine, format: OutputFormat) -> None:
    metadata = read_metadata(engine.chain(attrs.evolve(VIDEO, output_format=format)).video.data)
    assert metadata is not None
    assert (metadata.prompt, metadata.seed, metadata.frames, metadata.fps) == ("a red ball", 3, 40, 24)
    quiet = attrs.evolve(VIDEO, output_format=format, embed_metadata=False)
    assert read_metadata(engine.chain(quiet).video.data) is None


def test_the_same_seed_gives_the_same_video_and_a_new_one_another(engine: Engine, family: FlipbookFamily) -> None:
    first = engine.chain(VIDEO)
    with engine_with(plugin(family)) as other:
        assert other.chain(VIDEO).video.data == first.video.data
        assert other.chain(attrs.evolve(VIDEO, seed=4)).video.data != first.video.data


def test_a_seed_that_was_not_given_is_reported_and_gives_the_video_again(engine: Engine) -> None:
    first = engine.chain(attrs.evolve(VIDEO, seed=None))
    assert engine.chain(attrs.evolve(VIDEO, seed=first.seed_used)).video.data == first.video.data


def test_a_finished_chain_is_not_rendered_again(engine: Engine, family: FlipbookFamily) -> None:
    first = engine.chain(VIDEO)
    family.clips.clear()
    events: list[object] = []
    assert engine.chain(VIDEO, events.append).video.data == first.video.data
    assert family.clips == []
    assert Info(message="going on after 4 of 4 stages") in events


def test_a_failed_stage_names_itself_and_the_next_try_goes_on_from_it(engine: Engine, family: FlipbookFamily) -> None:
    request = ChainRequest(model="flipbook", stages=stages("a red ball", "a broken ball", "a blue ball"), seed=1)
    family.error = RuntimeError("no more paper")
    with pytest.raises(ChainError, match=r"stage 1 of 3 failed: .*no more paper.* 1 finished stages are kept.*resume"):
        engine.chain(request)
    family.error = None
    family.clips.clear()
    assert engine.chain(request).stage_count == 3
    assert [clip.prompt for clip in family.clips] == ["a broken ball", "a blue ball"]


def test_a_first_stage_that_fails_keeps_nothing(engine: Engine, family: FlipbookFamily) -> None:
    family.error = RuntimeError("no paper")
    with pytest.raises(ChainError) as caught:
        engine.chain(ChainRequest(model="flipbook", stages=stages("broken"), seed=1))
    assert "kept" not in str(caught.value)
    assert isinstance(caught.value.__cause__, InferenceError)


def test_a_cancelled_chain_stops_at_the_next_step_and_goes_on_later(engine: Engine, family: FlipbookFamily) -> None:
    family.gate = gate = Gate()
    job = engine.submit(VIDEO)
    gate.let(2)
    for _ in range(3):
        gate.wait_for_arrival()  # the first step of the second clip
    job.cancel()
    gate.open()
    with pytest.raises(CancelledError):
        job.result()
    family.gate = None
    family.clips.clear()
    assert frames(engine.chain(VIDEO)) == 40
    assert len(family.clips) == 3


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (attrs.evolve(VIDEO, model="sketch"), "sketch:v1 cannot make chains: its family sketch has no chain renderer"),
        (attrs.evolve(VIDEO, model="flipbook-single"), "generates single clips only"),
        (attrs.evolve(VIDEO, clip_frames=16), "8n\\+1"),
        (attrs.evolve(VIDEO, motion_tail_frames=-1), "motion_tail_frames must be from 0"),
    ],
)
def test_what_cannot_be_chained_is_refused_at_once(engine: Engine, request_: ChainRequest, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        engine.submit(request_)


def test_a_second_family_makes_chains_of_its_own_stride() -> None:
    class Renderer(FlipbookRenderer):
        family, frame_stride, default_clip_frames = "zoetrope", 4, 21

    family = FlipbookFamily(name="zoetrope")
    both = FakePlugin(
        families=[FlipbookFamily(), family],
        models=[flipbook_model(), flipbook_model("zoetrope:v1", family="zoetrope")],
        chain_renderers=[FlipbookRenderer(), Renderer()],
    )
    with engine_with(both) as engine:
        response = engine.chain(ChainRequest(model="zoetrope", prompt="a red ball", total_frames=40, seed=3))
        assert (frames(response), response.stage_count) == (40, 3)
        assert [clip.frames for clip in family.clips] == [21, 21, 21]
        balls = [ball_at(image)[0] for image in decode_frames(BytesIO(response.video.data))]
        assert max(abs(b - a) for a, b in pairwise(balls)) < 4
        with pytest.raises(ValidationError, match=r"4n\+1"):
            engine.chain(attrs.evolve(VIDEO, model="zoetrope", clip_frames=18))
        with pytest.raises(ValidationError, match=r"8n\+1"):
            engine.chain(attrs.evolve(VIDEO, clip_frames=21))


def test_an_unknown_model_is_one(engine: Engine) -> None:
    with pytest.raises(UnknownModelError):
        engine.submit(attrs.evolve(VIDEO, model="flipbock"))


def test_clips_are_kept_for_as_long_as_the_setting_says(family: FlipbookFamily, tmp_path: Path) -> None:
    with engine_with(plugin(family), home=tmp_path, chain_retention_h=0) as engine:
        engine.chain(VIDEO)
        kept = set((tmp_path / "chains" / "clips").iterdir())
        assert kept
        engine.chain(attrs.evolve(VIDEO, seed=9))
        assert not kept & set((tmp_path / "chains" / "clips").iterdir())


def test_clips_that_a_chain_goes_on_from_count_as_used(family: FlipbookFamily, tmp_path: Path) -> None:
    clips = tmp_path / "chains" / "clips"
    with engine_with(plugin(family), home=tmp_path, chain_retention_h=1) as engine:
        first = engine.chain(VIDEO)
        kept = set(clips.iterdir())
        for path in kept:
            os.utime(path, (time.time() - 7200,) * 2)
        family.clips.clear()
        assert engine.chain(VIDEO).video.data == first.video.data
        assert family.clips == []
        engine.chain(attrs.evolve(VIDEO, seed=9))
        assert kept <= set(clips.iterdir())


@pytest.mark.parametrize("changed", ["models/weights.bin", "bright.safetensors"])
def test_other_weights_under_the_same_name_make_other_clips(
    family: FlipbookFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    spec = attrs.evolve(flipbook_model(), files=(ModelFile(component="weights", path="weights.bin"),))
    for name in ("models/weights.bin", "bright.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"old")
    video = attrs.evolve(VIDEO, loras=(LoraWeight(path=str(tmp_path / "bright.safetensors")),))
    family.capabilities = family.capabilities | {"lora"}
    made = FakePlugin(families=[family], models=[spec], chain_renderers=[FlipbookRenderer()])
    loads: list[bytes] = []
    load = FlipbookFamily.load

    def watched(self: FlipbookFamily, spec: ModelSpec, files: LocalFiles, context: LoadContext) -> Pipeline:
        loads.append(files.one("weights").read_bytes())
        return load(self, spec, files, context)

    monkeypatch.setattr(FlipbookFamily, "load", watched)
    with engine_with(made, home=tmp_path) as engine:
        engine.chain(video)
        engine.chain(video)
        assert len(family.clips) == 4
        (tmp_path / changed).write_bytes(b"newer")
        engine.chain(video)
        assert len(family.clips) == 8
    assert loads == ([b"old", b"newer"] if changed.startswith("models") else [b"old"])


def test_a_chain_that_is_whole_needs_no_model(
    family: FlipbookFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine_with(plugin(family), home=tmp_path) as engine:
        first = engine.chain(VIDEO)
    monkeypatch.setattr(FlipbookFamily, "load", lambda *_: pytest.fail("the model was loaded"))
    with engine_with(plugin(FlipbookFamily()), home=tmp_path) as engine:
        assert engine.chain(VIDEO).video.data == first.video.data


def test_nobody_is_waited_for_between_clips(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    take = JobQueue.take

    def watched(self: JobQueue, *given: Any, **options: Any) -> Any:
        asked.append(options["made_together"])
        return take(self, *given, **options)

    monkeypatch.setattr(JobQueue, "take", watched)
    engine.chain(VIDEO)
    assert len(asked) > 4
    assert set(asked) == {0}


def test_on_a_processor_clips_are_decoded_between_two_that_are_rendered() -> None:
    done: list[tuple[str, int]] = []

    class Watched(FlipbookRenderer):
        def render(self, *arguments: Any) -> Any:
            done.append(("render", threading.get_ident()))
            return super().render(*arguments)

        def decode(self, *arguments: Any) -> Any:
            done.append(("decode", threading.get_ident()))
            return super().decode(*arguments)

    watched = FakePlugin(families=[FlipbookFamily()], models=[flipbook_model()], chain_renderers=[Watched()])
    with engine_with(watched) as engine:
        engine.chain(VIDEO)
    assert len({thread for _, thread in done}) == 1
    order = ["render", "render", "decode", "render", "decode", "render", "decode", "decode"]
    assert [verb for verb, _ in done] == order


class Stumbling(FlipbookRenderer):
    """Cannot decode a clip so many times."""

    def __init__(self, failures: int, error: BaseException | None = None) -> None:
        self.left = failures
        self.error = error or RuntimeError("no memory")

    def decode(self, *arguments: Any) -> Any:
        if self.left and arguments[2] is not None:  # the first clip comes after nothing
            self.left -= 1
            raise self.error
        return super().decode(*arguments)


def test_a_clip_that_cannot_be_decoded_beside_another_is_tried_again_by_itself() -> None:
    stumbling = FakePlugin(families=[FlipbookFamily()], models=[flipbook_model()], chain_renderers=[Stumbling(1)])
    with engine_with(stumbling) as engine:
        assert frames(engine.chain(VIDEO)) == 40


def test_a_renderer_that_gives_up_altogether_fails_its_chain_only() -> None:
    renderer = Stumbling(99, SystemExit("bad plugin"))
    stumbling = FakePlugin(families=[FlipbookFamily()], models=[flipbook_model()], chain_renderers=[renderer])
    with engine_with(stumbling) as engine:
        with pytest.raises(ChainError, match=r"stage 1 of 4 failed.*bad plugin"):
            engine.chain(VIDEO)
        renderer.left = 0
        assert frames(engine.chain(VIDEO)) == 40


def test_a_clip_that_cannot_be_decoded_is_the_one_that_is_named(family: FlipbookFamily) -> None:
    stumbling = FakePlugin(families=[family], models=[flipbook_model()], chain_renderers=[Stumbling(99)])
    with engine_with(stumbling) as engine, pytest.raises(ChainError, match=r"stage 1 of 4 failed.*no memory") as caught:
        engine.chain(VIDEO)
    assert "4 finished stages are kept" in str(caught.value)
    assert len(family.clips) == 4  # the last one was under way


def test_images_get_their_turn_between_two_clips(engine: Engine, family: FlipbookFamily) -> None:
    family.gate = gate = Gate()
    chain = engine.submit(VIDEO)
    gate.wait_for_arrival()  # the first clip is under way
    image = engine.submit(GenerateRequest(prompt="a", model="sketch", seed=1))
    other = engine.submit(GenerateRequest(prompt="b", model="sketch", seed=1, steps=3))
    gate.let(2)
    image.result(20)
    assert (chain.state, chain.position) == ("running", 0)
    gate.let(2)
    other.result(20)
    assert len(family.clips) <= 3  # the next clip had its turn between the two images
    gate.open()
    assert chain.result(20).stage_count == 4
    ran = [clip.frames for clip in family.clips]
    assert ran == [17, 17, 17, 17]


def test_a_chain_is_not_kept_waiting_by_images_that_keep_coming(engine: Engine) -> None:
    engine.pause()
    chain = engine.submit(VIDEO)
    images = [
        engine.submit(GenerateRequest(prompt="a", model="sketch", seed=1, steps=1 + index % 20)) for index in range(40)
    ]
    engine.resume()
    chain.result(30)
    assert chain.finished_at is not None
    later = [job for job in images if (job.finished_at or chain.finished_at + 1) > chain.finished_at]
    assert len(later) >= 20


def test_waiting_between_clips_is_no_event(engine: Engine) -> None:
    events: list[dict[str, object]] = []
    engine.submit(GenerateRequest(prompt="a", model="sketch", seed=1))
    engine.chain(VIDEO, lambda event: events.append(event_to_json(event)))
    kinds = [event["type"] for event in events]
    assert "queued" not in kinds[kinds.index("chain_start") :]


def test_a_chain_that_waits_between_clips_can_be_cancelled(engine: Engine, family: FlipbookFamily) -> None:
    family.gate = gate = Gate()
    chain = engine.submit(VIDEO)
    gate.wait_for_arrival()
    engine.pause()
    gate.open()
    deadline = time.monotonic() + 120
    while not list((engine.settings.home / "chains" / "clips").glob("*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.01)
    chain.cancel()
    engine.resume()
    engine.generate(GenerateRequest(prompt="a", model="sketch", seed=1))
    assert len(family.clips) == 1
