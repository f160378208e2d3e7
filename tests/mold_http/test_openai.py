"""OpenAI's official client against the routes that are meant for it."""

from __future__ import annotations

import base64
from io import BytesIO

import openai
import pytest
from http_server import Server
from PIL import Image

from mold_core.media.images import decode_image


@pytest.fixture
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://localhost:{server.port}/v1", api_key="unused", max_retries=0)


def png(size: tuple[int, int] = (64, 64), mode: str = "RGB") -> BytesIO:
    file = BytesIO()
    Image.new(mode, size, "red").save(file, "PNG")
    file.seek(0)
    file.name = "image.png"
    return file


def test_it_lists_the_models_that_can_be_used(client: openai.OpenAI) -> None:
    assert "flux-nano:bf16" in [model.id for model in client.models.list()]
    assert "flux-dev:q8" not in [model.id for model in client.models.list()]


def test_it_generates(client: openai.OpenAI) -> None:
    extra = {"steps": 1, "seed": 5, "guidance": 2.0, "negative_prompt": "fog"}
    answer = client.images.generate(
        model="flux-nano", prompt="a red house", n=2, size="64x96", output_format="webp", extra_body=extra
    )
    assert answer.data is not None
    images = [base64.b64decode(image.b64_json or "") for image in answer.data]
    assert [Image.open(BytesIO(opened)).format for opened in images] == ["WEBP", "WEBP"]
    assert decode_image(images[0]).size == (64, 96)
    assert (answer.size, answer.output_format) == ("64x96", "webp")


def test_the_same_seed_gives_the_image_that_the_own_route_gives(client: openai.OpenAI, server: Server) -> None:
    answer = client.images.generate(prompt="a tree", size="64x64", extra_body={"steps": 1, "seed": 9})
    assert answer.data is not None
    own = server.ask("POST", "/api/generate", {"prompt": "a tree", "width": 64, "height": 64, "steps": 1, "seed": 9})
    assert base64.b64decode(answer.data[0].b64_json or "") == own.body


def test_auto_is_the_size_of_the_model(client: openai.OpenAI) -> None:
    answer = client.images.generate(prompt="a tree", size="auto", quality="high", user="me", extra_body={"steps": 1})
    assert answer.size == "128x128"


def test_it_streams(client: openai.OpenAI) -> None:
    stream = client.images.generate(
        prompt="a tree", size="64x64", stream=True, partial_images=2, extra_body={"steps": 3}
    )
    found = list(stream)
    assert found[-1].type == "image_generation.completed"
    assert decode_image(base64.b64decode(found[-1].b64_json)).size == (64, 64)
    assert len(found) == 3
    for place, partial in enumerate(found[:-1]):
        assert Image.open(BytesIO(base64.b64decode(partial.b64_json))).format == "JPEG"
        assert partial.type == "image_generation.partial_image"
        assert partial.partial_image_index == place


def test_it_edits(client: openai.OpenAI) -> None:
    answer = client.images.edit(image=png(), prompt="a red house", extra_body={"steps": 2, "strength": 0.5, "seed": 1})
    assert answer.data is not None
    assert decode_image(base64.b64decode(answer.data[0].b64_json or "")).size[0] >= 64


def test_it_edits_what_a_mask_leaves_open(client: openai.OpenAI) -> None:
    mask = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 32, 64))
    file = BytesIO()
    mask.save(file, "PNG")
    file.seek(0)
    answer = client.images.edit(
        image=png(), mask=("mask.png", file), prompt="a blue boat", size="64x64", extra_body={"steps": 2}
    )
    assert answer.data is not None
    opened = decode_image(base64.b64decode(answer.data[0].b64_json or ""))
    red = Image.new("RGB", opened.size, "red")
    kept, repainted = (
        sum(abs(a - b) for a, b in zip(opened.getpixel((x, y)), red.getpixel((x, y)), strict=True))  # type: ignore[arg-type]
        for x, y in ((56, 32), (8, 32))
    )
    assert kept < repainted


def test_it_streams_an_edit(client: openai.OpenAI) -> None:
    stream = client.images.edit(image=png(), prompt="a tree", stream=True, extra_body={"steps": 1})
    assert list(stream)[-1].type == "image_edit.completed"


def test_previews_of_an_edit_come_as_many_as_asked_for(client: openai.OpenAI) -> None:
    stream = client.images.edit(image=png(), prompt="a tree", stream=True, partial_images=2, extra_body={"steps": 4})
    assert [event.type for event in stream] == [*["image_edit.partial_image"] * 2, "image_edit.completed"]


def test_errors_are_those_that_it_knows(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="nearest: flux-nano:bf16") as unknown:
        client.images.generate(prompt="x", model="flux-nono")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.images.generate(prompt="x", model="flux-dev")
    with pytest.raises(openai.BadRequestError, match="size must be WIDTHxHEIGHT"):
        client.images.generate(prompt="x", size="big")
    with pytest.raises(openai.BadRequestError, match="n must be from 1 to 10") as wrong:
        client.images.generate(prompt="x", n=11)
    assert (wrong.value.param, wrong.value.type) == ("n", "invalid_request_error")
    with pytest.raises(openai.BadRequestError, match="source_image"):
        client.images.edit(image=("a.png", b"not an image"), prompt="x", extra_body={"steps": 1})
    with pytest.raises(openai.NotFoundError, match="flux-dev:q8 is not installed"):
        client.models.retrieve("flux-dev")


def test_a_key_comes_as_a_token(keyed: Server) -> None:
    base_url = f"http://localhost:{keyed.port}/v1"
    assert openai.OpenAI(base_url=base_url, api_key="third").models.list().data
    with pytest.raises(openai.AuthenticationError) as refused:
        openai.OpenAI(base_url=base_url, api_key="wrong", max_retries=0).models.list()
    assert refused.value.code == "invalid_api_key"


def test_adapters_travel_in_a_form_as_the_client_writes_lists(client: openai.OpenAI) -> None:
    loras = [{"path": "none.safetensors", "scale": 0.5}, {"path": "other.safetensors", "scale": 1}]
    with pytest.raises(openai.APIStatusError) as refused:
        client.images.edit(image=png(), prompt="x", extra_body={"loras": loras, "steps": 1})
    assert "lora" in str(refused.value)
    with pytest.raises(openai.BadRequestError, match=r"loras\[1\]\.scale"):
        client.images.edit(
            image=png(), prompt="x", extra_body={"loras": [{"path": "a", "scale": 1}, {"path": "b", "scale": 9}]}
        )


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"--x\r\n\r\n", 400),
        (b"--x\r\nContent-Disposition: form-data; name=prompt\r\n\r\na\r\n--x--\r\n", 400),
        (b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n\r\n--x--\r\n', 400),
    ],
)
def test_a_broken_form_is_refused(server: Server, body: bytes, status: int) -> None:
    answer = server.ask("POST", "/v1/images/edits", body, Content_Type="multipart/form-data; boundary=x")
    assert answer.status == status
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert server.ask("POST", "/v1/images/edits", body, Content_Type="application/json").status == 415
    assert server.ask("POST", "/v1/images/edits", body, Content_Type="multipart/form-data").status == 400
