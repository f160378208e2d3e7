"""Fields of OpenAI's image API, sent by its official client to a server with families for tests."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from inside_server import InsideServer, serving_inside
from PIL import Image

from mold_core import Parameter
from mold_core.errors import MoldError, SettingsError
from mold_core.media.metadata import read_metadata
from mold_core.testing import FakePlugin, FlipbookFamily, SketchFamily, engine_with, flipbook_model, sketch_model
from mold_http.guard.forms import Form
from mold_http.openai.forms import from_form
from mold_http.openai.image_requests import ImageEdit
from mold_http.openai.names import chosen_model

EDITOR = SketchFamily(
    name="editor",
    capabilities=frozenset({"text-to-image", "image-editing", "transparency"}),
    parameters=(
        Parameter(name="grain", doc="Grain of the paper.", type=int, default=2, minimum=0, maximum=9),
        Parameter(name="paper", doc="Colour of the paper.", type=str, default="white"),
    ),
)
PLUGIN = FakePlugin(
    families=[FlipbookFamily(), SketchFamily(), EDITOR],
    models=[flipbook_model(), sketch_model(), sketch_model("editor:v1", family="editor")],
)
KEY = "a-key"


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InsideServer]:
    """A server whose default model makes videos."""
    home = tmp_path_factory.mktemp("openai") / "home"
    with serving_inside(home, PLUGIN, api_key=KEY, default_model="flipbook", openai_model=("flipbook", "sketch")) as at:
        yield at


@pytest.fixture
def client(inside: InsideServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://localhost:{inside.port}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def png(color: str = "red") -> tuple[str, bytes]:
    file = BytesIO()
    Image.new("RGB", (32, 32), color).save(file, "PNG")
    return "image.png", file.getvalue()


def first(answer: openai.types.ImagesResponse) -> bytes:
    assert answer.data is not None
    return base64.b64decode(answer.data[0].b64_json or "")


@pytest.mark.parametrize("name", ["dall-e-2", "gpt-image-1", "gpt-image-1.5-2026-01-01", "chatgpt-image-latest"])
def test_names_of_openai_mean_the_default_model(client: openai.OpenAI, name: str) -> None:
    raw = client.images.with_raw_response.generate(model=name, prompt="a tree")
    assert raw.headers["x-mold-model"] == "sketch:v1"
    assert Image.open(BytesIO(first(raw.parse()))).format == "PNG"
    assert client.models.retrieve(name).id == name


def test_no_name_means_a_model_that_generates_images(client: openai.OpenAI) -> None:
    raw = client.images.with_raw_response.generate(prompt="a tree")
    assert raw.headers["x-mold-model"] == "sketch:v1"


def test_a_model_is_retrieved_by_its_name(client: openai.OpenAI) -> None:
    model = client.models.retrieve("sketch")
    assert (model.id, model.object, model.owned_by) == ("sketch:v1", "model", "sketch")
    with pytest.raises(openai.NotFoundError, match="nearest: sketch:v1"):
        client.models.retrieve("skech")


def test_a_video_model_is_named_as_such(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="flipbook:v1 generates videos") as refused:
        client.images.generate(prompt="a tree", model="flipbook", output_format="webp")
    assert refused.value.param == "model"


def test_fields_that_mean_nothing_here_are_accepted(client: openai.OpenAI) -> None:
    answer = client.images.generate(
        prompt="a tree",
        model="gpt-image-1",
        size="auto",
        quality="low",
        style="vivid",
        moderation="low",
        user="me",
        background="auto",
    )
    assert (answer.quality, answer.background, answer.output_format, answer.size) == ("low", "opaque", "png", "32x32")
    assert answer.created > 1_700_000_000
    assert answer.usage is not None and answer.usage.total_tokens == 0
    assert client.images.generate(prompt="a tree", quality="hd").quality == "high"


def test_a_gif_is_a_gif(client: openai.OpenAI) -> None:
    answer = client.images.generate(prompt="a tree", output_format="gif", extra_body={"seed": 4})
    data = first(answer)
    assert (Image.open(BytesIO(data)).format, answer.output_format) == ("GIF", "gif")
    assert (metadata := read_metadata(data)) is not None and metadata.seed == 4


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_output_compression_is_the_quality(client: openai.OpenAI, format: str) -> None:
    def size(quality: int) -> int:
        answer = client.images.generate(
            prompt="a tree",
            output_format=format,  # type: ignore[arg-type]
            output_compression=quality,
            size="256x256",
            extra_body={"seed": 4},
        )
        data = first(answer)
        assert (Image.open(BytesIO(data)).format or "").lower() == format
        assert (metadata := read_metadata(data)) is not None and metadata.seed == 4
        return len(data)

    assert size(0) < size(100)


def test_a_transparent_background_needs_a_model_for_it(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="sketch:v1 generates opaque images") as refused:
        client.images.generate(prompt="a tree", model="sketch", background="transparent")
    assert refused.value.param == "background"
    answer = client.images.generate(prompt="a tree", model="editor", background="transparent")
    assert answer.background == "transparent"
    with pytest.raises(openai.BadRequestError, match="a JPEG is opaque"):
        client.images.generate(prompt="a tree", model="editor", background="transparent", output_format="jpeg")


def test_several_images_go_to_a_model_that_edits(client: openai.OpenAI, inside: InsideServer) -> None:
    images = [png("red"), png("blue")]
    client.images.edit(image=images, prompt="both", model="editor")
    (request,) = EDITOR.batches[-1]
    assert request.edit_images == tuple(data for _, data in images)
    client.images.edit(image=images[0], prompt="one", model="editor")
    assert EDITOR.batches[-1][0].edit_images == (images[0][1],)
    with pytest.raises(openai.BadRequestError, match="sketch:v1 takes one image, and the request has 2"):
        client.images.edit(image=images, prompt="both", model="gpt-image-1")
    with pytest.raises(openai.BadRequestError, match="image must be a PNG, JPEG, WebP, AVIF or HEIC image"):
        client.images.edit(image=[images[0], ("b.png", b"nothing")], prompt="both", model="editor")


@pytest.mark.parametrize("form", [False, True], ids=["json", "form"])
def test_options_of_a_family_are_sent_in_extra_body(client: openai.OpenAI, form: bool) -> None:
    def send(**options: object) -> dict[str, object]:
        if form:
            client.images.edit(image=png(), prompt="one", model="editor", extra_body={"options": options})
        else:
            client.images.generate(prompt="one", model="editor", extra_body={"options": options})
        return EDITOR.batches[-1][0].options

    assert send() == {"grain": 2, "paper": "white"}
    assert send(grain=7, paper="sky blue") == {"grain": 7, "paper": "sky blue"}
    for options, words in (({"grain": 12}, "options.grain must be from 0 to 9"), ({"gain": 1}, "did you mean grain")):
        with pytest.raises(openai.APIStatusError, match=words):
            send(**options)


def test_a_url_opens_with_the_same_key(client: openai.OpenAI) -> None:
    answer = client.images.generate(prompt="a tree", response_format="url", output_format="webp")
    assert answer.data is not None and answer.data[0].url is not None
    url = answer.data[0].url
    assert httpx2.get(url).status_code == 401
    opened = httpx2.get(url, headers={"Authorization": f"Bearer {KEY}"})
    assert (opened.status_code, Image.open(BytesIO(opened.content)).format) == (200, "WEBP")
    with pytest.raises(openai.BadRequestError, match="response_format url"):
        client.images.generate(prompt="a tree", response_format="url", output_format="gif")


def test_a_stream_names_quality_and_background(client: openai.OpenAI) -> None:
    stream = client.images.generate(prompt="a tree", stream=True, quality="medium", output_format="jpeg")
    (completed,) = list(stream)
    assert completed.type == "image_generation.completed"
    assert (completed.quality, completed.background, completed.output_format) == ("medium", "opaque", "jpeg")


def post(inside: InsideServer, path: str, **body: Any) -> httpx2.Response:
    url = f"http://localhost:{inside.port}/v1/images/{path}"
    return httpx2.post(url, headers={"Authorization": f"Bearer {KEY}"}, **body)


def test_open_webui_generates_and_edits(inside: InsideServer) -> None:
    """The requests of its engine openai."""
    body = {"model": "dall-e-2", "prompt": "a house", "n": 1, "size": "512x512", "response_format": "b64_json"}
    answer = post(inside, "generations", json=body).json()
    assert Image.open(BytesIO(base64.b64decode(answer["data"][0]["b64_json"]))).size == (256, 256)
    fields = {"model": "dall-e-2", "prompt": "a boat", "n": "1", "size": "512x512", "response_format": "b64_json"}
    name, data = png()
    edited = post(inside, "edits", data={**fields, "model": "editor"}, files={"image": (name, data, "image/png")})
    assert edited.status_code == 200, edited.text
    several = [("image[]", (name, data, "image/png"))] * 2
    edited = post(inside, "edits", data={**fields, "model": "editor"}, files=several)
    assert edited.json()["data"][0]["b64_json"]


def test_libre_chat_generates_and_edits(inside: InsideServer) -> None:
    """Its tool for OpenAI's images."""
    body = {
        "model": "gpt-image-1",
        "prompt": "a house",
        "n": 1,
        "background": "auto",
        "output_compression": 100,
        "output_format": "png",
        "quality": "auto",
        "size": "auto",
    }
    answer = post(inside, "generations", json=body).json()
    assert Image.open(BytesIO(base64.b64decode(answer["data"][0]["b64_json"]))).format == "PNG"
    fields = {"model": "editor", "prompt": "a boat", "n": "1", "quality": "auto", "size": "auto"}
    edited = post(inside, "edits", data=fields, files=[("image[]", ("a.png", png()[1], "image/png"))])
    assert edited.json()["data"][0]["b64_json"]


def test_the_setting_names_a_model_that_exists(tmp_path: Path) -> None:
    with (
        engine_with(PLUGIN, home=tmp_path, openai_model=("nothing",)) as engine,
        pytest.raises(SettingsError, match="MOLD_OPENAI_MODEL: unknown model 'nothing'"),
    ):
        chosen_model(engine, None, "images")


def test_options_of_a_form_that_are_no_object_are_refused() -> None:
    form = Form(texts={"prompt": ["a house"], "options": ["[1]"]}, files={})
    with pytest.raises(MoldError, match="options must be an object"):
        from_form(ImageEdit, form, {"image": ["cG5n"]})
