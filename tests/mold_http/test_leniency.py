"""What clients send in the field's many spellings is read: wrapped base64, data: URLs, explicit nulls."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from http_server import Server, serving
from PIL import Image

from mold_core.media.images import decode_image


def png(size: tuple[int, int] = (32, 32)) -> bytes:
    buffer = BytesIO()
    Image.effect_noise(size, 90).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def test_an_image_wrapped_by_the_shell_is_upscaled(server: Server, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(png())
    command = (
        f'curl -sS -X POST http://localhost:{server.port}/api/upscale -H "Content-Type: application/json" '
        r"""-d "{\"model\":\"esrgan-nano-x4\",\"image\":\"$(base64 < photo.png)\"}" -o photo_4x.png"""
    )
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert decode_image((tmp_path / "photo_4x.png").read_bytes()).size == (128, 128)


@pytest.mark.parametrize(
    "written",
    [
        base64.encodebytes(png()).decode(),
        base64.urlsafe_b64encode(png()).decode().rstrip("="),
        f"data:image/png;base64,{base64.b64encode(png()).decode()}",
    ],
    ids=["escaped line breaks", "url-safe, unpadded", "data URL"],
)
def test_an_image_is_upscaled_however_it_is_written(server: Server, written: str) -> None:
    answer = server.ask("POST", "/api/upscale", {"model": "esrgan-nano-x4", "image": written})
    assert (answer.status, answer.type) == (200, "image/png")


@pytest.mark.parametrize("path", ["/api/generate", "/api/jobs", "/v1/images/generations"])
def test_a_raw_line_break_in_a_prompt_is_an_error(server: Server, path: str) -> None:
    body = b'{"prompt": "two\nlines", "kind": "generate", "request": {"prompt": "a\nb"}}'
    answer = server.ask("POST", path, body, Content_Type="application/json")
    assert answer.status == 400
    assert "control character" in json.dumps(answer.json())


@pytest.mark.parametrize(
    "body",
    [
        '{"prompt": "a", "source_image": "YQ\t=="}',
        '{"prompt": "a", "source_image\n": "YQ=="}',
        '{"prompt": "a", "source_image": "YQ\x00=="}',
        '{"prompt": "a \\"source_image\\":\nb"}',
        '{"prompt": "a", "model": "b\n"}',
        '{"prompt": "a", "loras": [{"path": "a\n"}]}',
        '{"prompt": "a", "nothing we know": "a\n"}',
        '{"prompt": "a", "keyframes": [{"frame": 0, "image": "YQ==", "source_image": {"note": "a\n"}}]}',
    ],
)
def test_control_characters_are_read_nowhere_but_line_breaks_in_base64(server: Server, body: str) -> None:
    answer = server.ask("POST", "/api/generate", body.encode())
    assert (answer.status, answer.json()["code"]) == (400, "BAD_REQUEST")


def test_raw_line_breaks_are_read_in_the_request_of_a_job(server: Server) -> None:
    image = base64.encodebytes(png()).decode()
    body = f'{{"kind": "upscale", "request": {{"model": "esrgan-nano-x4", "image": "{image}"}}}}'.encode()
    assert server.ask("POST", "/api/jobs", body, Content_Type="application/json").status == 202


def test_null_stands_for_what_is_left_out(server: Server) -> None:
    fields = ("model", "seed", "strength", "batch_size", "preview", "output_format", "lora", "keyframes", "expand")
    body = {"prompt": "a tree", "steps": 1, **dict.fromkeys(fields)}
    assert server.ask("POST", "/api/generate", body).status == 200
    job = {"kind": "generate", "request": body, "webhook_url": None}
    assert server.ask("POST", "/api/jobs", job).status == 202
    assert server.ask("DELETE", "/api/models/unload", {"model": None}).status == 200
    assert server.ask("POST", "/api/generate", {"prompt": None}).json()["error"] == "prompt is required"
    chain = server.ask("POST", "/api/generate/chain", {"model": "ltx2-nano", "prompt": None, "stages": None})
    assert "either stages, or prompt and total_frames" in chain.json()["error"]


def test_motion_tail_frames_are_named_when_they_are_wrong(server: Server) -> None:
    chain = {"model": "ltx2-nano", "prompt": "a", "total_frames": 33, "clip_frames": 17, "width": 64, "height": 64}
    for wrong in (17, 16, -1, "4", 1.5):
        answer = server.ask("POST", "/api/generate/chain", {**chain, "motion_tail_frames": wrong})
        assert (answer.status, "motion_tail_frames" in answer.json()["error"]) == (422, True), wrong


@pytest.fixture(scope="module")
def choosy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose chosen upscaler is not downloaded."""
    home = tmp_path_factory.mktemp("choosy") / "home"
    with serving(home, MOLD_UPSCALE_MODEL="real-esrgan-x4plus:fp16") as running:
        yield running


@pytest.mark.parametrize("model", ["flux-nano", "nope", "", 5])
def test_the_model_of_the_upscale_route_is_named_when_it_is_wrong(server: Server, model: object) -> None:
    image = base64.b64encode(png()).decode()
    for path in ("/api/upscale", "/api/upscale/stream"):
        answer = server.ask("POST", path, {"image": image, "model": model})
        assert answer.status in (400, 422)
        assert "model" in answer.json()["error"]


def test_without_a_model_an_upscaler_that_is_here_is_used(server: Server) -> None:
    answer = server.ask("POST", "/api/upscale", {"image": base64.b64encode(png()).decode()}, Accept="application/json")
    assert (answer.status, answer.json()["model"]) == (200, "esrgan-nano-x4:fp32")


@pytest.mark.parametrize("model", [{}, {"model": None}, {"model": "auto"}])
def test_without_a_model_nothing_is_downloaded(choosy: Server, model: dict[str, object]) -> None:
    upscale = {"image": base64.b64encode(png()).decode(), **model}
    for path, body in (
        ("/api/upscale", upscale),
        ("/api/upscale/stream", upscale),
        ("/api/jobs", {"kind": "upscale", "request": upscale}),
    ):
        answer = choosy.ask("POST", path, body)
        assert (answer.status, answer.json()["code"]) == (404, "MODEL_NOT_FOUND")
        assert "model is required, because the default upscaler real-esrgan-x4plus:fp16" in answer.json()["error"]
    assert choosy.ask("GET", "/api/jobs").json() == []
