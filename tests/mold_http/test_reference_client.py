"""What the types of the client in Rust, and its newest routes, need of the server."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from http_server import Server, events, read_until, serving
from inside_server import InsideServer, serving_inside
from PIL import Image

from mold_core.media import encode_image
from mold_core.media.video import probe_video
from mold_core.testing import (
    FakePlugin,
    FlipbookFamily,
    FlipbookRenderer,
    Gate,
    SketchFamily,
    flipbook_model,
    sketch_model,
)
from mold_http.server_events import ServerEventSource

SKETCH, FLIPBOOK = SketchFamily(batched=False), FlipbookFamily()
PLUGIN = FakePlugin(
    families=[SKETCH, FLIPBOOK],
    models=[sketch_model(), flipbook_model()],
    chain_renderers=[FlipbookRenderer()],
)
CHAIN = {"model": "flipbook", "prompt": "a red ball", "total_frames": 24, "clip_frames": 17, "seed": 3}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for the client in Rust, with the installed plugins."""
    with serving(tmp_path_factory.mktemp("reference") / "home", MOLD_COMPAT="reference") as running:
        yield running


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InsideServer]:
    with serving_inside(tmp_path_factory.mktemp("inside") / "home", PLUGIN, default_model="sketch") as running:
        yield running


def asking(inside: InsideServer) -> Server:
    return Server(inside.port, Path(), None)  # type: ignore[arg-type]


def test_every_row_of_the_models_has_numbers(reference: Server) -> None:
    models = reference.ask("GET", "/api/models").json()
    defaults = ("default_steps", "default_guidance", "default_width", "default_height")
    for model in models:
        assert all(isinstance(model[name], int | float) for name in defaults), model
    upscaler = next(model for model in models if model["family"] == "upscaler")
    assert [upscaler[name] for name in defaults] == [0, 0, 0, 0]
    assert {model["size_gb"] for model in models if model["name"] == "flux-nano:bf16"} == {0.01}


def test_components_are_listed_when_they_are_asked_for(reference: Server) -> None:
    names = {model["name"] for model in reference.ask("GET", "/api/models").json()}
    everything = reference.ask("GET", "/api/models?kind=all").json()
    components = {model["name"] for model in everything if "part_of" in model}
    assert components and not components & names
    assert {model["name"] for model in everything} == components | names
    assert reference.ask("GET", "/api/models?kind=some").status == 422


def test_a_fresh_installation_expands_for_any_family(reference: Server) -> None:
    body = {"prompt": "a cat", "model_family": "flux", "variations": 3, "seed": 1}
    answer = reference.ask("POST", "/api/expand", body)
    assert answer.status == 200, answer
    assert len(set(answer.json()["expanded"])) == 3
    (warning,) = answer.json()["warnings"]
    assert "flux-nano:bf16" in warning
    assert reference.ask("POST", "/api/expand", {**body, "model_family": "sdxl"}).status == 200
    assert "warnings" not in reference.ask("POST", "/api/expand", {"prompt": "a cat"}).json()
    assert reference.ask("POST", "/api/expand", {"prompt": "a cat", "model": "flux-dev"}).status == 422


def test_upscaled_images_come_as_json_for_the_reference_alone(reference: Server, server: Server) -> None:
    file = BytesIO()
    Image.new("RGB", (32, 32), "red").save(file, "PNG")
    body = {"model": "esrgan-nano-x4", "image": base64.b64encode(file.getvalue()).decode()}
    answer = reference.ask("POST", "/api/upscale", body, Accept="*/*").json()
    assert (answer["scale_factor"], answer["original_width"], answer["image"]["width"]) == (4, 32, 128)
    assert server.ask("POST", "/api/upscale", body, Accept="*/*").type == "image/png"


def test_a_chain_has_its_script_and_its_data_as_numbers(tmp_path: Path, inside: InsideServer) -> None:
    body = asking(inside).ask("POST", "/api/generate/chain", CHAIN).json()
    script = body["script"]
    assert (script["schema"], script["chain"]["model"], script["chain"]["seed"]) == ("mold.chain.v1", "flipbook:v1", 3)
    assert [stage["frames"] for stage in script["stage"]] == [17, 17]
    stream = asking(inside).ask("POST", "/api/generate/chain/stream", CHAIN)
    (complete,) = [data for name, data in events(stream.body) if name == "complete"]
    assert complete["script"] == script
    with serving_inside(tmp_path / "home", PLUGIN, compat="reference") as other:
        numbers = asking(other).ask("POST", "/api/generate/chain", CHAIN).json()["video"]["data"]
    assert probe_video(BytesIO(bytes(numbers))).frames == 24


def test_a_chain_is_validated_without_being_generated(inside: InsideServer) -> None:
    FLIPBOOK.clips.clear()
    answer = asking(inside).ask("POST", "/api/generate/chain/validate", CHAIN).json()
    figures = (answer["stage_count"], answer["total_frames"], answer["estimated_total_frames"], answer["duration_ms"])
    assert figures == (2, 24, 25, 1000)
    assert answer["script"]["stage"][0]["prompt"] == "a red ball"
    wrong = asking(inside).ask("POST", "/api/generate/chain/validate", {**CHAIN, "clip_frames": 16})
    assert (wrong.status, "clip_frames" in wrong.json()["error"]) == (422, True)
    assert FLIPBOOK.clips == []


def test_the_queue_lists_moves_and_removes_its_jobs(inside: InsideServer) -> None:
    SKETCH.gate = gate = Gate()
    server = asking(inside)
    try:
        ids = []
        for prompt in ("first", "second", "third"):
            job = {"kind": "generate", "request": {"prompt": prompt, "model": "sketch"}}
            ids.append(server.ask("POST", "/api/jobs", job).json()["id"])
            if prompt == "first":
                gate.wait_for_arrival()
        entries = server.ask("GET", "/api/queue").json()["entries"]
        assert [(entry["id"], entry["position"], entry["state"]) for entry in entries] == [
            (ids[0], 0, "running"),
            (ids[1], 1, "queued"),
            (ids[2], 2, "queued"),
        ]
        assert [entry["prompt"] for entry in entries] == ["first", "second", "third"]
        assert (entries[1]["kind"], entries[1]["model"]) == ("generate", "sketch:v1")
        moved = server.ask("PATCH", f"/api/queue/{ids[2]}", {"position": 1}).json()
        assert (moved["id"], moved["position"]) == (ids[2], 1)
        assert server.ask("DELETE", f"/api/queue/{ids[1]}").status == 204
        assert server.ask("DELETE", f"/api/queue/{ids[1]}").status == 409
        assert server.ask("PATCH", f"/api/queue/{ids[0]}", {"position": 1}).status == 409
        assert server.ask("DELETE", "/api/queue/nope").status == 404
        entries = server.ask("GET", "/api/queue").json()["entries"]
        assert [entry["id"] for entry in entries] == [ids[0], ids[2]]
        assert server.ask("DELETE", f"/api/queue/{ids[0]}").status == 204
    finally:
        gate.open()
        SKETCH.gate = None


def test_events_of_the_whole_server_are_streamed(tmp_path: Path) -> None:
    with serving_inside(tmp_path / "home", PLUGIN, default_model="sketch") as at:
        connection = asking(at).begin("GET", "/api/events")
        try:
            start = read_until(connection, b'event: models\ndata: {"loaded":[]}')
            assert b'event: queue\ndata: {"paused":false,"depth":0,"capacity":200}' in start
            body = {"kind": "generate", "request": {"prompt": "a house"}}
            id = asking(at).ask("POST", "/api/jobs", body).json()["id"]
            (name,) = at.engine.job(id).files if at.engine.job(id).wait(120) else ()
            stream = read_until(connection, f'event: gallery\ndata: {{"filename":"{name}"}}'.encode())
        finally:
            connection.close()
    assert f'"id":"{id}","kind":"generate","state":"done"'.encode() in stream
    assert b'event: models\ndata: {"loaded":["sketch:v1"]}' in stream


def test_old_results_are_no_news_when_newer_ones_are_deleted(tmp_path: Path) -> None:
    async def changes(at: InsideServer, names: list[str]) -> tuple[bytes, bytes]:
        source = ServerEventSource(at.service)
        await source.read()
        at.service.gallery.delete(names[-1])  # type: ignore[union-attr]
        after_deleting = b"".join(await source.read())
        add()
        return after_deleting, b"".join(await source.read())

    with serving_inside(tmp_path / "home", PLUGIN, default_model="sketch") as at:
        gallery = at.service.gallery
        assert gallery is not None

        def add() -> str:
            return gallery.add(encode_image(Image.new("RGB", (8, 8)), "png")).filename

        after_deleting, after_adding = asyncio.run(changes(at, [add() for _ in range(52)]))
    assert (after_deleting.count(b"event: gallery"), after_adding.count(b"event: gallery")) == (0, 1)


def test_an_estimate_is_learned_from_finished_jobs(tmp_path: Path) -> None:
    body = {"prompt": "a house", "width": 32, "height": 32, "steps": 2}
    with serving_inside(tmp_path / "home", PLUGIN, default_model="sketch") as at:
        server = asking(at)
        before = server.ask("POST", "/api/generate/estimate", body).json()
        assert (before["model"], before["jobs"], before["seconds"], before["is_loaded"]) == (
            "sketch:v1",
            0,
            None,
            False,
        )
        SKETCH.step_s = 0.05
        try:
            for _ in range(2):
                assert server.ask("POST", "/api/generate", body).status == 200
        finally:
            SKETCH.step_s = 0.0
        small = server.ask("POST", "/api/generate/estimate", body).json()
        large = server.ask("POST", "/api/generate/estimate", {**body, "steps": 20}).json()
        assert (small["jobs"], small["is_loaded"]) == (2, True)
        assert 0.1 <= small["seconds_low"] <= small["seconds"] <= small["seconds_high"]
        assert large["seconds"] == pytest.approx(10 * small["seconds"], rel=0.2)
        assert server.ask("POST", "/api/generate/estimate", {"prompt": ""}).status == 422


def test_the_status_of_a_chain_names_its_prompts(inside: InsideServer) -> None:
    FLIPBOOK.gate = gate = Gate()
    server = asking(inside)
    stages = [{"prompt": f"ball {number}", "frames": 17} for number in range(2)]
    job = {"kind": "chain", "request": {"model": "flipbook", "stages": stages, "seed": 9}}
    try:
        id = server.ask("POST", "/api/jobs", job).json()["id"]
        gate.wait_for_arrival()
        current = server.ask("GET", "/api/status").json()["current_generation"]
        assert current["prompt_sha256"] == hashlib.sha256(b"ball 0\nball 1").hexdigest()
        inside.engine.job(id).cancel()
    finally:
        gate.open()
        FLIPBOOK.gate = None
