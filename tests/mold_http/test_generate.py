"""Images over HTTP: what /api/generate and its stream answer."""

from __future__ import annotations

import base64
import email
import email.policy
import json
from io import BytesIO

import pytest
from http_server import Server, events, read_until
from PIL import Image, ImageChops, ImageStat

from mold_core.media.images import decode_image
from mold_core.media.metadata import read_metadata


def test_generate_answers_with_the_image_and_its_seed(server: Server) -> None:
    answer = server.ask("POST", "/api/generate", {"prompt": "a red house", "seed": 42, "steps": 2})
    assert (answer.status, answer.type) == (200, "image/png")
    assert answer.headers["x-mold-seed-used"] == "42"
    assert "x-mold-dimension-warning" not in answer.headers
    assert decode_image(answer.body).size == (128, 128)
    metadata = read_metadata(answer.body)
    assert metadata is not None
    assert (metadata.prompt, metadata.seed) == ("a red house", 42)


def test_a_seed_of_64_bits_is_reported_exactly(server: Server) -> None:
    seed = 2**64 - 1
    answer = server.ask("POST", "/api/generate", {"prompt": "a tree", "seed": seed, "steps": 1})
    assert answer.headers["x-mold-seed-used"] == str(seed)


@pytest.mark.parametrize(("format", "magic"), [("webp", b"RIFF"), ("jpeg", b"\xff\xd8"), ("png", b"\x89PNG")])
def test_other_formats_are_answered_with_their_type(server: Server, format: str, magic: bytes) -> None:
    answer = server.ask("POST", "/api/generate", {"prompt": "a tree", "output_format": format, "steps": 1})
    assert answer.type == f"image/{format}"
    assert answer.body.startswith(magic)


def test_adjusted_dimensions_are_said_in_a_header(server: Server) -> None:
    answer = server.ask("POST", "/api/generate", {"prompt": "a tree", "width": 100, "height": 100, "steps": 1})
    assert answer.headers["x-mold-dimension-warning"] == "dimensions adjusted from 100x100 to 96x96"
    assert decode_image(answer.body).size == (96, 96)


def test_several_images_come_as_parts_with_their_seeds(server: Server) -> None:
    request = {"prompt": "a tree", "steps": 1, "batch_size": 3, "seed": 7, "width": 64, "height": 64}
    answer = server.ask("POST", "/api/generate", request)
    assert (answer.status, answer.type) == (200, "multipart/mixed")
    whole = b"Content-Type: " + answer.headers["content-type"].encode() + b"\r\n\r\n" + answer.body
    parts = list(email.message_from_bytes(whole, policy=email.policy.HTTP).iter_parts())
    assert [part["x-mold-seed-used"] for part in parts] == ["7", "8", "9"]
    images = [part.get_content() for part in parts]
    assert [Image.open(BytesIO(image)).size for image in images] == [(64, 64)] * 3
    alone = server.ask("POST", "/api/generate", {**request, "batch_size": 1, "seed": 8}).body
    difference = ImageChops.difference(*(Image.open(BytesIO(image)) for image in (images[1], alone)))
    assert max(ImageStat.Stat(difference).mean) < 1  # a batch rounds a little differently


def test_json_is_answered_where_accept_asks_for_it(server: Server) -> None:
    request = {"prompt": "a tree", "steps": 1, "batch_size": 2, "seed": 7, "width": 64, "height": 64}
    answer = server.ask("POST", "/api/generate", request, Accept="application/json")
    result = answer.json()
    assert [image["index"] for image in result["images"]] == [0, 1]
    assert (result["seed_used"], result["model"]) == (7, "flux-nano:bf16")
    assert decode_image(bytes(result["images"][0]["data"])).size == (64, 64)


def test_the_stream_reports_every_step_and_ends_with_the_same_image(server: Server) -> None:
    request = {"prompt": "a blue boat on the sea", "seed": 5, "steps": 3}
    answer = server.ask("POST", "/api/generate/stream", request)
    found = events(answer.body)
    assert (answer.status, answer.type) == (200, "text/event-stream")
    progress = [data for name, data in found if name == "progress"]
    assert progress[0]["type"] == "queued"
    assert [data["step"] for data in progress if data["type"] == "denoise_step"] == [1, 2, 3]
    name, complete = found[-1]
    assert name == "complete"
    assert complete["seed_used"] == 5
    image = bytes(complete["images"][0]["data"])
    assert image == server.ask("POST", "/api/generate", request).body
    assert base64.b64decode(complete["image"]) == image
    assert (complete["format"], complete["width"], complete["height"]) == ("png", 128, 128)


@pytest.mark.parametrize("form", ["bytes", "base64", "url", "none"])
def test_the_stream_carries_images_as_it_is_asked_to(server: Server, form: str) -> None:
    request = {"prompt": "a tree", "seed": 5, "steps": 1, "width": 64, "height": 64}
    path = f"/api/generate/stream?image_data={form}"
    _, complete = events(server.ask("POST", path, request).body)[-1]
    image = complete["images"][0]
    assert (image["width"], image["format"]) == (64, "png")
    assert ("image" in complete) is (form in ("bytes", "base64"))
    if form == "bytes":
        assert bytes(image["data"]).startswith(b"\x89PNG")
    elif form == "base64":
        assert base64.b64decode(image["data"]).startswith(b"\x89PNG")
    else:
        assert "data" not in image
    if form == "url":
        assert server.ask("GET", image["url"]).body == server.ask("POST", "/api/generate", request).body


def test_another_form_is_refused(server: Server) -> None:
    answer = server.ask("POST", "/api/generate/stream?image_data=hex", {"prompt": "a tree"})
    assert answer.status == 422
    assert "bytes, base64, url, none" in answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        ({"prompt": "x", "model": "flux-nan"}, 400, "UNKNOWN_MODEL", "nearest: flux-nano:bf16"),
        ({"prompt": "x", "model": "flux-dev"}, 404, "MODEL_NOT_FOUND", "not downloaded"),
        ({"prompt": "x", "mask_image": "aGk="}, 422, "VALIDATION_ERROR", "mask_image"),
        ({"prompt": "x", "loras": [{"path": "/etc/passwd"}]}, 422, "VALIDATION_ERROR", "a server accepts only names"),
        ({"prompt": "x", "lora": {"path": "~/x"}}, 422, "VALIDATION_ERROR", "a server accepts only names"),
        ({"prompt": "x", "output_format": "mp4"}, 422, "VALIDATION_ERROR", "output_format"),
        ({"prompt": "x", "width": 20_000}, 422, "VALIDATION_ERROR", "width"),
    ],
)
def test_what_cannot_be_made_is_refused_before_the_stream_begins(
    server: Server, body: object, status: int, code: str, words: str
) -> None:
    for path in ("/api/generate", "/api/generate/stream"):
        answer = server.ask("POST", path, body)
        assert (answer.status, answer.json()["code"]) == (status, code)
        assert words in answer.json()["error"]


@pytest.mark.parametrize("path", ["/api/generate", "/api/generate/stream"])
def test_a_client_that_leaves_cancels_its_job(server: Server, path: str) -> None:
    request = {"prompt": f"a tree for {path}", "steps": 100, "width": 256, "height": 256, "batch_size": 50}
    with server.begin("POST", path, request) as connection:
        if path.endswith("stream"):
            read_until(connection, b"denoise_step")
        else:
            assert server.soon("/api/jobs?state=running", lambda jobs: any(job["kind"] == "generate" for job in jobs))
    assert server.soon("/api/status", lambda status: not status["busy"])
    newest = server.ask("GET", "/api/jobs").json()[0]
    assert newest["state"] == "cancelled"


def test_text_in_events_cannot_make_events(server: Server) -> None:
    prompt = "a tree\n\nevent: complete\ndata: {}\n\n"
    found = events(server.ask("POST", "/api/generate/stream?image_data=none", {"prompt": prompt, "steps": 1}).body)
    assert [name for name, _ in found].count("complete") == 1
    assert found[-1][1]["seed_used"] is not None


def test_a_lone_surrogate_in_a_prompt_harms_nobody(server: Server) -> None:
    answer = server.ask("POST", "/api/generate/stream?image_data=none", b'{"prompt": "\\ud800", "steps": 1}')
    assert answer.status in (200, 422)
    if answer.status == 422:
        assert json.loads(answer.body)["code"] == "VALIDATION_ERROR"
