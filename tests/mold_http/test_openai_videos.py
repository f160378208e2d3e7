"""OpenAI's video API, called by its official client on a server with a video family for tests."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from io import BytesIO

import httpx2
import openai
import pytest
from inside_server import InsideServer, serving_inside
from PIL import Image

from mold_core import Parameter
from mold_core.media.video import probe_video
from mold_core.testing import FakePlugin, FlipbookFamily, FlipbookRenderer, SketchFamily, flipbook_model, sketch_model
from mold_core.wire import GenerateRequest

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")

FAMILY = FlipbookFamily(
    capabilities=frozenset({"text-to-video", "image-to-video", "negative-prompt"}),
    parameters=(Parameter(name="weight", doc="Weight of the ball.", type=int, default=3, minimum=1, maximum=9),),
    error=RuntimeError("no more paper"),
)
PLUGIN = FakePlugin(
    families=[SketchFamily(), FAMILY],
    models=[sketch_model(), flipbook_model(clip_frames=17)],
    chain_renderers=[FlipbookRenderer()],
)


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InsideServer]:
    """A server whose default model makes images."""
    with serving_inside(tmp_path_factory.mktemp("videos") / "home", PLUGIN, default_model="sketch") as running:
        yield running


@pytest.fixture
def client(inside: InsideServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://localhost:{inside.port}/v1", api_key="unused", max_retries=0) as client:
        yield client


def finished(client: openai.OpenAI, inside: InsideServer, id: str) -> openai.types.Video:
    """Return a video once its job has ended."""
    inside.engine.job(id).wait(120)
    return client.videos.retrieve(id)


def test_a_video_is_created_and_downloaded(client: openai.OpenAI, inside: InsideServer) -> None:
    raw = client.videos.with_raw_response.create(
        prompt="a red ball",
        model="sora-2",
        seconds="8",
        size="1280x720",
        extra_body={"fps": 2, "num_inference_steps": 3, "seed": 5, "guidance_scale": 2.5, "negative_prompt": "fog"},
    )
    created = raw.parse()
    assert raw.headers["x-mold-model"] == created.model == "flipbook:v1"
    assert created.object == "video" and created.status in ("queued", "in_progress", "completed")
    video = finished(client, inside, created.id)
    assert (video.status, video.progress, video.seconds, video.prompt) == ("completed", 100, "8", "a red ball")
    assert video.completed_at is not None and video.error is None
    data = client.videos.download_content(created.id).read()
    info = probe_video(BytesIO(data))
    assert (info.frames, f"{info.width}x{info.height}") == (17, video.size)
    clip = FAMILY.clips[-1]
    assert (clip.steps, clip.seed, clip.guidance, clip.negative_prompt) == (3, 5, 2.5, "fog")
    thumbnail = client.videos.download_content(created.id, variant="thumbnail").read()
    assert Image.open(BytesIO(thumbnail)).format == "PNG"
    with pytest.raises(openai.BadRequestError, match="variant"):
        client.videos.download_content(created.id, variant="spritesheet")


@pytest.mark.parametrize("frames", [9, 25], ids=["clip", "chain"])
def test_options_of_a_family_are_sent_in_extra_body(client: openai.OpenAI, inside: InsideServer, frames: int) -> None:
    created = client.videos.create(prompt="a ball", extra_body={"num_frames": frames, "options": {"weight": 8}})
    assert finished(client, inside, created.id).status == "completed"
    assert FAMILY.clips[-1].options == {"weight": 8}


def test_a_longer_video_is_a_chain_of_clips(client: openai.OpenAI, inside: InsideServer) -> None:
    created = client.videos.create(prompt="a blue ball", seconds="12", extra_body={"fps": 4})
    video = finished(client, inside, created.id)
    assert (video.status, video.seconds) == ("completed", "12")
    assert probe_video(BytesIO(client.videos.download_content(created.id).read())).frames == 49
    with pytest.raises(openai.BadRequestError, match="negative_prompt is for videos of one clip") as refused:
        client.videos.create(prompt="a ball", seconds="12", extra_body={"negative_prompt": "fog"})
    assert refused.value.param == "negative_prompt"


def test_a_video_starts_from_an_image(client: openai.OpenAI, inside: InsideServer) -> None:
    file = BytesIO()
    Image.new("RGB", (64, 48), "red").save(file, "PNG")
    created = client.videos.create(
        prompt="a ball", input_reference=("a.png", file.getvalue()), extra_body={"num_frames": 9}
    )
    assert finished(client, inside, created.id).status == "completed"
    assert FAMILY.clips[-1].source_image == file.getvalue()
    url = f"http://localhost:{inside.port}/v1/videos"
    image = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    body = {"prompt": "a ball", "seconds": "1", "fps": 8, "input_reference": {"image_url": image}}
    answer = httpx2.post(url, json=body)
    assert (answer.status_code, answer.json()["seconds"]) == (200, "1")
    assert finished(client, inside, answer.json()["id"]).status == "completed"
    assert FAMILY.clips[-1].source_image == file.getvalue()
    refused = httpx2.post(url, json={**body, "input_reference": {"image_url": "https://example.com/a.png"}})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input_reference")


def test_videos_are_listed_and_deleted(client: openai.OpenAI, inside: InsideServer) -> None:
    ids = [client.videos.create(prompt=f"ball {number}", extra_body={"num_frames": 9}).id for number in range(3)]
    for id in ids:
        finished(client, inside, id)
    page = client.videos.list(limit=2)
    assert [video.id for video in page.data] == ids[:0:-1]
    assert next(iter(client.videos.list(after=ids[1], limit=1))).id == ids[0]
    assert [video.id for video in client.videos.list(order="asc", limit=100)][-3:] == ids
    (name,) = inside.engine.job(ids[0]).files
    assert inside.service.gallery is not None
    assert inside.service.gallery.get(name).filename == name
    deleted = client.videos.delete(ids[0])
    assert (deleted.id, deleted.deleted, deleted.object) == (ids[0], True, "video.deleted")
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(ids[0])
    assert name not in [entry.filename for entry in inside.service.gallery.list().entries]


def test_a_video_that_fails_says_why(client: openai.OpenAI, inside: InsideServer) -> None:
    created = client.videos.create(prompt="a broken ball")
    video = finished(client, inside, created.id)
    assert video.status == "failed"
    assert video.error is not None
    assert (video.error.code, "paper" in video.error.message) == ("inference_error", False)
    with pytest.raises(openai.InternalServerError):
        client.videos.download_content(created.id)


def test_an_image_model_and_an_image_job_are_refused(client: openai.OpenAI, inside: InsideServer) -> None:
    with pytest.raises(openai.BadRequestError, match="sketch:v1 generates images, not videos"):
        client.videos.create(prompt="a ball", model="sketch")
    job = inside.engine.submit(GenerateRequest(prompt="a tree", model="sketch"))
    with pytest.raises(openai.NotFoundError, match="generates no video"):
        client.videos.retrieve(job.id)


@pytest.mark.parametrize("limit", ["0", "101", "x", "0000000015", "000000001" + "9" * 5000])
def test_a_limit_outside_of_its_range_is_refused(inside: InsideServer, limit: str) -> None:
    answer = httpx2.get(f"http://localhost:{inside.port}/v1/videos", params={"limit": limit})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "limit")


@pytest.mark.parametrize("options", ["5", "[1]", '"x"'])
def test_options_of_a_form_must_be_an_object(inside: InsideServer, options: str) -> None:
    form = {"prompt": (None, "a ball"), "options": (None, options)}
    answer = httpx2.post(f"http://localhost:{inside.port}/v1/videos", files=form)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "options")
