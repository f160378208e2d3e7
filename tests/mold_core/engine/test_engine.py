"""The engine: requests in, events and images out."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mold_core import (
    CancelledError,
    DenoiseStep,
    Engine,
    GenerateRequest,
    GenerateResponse,
    InferenceError,
    Info,
    ModelNotFoundError,
    ModelSpec,
    PluginError,
    Queued,
    Settings,
    StageDone,
    StageStart,
    UnknownModelError,
    ValidationError,
)
from mold_core.media.metadata import read_metadata
from mold_core.testing import FakePlugin, Gate, SketchFamily, engine_with, sketch_model
from mold_core.wire.generate import MAX_SEED

WAIT_S = 120.0


def request(prompt: str = "a red house", **fields: Any) -> GenerateRequest:
    return GenerateRequest(prompt=prompt, **{"model": "sketch", "seed": 7, **fields})


def plugin(family: SketchFamily, *names: str, **options: Any) -> FakePlugin:
    return FakePlugin(families=[family], models=[sketch_model(name) for name in names or ("sketch:v1",)], **options)


def opened(response: GenerateResponse, index: int = 0) -> bytes:
    return response.images[index].data


@pytest.fixture
def family() -> SketchFamily:
    return SketchFamily()


@pytest.fixture
def engine(family: SketchFamily) -> Iterator[Engine]:
    with engine_with(plugin(family)) as engine:
        yield engine


# --- results -----------------------------------------------------------------------------------------------------


def test_a_request_gives_a_image_of_the_size_and_format_it_asked_for(engine: Engine) -> None:
    response = engine.generate(request(width=40, height=24, output_format="webp"))
    (made,) = response.images
    image = Image.open(BytesIO(made.data))
    assert (image.format, image.size) == ("WEBP", (40, 24))
    assert (made.format, made.width, made.height, made.index) == ("webp", 40, 24, 0)
    assert (response.model, response.seed_used, response.warnings) == ("sketch:v1", 7, ())
    assert response.generation_time_ms >= 0


def test_the_same_request_gives_the_same_bytes(engine: Engine) -> None:
    assert opened(engine.generate(request())) == opened(engine.generate(request()))


def test_another_seed_or_prompt_gives_another_image(engine: Engine) -> None:
    images = {opened(engine.generate(request(**fields))) for fields in ({}, {"seed": 8}, {"prompt": "a tree"})}
    assert len(images) == 3


def test_a_request_leaves_nothing_behind_for_the_next(engine: Engine) -> None:
    first = opened(engine.generate(request()))
    engine.generate(request("three trees", seed=9, steps=5, width=64, guidance=9.0))
    assert opened(engine.generate(request())) == first


def test_the_seed_that_was_used_is_always_reported(engine: Engine) -> None:
    response = engine.generate(request(seed=None))
    assert opened(engine.generate(request(seed=response.seed_used))) == opened(response)


def test_the_metadata_of_a_image_is_the_completed_request(engine: Engine) -> None:
    job = engine.submit(request(seed=None, width=33, negative_prompt="fog"))
    metadata = read_metadata(opened(job.result(WAIT_S)))
    assert metadata is not None
    for field in ("prompt", "negative_prompt", "model", "seed", "steps", "guidance", "width", "height"):
        assert getattr(metadata, field) == getattr(job.request, field)
    assert (metadata.model, metadata.width) == ("sketch:v1", 32)


def test_a_image_can_be_made_again_from_its_metadata(engine: Engine) -> None:
    first = opened(engine.generate(request(seed=None, steps=3)))
    metadata = read_metadata(first)
    assert metadata is not None
    again = GenerateRequest(
        **{
            name: getattr(metadata, name)
            for name in ("prompt", "model", "seed", "steps", "guidance", "width", "height")
        }
    )
    assert opened(engine.generate(again)) == first


def test_metadata_is_left_out_on_request(engine: Engine) -> None:
    assert read_metadata(opened(engine.generate(request(embed_metadata=False)))) is None


def test_metadata_is_left_out_by_setting_but_a_request_may_ask_for_it(family: SketchFamily) -> None:
    with engine_with(plugin(family), embed_metadata=False) as engine:
        assert read_metadata(opened(engine.generate(request()))) is None
        assert read_metadata(opened(engine.generate(request(embed_metadata=True)))) is not None


def test_without_a_name_the_default_model_is_used(family: SketchFamily) -> None:
    with engine_with(plugin(family, "sketch:v1", "other:v1"), default_model="other") as engine:
        assert engine.generate(GenerateRequest(prompt="a")).model == "other:v1"


def test_adjustments_are_told_in_the_response_and_as_events(engine: Engine) -> None:
    events: list[object] = []
    response = engine.generate(request(width=33, negative_prompt="fog"), events.append)
    expected = ("dimensions adjusted from 33x32 to 32x32", "Sketch has no negative prompt; it is ignored")
    assert response.warnings == expected
    assert [event.message for event in events if isinstance(event, Info)] == list(expected)


# --- several images --------------------------------------------------------------------------------------------


def test_a_batch_counts_its_seeds_up(engine: Engine, family: SketchFamily) -> None:
    response = engine.generate(request(batch_size=3))
    assert [image.index for image in response.images] == [0, 1, 2]
    for index in range(3):
        assert opened(response, index) == opened(engine.generate(request(seed=7 + index)))
    assert response.seed_used == 7
    assert [one.seed for one in family.batches[0]] == [7, 8, 9]


def test_seeds_go_round_at_the_largest(engine: Engine, family: SketchFamily) -> None:
    response = engine.generate(request(batch_size=2, seed=MAX_SEED))
    assert response.seed_used == MAX_SEED
    assert [one.seed for one in family.batches[0]] == [MAX_SEED, 0]


def test_no_more_images_are_computed_together_than_the_setting_allows(family: SketchFamily) -> None:
    events: list[object] = []
    with engine_with(plugin(family), max_batch=2) as engine:
        response = engine.generate(request(batch_size=5), events.append)
    assert [len(batch) for batch in family.batches] == [2, 2, 1]
    assert len(response.images) == 5
    steps = [(event.step, event.total) for event in events if isinstance(event, DenoiseStep)]
    assert steps == [(number, 6) for number in range(1, 7)]


# --- events ------------------------------------------------------------------------------------------------------


def test_events_come_in_the_order_of_the_work(engine: Engine) -> None:
    events: list[object] = []
    engine.generate(request(width=33), events.append)
    assert [type(event) for event in events] == [Info, Queued, Queued, StageStart, StageDone, DenoiseStep, DenoiseStep]
    assert events[1:3] == [Queued(position=1), Queued(position=0)]
    assert events[3] == StageStart(name="Loading sketch:v1")
    steps = [(event.step, event.total) for event in events if isinstance(event, DenoiseStep)]
    assert steps == [(1, 2), (2, 2)]


def test_a_model_that_is_loaded_is_not_loaded_again(engine: Engine, family: SketchFamily) -> None:
    engine.generate(request())
    events: list[object] = []
    engine.generate(request(), events.append)
    assert not any(isinstance(event, StageStart) for event in events)
    assert family.loads == ["sketch:v1"]


def test_a_stream_ends_with_the_response(engine: Engine) -> None:
    *events, last = engine.stream(request())
    assert isinstance(last, GenerateResponse)
    assert opened(last) == opened(engine.generate(request()))
    assert [type(event) for event in events] == [Queued, Queued, StageStart, StageDone, DenoiseStep, DenoiseStep]


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"prompt": " "}, ValidationError),
        ({"width": 0}, ValidationError),
        ({"steps": 0}, ValidationError),
        ({"seed": -1}, ValidationError),
        ({"width": 32.0}, ValidationError),
        ({"source_image": b"x"}, ValidationError),
        ({"output_format": "mp4"}, ValidationError),
        ({"model": "skitch"}, UnknownModelError),
        ({"model": "far:v1"}, ModelNotFoundError),
        ({"model": "orphan:v1"}, PluginError),
    ],
)
def test_what_can_be_told_at_once_is_told_at_once(fields: dict[str, Any], error: type[Exception]) -> None:
    models = [sketch_model(), sketch_model("far:v1", files=["a"]), sketch_model("orphan:v1", family="gone")]
    with engine_with(FakePlugin(families=[SketchFamily()], models=models)) as engine:
        for ask in (engine.submit, engine.generate, lambda request: next(engine.stream(request))):
            with pytest.raises(error):
                ask(request(**fields))
        assert len(engine.queue) == 0


def test_a_model_without_its_family_names_the_family() -> None:
    with (
        engine_with(FakePlugin(models=[sketch_model("a:v1", family="gone")])) as engine,
        pytest.raises(
            PluginError, match="model 'a:v1' needs family 'gone', which no loaded plugin provides; mold plugins"
        ),
    ):
        engine.submit(request(model="a:v1"))


def test_a_family_with_a_fault_fails_the_request_and_not_the_caller() -> None:
    class Faulty(SketchFamily):
        def sizes_of(self, spec: object) -> object:
            raise KeyError("spec")

    with (
        engine_with(plugin(Faulty())) as engine,
        pytest.raises(InferenceError, match="sketch:v1 could not take the request: KeyError: 'spec'"),
    ):
        engine.submit(request())


# --- cancelling --------------------------------------------------------------------------------------------------


@pytest.fixture
def gate(family: SketchFamily) -> Gate:
    family.gate = Gate()
    return family.gate


def test_a_running_job_stops_at_its_next_step(engine: Engine, family: SketchFamily, gate: Gate) -> None:
    job = engine.submit(request(steps=5))
    gate.wait_for_arrival()
    assert (job.state, job.cancel(), job.finished) == ("running", True, True)
    gate.open()
    assert opened(engine.generate(request()))
    steps = [event for event in job.events() if isinstance(event, DenoiseStep)]
    assert len(steps) == 1


def test_a_job_that_waits_is_never_begun(engine: Engine, family: SketchFamily, gate: Gate) -> None:
    first = engine.submit(request("first"))
    gate.wait_for_arrival()
    second = engine.submit(request("second"))
    third = engine.submit(request("third"))
    second.cancel()
    assert [engine.queue.position(job) for job in (second, third)] == [0, 1]
    gate.open()
    first.result(WAIT_S)
    third.result(WAIT_S)
    assert [one.prompt for batch in family.batches for one in batch] == ["first", "third"]


def test_a_reader_cancels_by_answering_no(engine: Engine) -> None:
    seen: list[object] = []

    def read(event: object) -> bool:
        seen.append(event)
        return not isinstance(event, DenoiseStep)

    with pytest.raises(CancelledError):
        engine.generate(request(steps=50), read)
    assert sum(isinstance(event, DenoiseStep) for event in seen) == 1
    assert engine.generate(request()).images


def test_a_reader_that_answers_nothing_goes_on(engine: Engine) -> None:
    assert opened(engine.generate(request(), lambda event: None))


def test_a_reader_that_raises_cancels_the_job(engine: Engine, gate: Gate) -> None:
    def read(event: object) -> None:
        if isinstance(event, DenoiseStep):
            gate.open()
            raise LookupError("the reader broke")

    with pytest.raises(LookupError):
        engine.generate(request(steps=100), read)
    assert engine.generate(request()).images


def test_closing_a_stream_cancels_the_job(engine: Engine, family: SketchFamily, gate: Gate) -> None:
    stream = engine.stream(request(steps=100))
    for event in stream:
        if isinstance(event, DenoiseStep):
            break
    stream.close()  # type: ignore[attr-defined]
    gate.open()
    assert engine.generate(request()).images
    assert len(family.batches) == 2


def test_in_a_batch_the_others_go_on_when_one_is_cancelled(engine: Engine, family: SketchFamily, gate: Gate) -> None:
    blocker = engine.submit(request("blocker"))
    gate.wait_for_arrival()
    jobs = [engine.submit(request(seed=seed)) for seed in (1, 2)]
    blocker.cancel()
    gate.let()
    gate.wait_for_arrival()
    assert len(family.batches[1]) == 2
    jobs[0].cancel()
    gate.open()
    assert opened(jobs[1].result(WAIT_S)) == opened(engine.generate(request(seed=2)))
    assert jobs[0].state == "cancelled"


# --- batching and queueing ---------------------------------------------------------------------------------------


def held(engine: Engine, gate: Gate, *requests: GenerateRequest) -> list[GenerateResponse]:
    """Submit the requests while the engine is busy, so that all are in the queue when it chooses."""
    blocker = engine.submit(request("blocker", steps=1, width=8))
    gate.wait_for_arrival()
    jobs = [engine.submit(one) for one in requests]
    gate.open()
    blocker.result(WAIT_S)
    return [job.result(WAIT_S) for job in jobs]


def test_requests_of_one_shape_run_together_each_with_its_own_seed(
    engine: Engine, family: SketchFamily, gate: Gate
) -> None:
    requests = [request("one", seed=1), request("two", seed=2), request("wide", width=64), request("three", seed=3)]
    together = held(engine, gate, *requests)
    assert [[one.prompt for one in batch] for batch in family.batches[1:]] == [["one", "two", "three"], ["wide"]]
    for one, response in zip(requests, together, strict=True):
        assert opened(engine.generate(one)) == opened(response)
        assert response.seed_used == one.seed


def test_a_family_that_cannot_batch_gets_requests_one_by_one(engine: Engine, family: SketchFamily, gate: Gate) -> None:
    family.batched = False
    held(engine, gate, request("one"), request("two"))
    assert [len(batch) for batch in family.batches] == [1, 1, 1]


def test_a_batch_key_that_raises_costs_only_the_batching(family: SketchFamily) -> None:
    class Faulty(SketchFamily):
        def batch_key(self, spec: object, request: object) -> None:
            raise KeyError("width")

    faulty = Faulty(gate=Gate())
    assert faulty.gate is not None
    with engine_with(plugin(faulty)) as engine:
        assert len(held(engine, faulty.gate, request("one"), request("two"))) == 2
    assert [len(batch) for batch in faulty.batches] == [1, 1, 1]


def test_a_family_limits_what_is_worth_computing_together() -> None:
    class Limited(SketchFamily):
        def batch_limit(self, spec: ModelSpec, request: GenerateRequest, device: str) -> int:
            assert (spec.name, device) == ("sketch:v1", "cpu")
            return 2

    limited = Limited(gate=Gate())
    assert limited.gate is not None
    with engine_with(plugin(limited)) as engine:
        held(engine, limited.gate, *(request(str(number)) for number in range(3)), request("many", batch_size=5))
    batches = [[one.prompt for one in batch] for batch in limited.batches[1:]]
    assert batches == [["0", "1"], ["2"], ["many", "many"], ["many", "many"], ["many"]]


def test_a_batch_limit_that_raises_or_is_zero_does_no_harm(family: SketchFamily) -> None:
    class Faulty(SketchFamily):
        def batch_limit(self, spec: ModelSpec, request: GenerateRequest, device: str) -> int:
            if request.prompt == "zero":
                return 0
            raise KeyError("width")

    faulty = Faulty(gate=Gate())
    assert faulty.gate is not None
    with engine_with(plugin(faulty)) as engine:
        held(engine, faulty.gate, request("one"), request("two"))
        assert len(engine.generate(request("zero", batch_size=2)).images) == 2
    assert [len(batch) for batch in faulty.batches] == [1, 2, 1, 1]


def test_requests_for_the_loaded_model_go_first(family: SketchFamily) -> None:
    family.gate = Gate()
    with engine_with(plugin(family, "a:v1", "b:v1")) as engine:
        blocker = engine.submit(request("blocker", model="a:v1", width=8))
        family.gate.wait_for_arrival()
        jobs = [engine.submit(request(model=model)) for model in ("b:v1", "a:v1", "b:v1", "a:v1")]
        family.gate.open()
        for job in (blocker, *jobs):
            job.result(WAIT_S)
    assert [batch[0].model for batch in family.batches] == ["a:v1", "a:v1", "b:v1"]


def test_a_full_queue_refuses_and_then_takes_again(family: SketchFamily) -> None:
    family.gate = Gate()
    with engine_with(plugin(family), queue_size=1) as engine:
        running = engine.submit(request())
        family.gate.wait_for_arrival()
        waiting = engine.submit(request())
        with pytest.raises(Exception, match=r"generation queue is full \(1/1\)"):
            engine.submit(request())
        waiting.cancel()
        again = engine.submit(request())
        family.gate.open()
        assert running.result(WAIT_S).images
        assert again.result(WAIT_S).images


# --- faults of plugins -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyError("x"), SystemExit(3)])
def test_a_pipeline_that_raises_fails_its_job_and_the_engine_goes_on(
    engine: Engine, family: SketchFamily, error: BaseException
) -> None:
    family.error = error
    with pytest.raises(InferenceError, match=f"sketch:v1 failed while generating: {type(error).__name__}") as caught:
        engine.generate(request())
    assert caught.value.__cause__ is error
    family.error = None
    assert engine.generate(request()).images


def test_an_error_of_molds_own_keeps_its_class(engine: Engine, family: SketchFamily) -> None:
    family.error = ValidationError("this prompt cannot be drawn", field="prompt")
    with pytest.raises(ValidationError, match="this prompt cannot be drawn"):
        engine.generate(request())


def test_a_model_that_cannot_be_loaded_fails_its_jobs_and_is_tried_again(family: SketchFamily) -> None:
    family.load_error = OSError("disk on fire")
    with engine_with(plugin(family)) as engine:
        with pytest.raises(InferenceError, match="sketch:v1 could not be loaded: OSError: disk on fire"):
            engine.generate(request())
        family.load_error = None
        assert engine.generate(request()).images
    assert family.loads == ["sketch:v1"] * 2


def test_a_faulty_request_does_not_cost_its_batch_mates_their_images(
    engine: Engine, family: SketchFamily, gate: Gate
) -> None:
    family.error, family.error_for, family.error_at = RuntimeError("boom"), "cursed", 2
    blocker = engine.submit(request("blocker", steps=1))
    gate.wait_for_arrival()
    good, bad, fine = (engine.submit(request(prompt)) for prompt in ("a tree", "a cursed tree", "a house"))
    gate.open()
    blocker.result(WAIT_S)
    with pytest.raises(InferenceError, match="boom"):
        bad.result(WAIT_S)
    assert opened(good.result(WAIT_S)) == opened(engine.generate(request("a tree")))
    assert opened(fine.result(WAIT_S)) == opened(engine.generate(request("a house")))
    assert len(family.batches[1]) == 3


def test_a_pipeline_that_returns_too_few_results_is_blamed() -> None:
    class Lazy(SketchFamily):
        def load(self, *arguments: Any) -> Any:
            pipeline = super().load(*arguments)
            pipeline_class = type("Pipeline", (), {"size_bytes": 0, "close": pipeline.close})
            pipeline_class.generate = lambda self, requests, run: []  # type: ignore[attr-defined]
            return pipeline_class()

    with (
        engine_with(plugin(Lazy())) as engine,
        pytest.raises(InferenceError, match="family 'sketch' returned 0 results for 1 requests"),
    ):
        engine.generate(request())


def test_a_model_too_large_for_the_budget_is_refused_with_the_way_out(family: SketchFamily) -> None:
    family.size_bytes = 2_000_000_000
    with (
        engine_with(plugin(family), memory_budget_gb=1.5) as engine,
        pytest.raises(Exception, match=r"model 'sketch:v1' needs 2\.0 GB and the budget is 1\.5 GB; use a smaller tag"),
    ):
        engine.generate(request())
    assert family.closes == ["sketch:v1"]


# --- models and memory -------------------------------------------------------------------------------------------


def test_models_stay_in_memory_while_they_fit(family: SketchFamily) -> None:
    family.size_bytes = 600_000_000
    with engine_with(plugin(family, "a:v1", "b:v1", "c:v1"), memory_budget_gb=1.5) as engine:
        for model in ("a", "b", "a", "c"):
            engine.generate(request(model=model))
        assert engine.loaded() == {"a:v1", "c:v1"}
        assert family.loads == ["a:v1", "b:v1", "c:v1"]
    assert family.closes == ["b:v1", "a:v1", "c:v1"]


def test_models_are_listed_with_what_is_known_of_them(family: SketchFamily, tmp_path: Path) -> None:
    models = [sketch_model(), sketch_model("far:v1", files=["a"]), sketch_model("orphan:v1", family="gone")]
    with engine_with(FakePlugin(families=[family], models=models)) as engine:
        engine.generate(request())
        states = {entry.spec.name: (entry.downloaded, entry.loaded, entry.runnable) for entry in engine.models()}
    assert states == {
        "sketch:v1": (True, True, True),
        "far:v1": (False, False, True),
        "orphan:v1": (True, False, False),
    }


def test_files_of_a_model_are_found_in_the_models_folder(home: Path, family: SketchFamily) -> None:
    models = [sketch_model("far:v1", files=["far/weights"])]
    with engine_with(FakePlugin(families=[family], models=models), home=home) as engine:
        (home / "models" / "far").mkdir(parents=True)
        (home / "models" / "far" / "weights").write_bytes(b"12345")
        assert engine.generate(request(model="far")).model == "far:v1"


# --- life --------------------------------------------------------------------------------------------------------


def test_many_threads_share_one_engine(engine: Engine) -> None:
    expected = [opened(engine.generate(request(seed=seed))) for seed in range(12)]
    got: dict[int, bytes] = {}

    def ask(seed: int) -> None:
        got[seed] = opened(engine.generate(request(seed=seed)))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert [got[seed] for seed in range(12)] == expected


def test_closing_cancels_what_runs_and_what_waits_and_frees_models(family: SketchFamily) -> None:
    family.gate = Gate()
    with engine_with(plugin(family)) as engine:
        running = engine.submit(request(steps=100))
        family.gate.wait_for_arrival()
        waiting = engine.submit(request())
        threading.Timer(0.01, family.gate.open).start()
        engine.close()
        assert (running.state, waiting.state) == ("cancelled", "cancelled")
        assert str(running.error) == str(waiting.error) == "the engine was closed"
        assert engine.loaded() == frozenset()
    assert family.closes == ["sketch:v1"]


def test_a_closed_engine_takes_no_requests(engine: Engine) -> None:
    engine.generate(request())
    engine.close()
    engine.close()
    with pytest.raises(InferenceError, match="the engine was closed"):
        engine.submit(request())


def test_an_engine_that_did_nothing_can_be_closed(engine: Engine) -> None:
    engine.close()
    assert not engine.busy
    assert engine.loaded() == frozenset()


def test_an_engine_closes_at_the_end_of_its_block(family: SketchFamily, home: Path) -> None:
    from mold_core import load_plugins

    with Engine(Settings(home=home, device="cpu"), load_plugins(found=(), extra=[("mine", plugin(family))])) as engine:
        engine.generate(request())
    assert family.closes == ["sketch:v1"]


def test_a_finished_job_may_close_the_engine(family: SketchFamily) -> None:
    closed = threading.Event()

    def close(job: object) -> None:
        engines[0].close()
        closed.set()

    engines: list[Engine] = []
    with engine_with(plugin(family, on_finished=close)) as engine:
        engines.append(engine)
        engine.generate(request())
        assert closed.wait(WAIT_S)


# --- plugins hear of finished jobs -------------------------------------------------------------------------------


def test_plugins_hear_once_of_every_job_however_it_ends(family: SketchFamily) -> None:
    heard: list[tuple[str, str]] = []
    family.gate = Gate()
    family.error, family.error_for = RuntimeError("boom"), "cursed"
    with engine_with(plugin(family, on_finished=lambda job: heard.append((job.request.prompt, job.state)))) as engine:
        stopped = engine.submit(request("stopped", steps=9))
        family.gate.wait_for_arrival()
        waiting = engine.submit(request("never begun"))
        waiting.cancel()
        stopped.cancel()
        family.gate.open()
        engine.generate(request("done"))
        with pytest.raises(InferenceError):
            engine.generate(request("cursed"))
    assert sorted(heard) == [
        ("cursed", "failed"),
        ("done", "done"),
        ("never begun", "cancelled"),
        ("stopped", "cancelled"),
    ]


def test_a_plugin_that_fails_to_hear_harms_nobody(family: SketchFamily, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[object] = []
    broken = FakePlugin(on_finished=lambda job: 1 / 0)
    with engine_with(plugin(family), broken, FakePlugin(on_finished=heard.append)) as engine:
        engine.generate(request())
        engine.generate(request())
    assert len(heard) == 2
    assert "mold_job_finished of plugin plugin-1 failed: division by zero" in caplog.text


def test_a_slow_plugin_keeps_no_job_waiting(family: SketchFamily) -> None:
    slow = threading.Event()
    with engine_with(plugin(family, on_finished=lambda job: slow.wait(WAIT_S))) as engine:
        assert engine.generate(request()).images
        assert engine.generate(request()).images
        slow.set()
