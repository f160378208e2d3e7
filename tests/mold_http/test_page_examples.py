"""The examples of the specified page, run by curl as they are printed; only models are those that ship."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from io import BytesIO
from pathlib import Path

import pytest
from http_server import Server, events
from PIL import Image

from mold_core.media.images import decode_image

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="the examples are curl commands")


def run(server: Server, folder: Path, command: str) -> bytes:
    """Return what a command of the page prints, with the port and the models of this test."""
    for name, ours in (("localhost:7680", f"localhost:{server.port}"), ("flux-schnell:q8", "flux-nano"),
                       ("flux-dev:q4", "flux-nano"), ("real-esrgan-x4plus:fp16", "esrgan-nano-x4")):  # fmt: skip
        command = command.replace(name, ours)
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_generate_an_image(server: Server, tmp_path: Path) -> None:
    run(
        server,
        tmp_path,
        r"""curl -X POST http://localhost:7680/api/generate \
  -H "Content-Type: application/json" \
  -d '{"prompt": "a glowing robot"}' \
  -o robot.png""",
    )
    assert decode_image((tmp_path / "robot.png").read_bytes()).size == (128, 128)


def test_generate_with_a_key(server: Server, tmp_path: Path) -> None:
    run(
        server,
        tmp_path,
        r"""curl -X POST http://localhost:7680/api/generate \
  -H "Content-Type: application/json" \
  -H "X-Api-Key: your-secret-key" \
  -d '{"prompt": "a glowing robot"}' \
  -o robot.png""",
    )
    assert decode_image((tmp_path / "robot.png").read_bytes())


def test_generate_with_every_field_and_its_headers(server: Server, tmp_path: Path) -> None:
    head = (
        run(
            server,
            tmp_path,
            r"""curl -i -X POST http://localhost:7680/api/generate \
  -H "Content-Type: application/json" \
  -d '{
    "prompt": "a glowing robot in a rainy alley",
    "model": "flux-schnell:q8",
    "width": 1024,
    "height": 1024,
    "steps": 4,
    "guidance": 0.0,
    "output_format": "png"
  }' \
  -o robot.png; head -c 2000 robot.png""",
        )
        .partition(b"\r\n\r\n")[0]
        .decode()
        .lower()
    )
    assert head.startswith("http/1.1 200 ok")
    assert "content-type: image/png" in head
    assert "x-mold-seed-used: " in head
    assert "x-mold-dimension-warning: dimensions adjusted from 1024x1024 to " in head


def test_the_request_shape(server: Server, tmp_path: Path) -> None:
    file = BytesIO()
    Image.new("RGB", (64, 64), "white").save(file, "PNG")
    image = base64.b64encode(file.getvalue()).decode()
    request = {
        "prompt": "a cat on a skateboard",
        "model": "flux-nano",
        "width": 64,
        "height": 64,
        "steps": 4,
        "seed": 42,
        "guidance": 0.0,
        "batch_size": 1,
        "negative_prompt": "",
        "source_image": image,
        "strength": 0.75,
        "mask_image": image,
        "expand": False,
    }
    answer = server.ask("POST", "/api/generate", request)
    assert (answer.status, answer.type) == (200, "image/png")
    answer = server.ask("POST", "/api/generate", {**request, "lora": {"path": "/path/to/adapter.safetensors"}})
    assert answer.status >= 400  # there is no such LoRA
    assert "adapter" in answer.json()["error"] or "lora" in answer.json()["error"]


def test_follow_the_progress(server: Server, tmp_path: Path) -> None:
    found = events(
        run(
            server,
            tmp_path,
            r"""curl -N http://localhost:7680/api/generate/stream \
  -H "Content-Type: application/json" \
  -d '{
    "prompt": "a glowing robot",
    "model": "flux-dev:q4",
    "steps": 5,
    "width": 128,
    "height": 128
  }'""",
        )
    )
    progress = [data for name, data in found if name == "progress"]
    assert {"type": "queued", "position": 1} in progress[
        :2
    ]  # before it, a remark on words that the model does not know
    steps = [data for data in progress if data["type"] == "denoise_step"]
    assert [(data["step"], data["total"]) for data in steps] == [(number, 5) for number in range(1, 6)]
    assert all(data["elapsed_ms"] >= 0 for data in steps)
    name, complete = found[-1]
    assert name == "complete"
    assert complete["images"][0]["data"][:4] == [137, 80, 78, 71]
    assert {"format", "width", "height", "index"} <= complete["images"][0].keys()
    assert {"generation_time_ms", "model", "seed_used"} <= complete.keys()


def test_status_and_models(server: Server, tmp_path: Path) -> None:
    status = json.loads(run(server, tmp_path, "curl http://localhost:7680/api/status"))
    assert {"version", "models_loaded", "busy", "gpu_info", "uptime_secs"} <= status.keys()
    models = json.loads(run(server, tmp_path, "curl http://localhost:7680/api/models"))
    assert "flux-nano:bf16" in [model["name"] for model in models]


def test_load_a_model(server: Server, tmp_path: Path) -> None:
    printed = run(
        server,
        tmp_path,
        r"""curl -X POST http://localhost:7680/api/models/load \
  -H "Content-Type: application/json" \
  -d '{"model": "flux-dev:q4"}'""",
    )
    assert printed == b""
    assert "flux-nano:bf16" in server.ask("GET", "/api/status").json()["models_loaded"]


def test_pull_a_model(server: Server, tmp_path: Path) -> None:
    plain = run(
        server,
        tmp_path,
        r"""curl -X POST http://localhost:7680/api/models/pull \
  -H "Content-Type: application/json" \
  -d '{"model":"flux-schnell:q8"}'""",
    )
    assert plain == b"model 'flux-nano:bf16' pulled successfully\n"
    stream = run(
        server,
        tmp_path,
        r"""curl -N http://localhost:7680/api/models/pull \
  -H "Accept: text/event-stream" \
  -H "Content-Type: application/json" \
  -d '{"model":"flux-schnell:q8"}'""",
    )
    assert events(stream)[-1] == ("progress", {"type": "pull_complete", "model": "flux-nano:bf16"})


def test_a_chain_of_a_family_that_makes_none(server: Server, tmp_path: Path) -> None:
    command = r"""curl -N -X POST http://localhost:7680/api/generate/chain/stream \
  -H "Content-Type: application/json" \
  -d '{
    "model": "flux-dev:q4",
    "prompt": "a cat walking through autumn leaves",
    "total_frames": 400,
    "clip_frames": 97,
    "motion_tail_frames": 4,
    "width": 1216, "height": 704, "fps": 24,
    "steps": 8, "guidance": 3.0,
    "output_format": "mp4"
  }'"""
    printed = json.loads(run(server, tmp_path, command))
    assert printed["code"] == "VALIDATION_ERROR"
    assert "chain renderer" in printed["error"]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.effect_noise((60, 40), 40).convert("RGB").save(tmp_path / "photo.png")
    return tmp_path


def test_upscale_an_image(server: Server, photo: Path) -> None:
    run(
        server,
        photo,
        r"""curl -X POST http://localhost:7680/api/upscale \
  -H "Content-Type: application/json" \
  -d "{\"model\":\"real-esrgan-x4plus:fp16\",\"image\":\"$(base64 < photo.png)\"}" \
  -o photo_4x.png""",
    )
    assert decode_image((photo / "photo_4x.png").read_bytes()).size == (240, 160)


def test_upscale_in_another_format_and_as_json(server: Server, photo: Path) -> None:
    image = base64.b64encode((photo / "photo.png").read_bytes()).decode()
    request = {"model": "esrgan-nano-x4", "image": image, "output_format": "jpeg", "tile_size": 512}
    answer = server.ask("POST", "/api/upscale", request)
    assert (answer.status, answer.type, answer.body[:2]) == (200, "image/jpeg", b"\xff\xd8")
    told = server.ask("POST", "/api/upscale", request, Accept="application/json").json()
    assert (told["scale_factor"], told["original_width"], told["image"]["width"]) == (4, 60, 240)
    assert server.ask("POST", "/api/upscale", {**request, "image": "aGk="}).status == 422
    assert server.ask("POST", "/api/upscale", {**request, "tile_size": 8}).status == 422
    assert server.ask("POST", "/api/upscale", {**request, "model": "nope"}).status == 400


def test_follow_an_upscaling(server: Server, photo: Path) -> None:
    found = events(
        run(
            server,
            photo,
            r"""curl -N -X POST http://localhost:7680/api/upscale/stream \
  -H "Content-Type: application/json" \
  -H "Accept: text/event-stream" \
  -d "{
    \"model\": \"real-esrgan-x4plus:fp16\",
    \"image\": \"$(base64 < photo.png)\"
  }" """,
        )
    )
    assert any(data["type"] == "denoise_step" for name, data in found if name == "progress")
    name, complete = found[-1]
    assert name == "complete"
    assert decode_image(base64.b64decode(complete["image"])).size == (240, 160)
    assert (complete["scale_factor"], complete["width"], complete["height"]) == (4, 240, 160)
    assert (complete["original_width"], complete["original_height"], complete["format"]) == (60, 40, "png")
