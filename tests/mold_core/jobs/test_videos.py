"""Requests for videos: what is filled in, what is refused, and the file that comes out."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from mold_core import Engine, GenerateRequest, ValidationError, VideoData
from mold_core.media import read_metadata
from mold_core.media.video import decode_frames, probe_video, read_video_metadata
from mold_core.testing import (
    FakePlugin,
    FlipbookFamily,
    SketchFamily,
    ball_at,
    engine_with,
    flipbook_model,
    sketch_model,
)


@pytest.fixture
def engine() -> Iterator[Engine]:
    families = [FlipbookFamily(), SketchFamily()]
    with engine_with(FakePlugin(families=families, models=[flipbook_model(), sketch_model()])) as engine:
        yield engine


def clip(engine: Engine, **fields: Any) -> VideoData:
    request = GenerateRequest(**{"prompt": "a red ball", "model": "flipbook", "seed": 7, **fields})
    response = engine.generate(request)
    assert response.images == ()
    assert response.video is not None
    return response.video


def test_a_video_has_the_model_s_frames_and_rate_and_sound(engine: Engine) -> None:
    video = clip(engine)
    info = probe_video(BytesIO(video.data))
    assert (info.frames, info.fps, info.width, info.height, info.has_audio) == (17, 24.0, 64, 48, True)
    assert (video.format, video.frames, video.fps, video.has_audio, video.duration_ms) == ("mp4", 17, 24, True, 708)
    assert video.gif_preview is None


def test_frames_rate_and_silence_are_as_asked(engine: Engine) -> None:
    video = clip(engine, frames=9, fps=12, enable_audio=False)
    info = probe_video(BytesIO(video.data))
    assert (info.frames, info.fps, info.has_audio) == (9, 12.0, False)


def test_the_first_frame_and_a_preview_come_along(engine: Engine) -> None:
    video = clip(engine, gif_preview=True)
    assert video.thumbnail is not None and video.gif_preview is not None
    with Image.open(BytesIO(video.thumbnail)) as first, Image.open(BytesIO(video.gif_preview)) as gif:
        assert ball_at(first) == pytest.approx(ball_at(next(decode_frames(BytesIO(video.data)))), abs=0.5)
        assert gif.n_frames == 6  # type: ignore[attr-defined]


def test_the_file_says_what_it_was_made_from(engine: Engine) -> None:
    metadata = read_video_metadata(BytesIO(clip(engine).data))
    assert metadata is not None
    assert (metadata.model, metadata.seed, metadata.frames, metadata.fps) == ("flipbook:v1", 7, 17, 24)
    assert read_video_metadata(BytesIO(clip(engine, embed_metadata=False).data)) is None


@pytest.mark.parametrize("format", ["gif", "apng", "webp"])
def test_files_of_other_formats_say_it_too(engine: Engine, format: str) -> None:
    metadata = read_metadata(clip(engine, output_format=format).data)
    assert metadata is not None
    assert (metadata.model, metadata.seed, metadata.frames, metadata.fps) == ("flipbook:v1", 7, 17, 24)
    assert read_metadata(clip(engine, output_format=format, embed_metadata=False).data) is None


def test_the_same_request_gives_the_same_bytes(engine: Engine) -> None:
    assert clip(engine).data == clip(engine).data


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"output_format": "png"}, "output_format", "is for images; flipbook:v1 generates videos"),
        ({"output_format": "mp4", "model": "sketch"}, "output_format", "is for videos; sketch:v1 generates images"),
        ({"frames": 9, "model": "sketch"}, "frames", "needs a model that can do text-to-video"),
        ({"enable_audio": True, "output_format": "gif"}, "enable_audio", "gif files have no sound"),
        ({"batch_size": 2}, "batch_size", "generates one video"),
    ],
)
def test_what_cannot_be_is_refused(engine: Engine, fields: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words) as caught:
        clip(engine, **fields)
    assert caught.value.field == field
