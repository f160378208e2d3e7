"""Videos and chains over HTTP: files, headers, events, and a chain that fails in the middle."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest
from http_server import Server, events, serving

from mold_core.media.video import probe_video

PLUGIN = '''
"""Videos for tests; one whose prompt says so breaks."""

from mold_core import hookimpl
from mold_core.testing import FlipbookFamily, FlipbookRenderer, flipbook_model


@hookimpl
def mold_families():
    return [FlipbookFamily(error=RuntimeError("no more paper"))]


@hookimpl
def mold_models():
    return [flipbook_model()]


@hookimpl
def mold_chain_renderers():
    return [FlipbookRenderer()]
'''

VIDEO = {"model": "flipbook", "prompt": "a red ball", "total_frames": 40, "clip_frames": 17, "seed": 3}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the family flipbook."""
    site = tmp_path_factory.mktemp("site")
    (site / "videos_plugin.py").write_text(PLUGIN)
    about = site / "mold_videos-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mold-videos\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[mold]\nvideos = videos_plugin\n")
    with serving(
        tmp_path_factory.mktemp("videos") / "home", PYTHONPATH=str(site), MOLD_PLUGINS="videos,http"
    ) as server:
        yield server


def test_a_video_comes_as_it_is_with_what_it_is_in_headers(videos: Server) -> None:
    answer = videos.ask("POST", "/api/generate", {"prompt": "a red ball", "model": "flipbook", "seed": 3})
    assert (answer.status, answer.type) == (200, "video/mp4")
    info = probe_video(BytesIO(answer.body))
    headers = {name: answer.headers[f"x-mold-video-{name}"] for name in ("frames", "fps", "width", "height")}
    assert headers == {"frames": "17", "fps": "24", "width": "64", "height": "48"}
    assert (info.frames, answer.headers["x-mold-video-has-audio"], answer.headers["x-mold-seed-used"]) == (17, "1", "3")


def test_the_stream_carries_a_video_as_base64(videos: Server) -> None:
    answer = videos.ask("POST", "/api/generate/stream", {"prompt": "a red ball", "model": "flipbook", "frames": 9})
    (complete,) = [data for name, data in events(answer.body) if name == "complete"]
    assert (complete["video_frames"], complete["video_fps"], complete["format"]) == (9, 24, "mp4")
    assert probe_video(BytesIO(base64.b64decode(complete["image"]))).frames == 9


def test_a_chain_answers_with_the_shape_of_the_page(videos: Server) -> None:
    answer = videos.ask("POST", "/api/generate/chain", VIDEO)
    assert answer.status == 200
    body = answer.json()
    video = body["video"]
    assert {name: video[name] for name in ("format", "width", "height", "frames", "fps", "duration_ms")} == {
        "format": "mp4",
        "width": 64,
        "height": 48,
        "frames": 40,
        "fps": 24,
        "duration_ms": 1666,
    }
    assert (body["stage_count"], video["has_audio"]) == (4, True)
    assert probe_video(BytesIO(base64.b64decode(video["data"]))).frames == 40
    assert base64.b64decode(video["thumbnail"]).startswith(b"\x89PNG")
    assert base64.b64decode(video["gif_preview"]).startswith(b"GIF8")


def test_the_stream_of_a_chain_has_the_events_of_the_page_in_order(videos: Server) -> None:
    told = events(videos.ask("POST", "/api/generate/chain/stream", {**VIDEO, "seed": 4}).body)
    progress = [data for name, data in told if name == "progress"]
    kinds = [(data["type"], data.get("stage_idx")) for data in progress]
    clip = ("stage_start", "denoise_step", "denoise_step", "stage_done")
    assert kinds == [
        ("chain_start", None),
        *((kind, index) for index in range(4) for kind in clip),
        ("stitching", None),
    ]
    name, complete = told[-1]
    assert (name, complete["frames"], complete["stage_count"]) == ("complete", 40, 4)
    assert "data" not in complete
    assert probe_video(BytesIO(base64.b64decode(complete["video"]))).frames == 40


def test_a_stage_that_fails_is_a_502_that_says_what_is_kept(videos: Server) -> None:
    stages = [{"prompt": f"a {word} ball", "frames": 17} for word in ("red", "broken", "blue")]
    request = {"model": "flipbook", "stages": stages, "seed": 9}
    before = len(videos.ask("GET", "/api/gallery").json())
    answer = videos.ask("POST", "/api/generate/chain", request)
    assert answer.status == 502
    assert "stage 1 of 3 failed" in answer.json()["error"]
    assert "1 finished stages are kept" in answer.json()["error"]
    streamed: list[Any] = events(videos.ask("POST", "/api/generate/chain/stream", request).body)
    assert streamed[-1][0] == "error"
    assert "stage 1 of 3 failed" in streamed[-1][1]["message"]
    assert len(videos.ask("GET", "/api/gallery").json()) == before


def test_a_finished_chain_is_in_the_gallery(videos: Server) -> None:
    videos.ask("POST", "/api/generate/chain", {**VIDEO, "seed": 5})
    first = videos.ask("GET", "/api/gallery").json()[0]
    assert (first["format"], first["metadata"]["seed"], first["metadata"]["frames"]) == ("mp4", 5, 40)
    file = videos.ask("GET", f"/api/gallery/image/{first['filename']}")
    assert (file.type, probe_video(BytesIO(file.body)).frames) == ("video/mp4", 40)


def test_limits_of_chains_are_told(videos: Server) -> None:
    limits = videos.ask("GET", "/api/capabilities/chain-limits?model=flipbook").json()
    assert (limits["max_stages"], limits["transition_modes"]) == (16, ["smooth", "cut", "fade"])
