"""Sounds and videos in requests over HTTP: as base64, with one clear error for what is none."""

from __future__ import annotations

import base64
import pickle
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from http_server import Server, serving
from ltx2_loading import spec_of
from ltx2_media import frames, mp4, wav

from mold_core.media.sound import decode_sound
from mold_core.media.video import probe_video

PLUGIN = """
\"\"\"A tiny LTX-2.\"\"\"

import pickle
from pathlib import Path

from mold_core import hookimpl


@hookimpl
def mold_models():
    return [pickle.loads(Path(__file__).with_name("tiny.pickle").read_bytes())]
"""

HUM = 0.4 * np.sin(np.arange(16_000, dtype=np.float32) * 0.2)
ASKED: dict[str, Any] = {"prompt": "a red ball flies", "model": "ltx-2-tiny", "seed": 3}


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture(scope="module")
def server(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the tiny LTX-2."""
    site = tmp_path_factory.mktemp("site")
    (site / "tiny_plugin.py").write_text(PLUGIN)
    (site / "tiny.pickle").write_bytes(pickle.dumps(spec_of(files)))
    about = site / "mold_tiny-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mold-tiny\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[mold]\ntiny = tiny_plugin\n")
    home = tmp_path_factory.mktemp("ltx2") / "home"
    with serving(home, PYTHONPATH=str(site), MOLD_PLUGINS="tiny,ltx2,http") as server:
        yield server


def test_a_video_is_made_for_a_sound(server: Server) -> None:
    sound = text(wav(np.stack([HUM, HUM])))
    wanted = {**ASKED, "audio_file": sound, "pipeline": "a2-vid"}
    answer = server.ask("POST", "/api/generate", wanted, patience_s=300)  # the first request imports diffusers
    assert (answer.status, answer.type) == (200, "video/mp4"), answer.body[:300]
    heard = decode_sound(answer.body, max_seconds=9)
    assert heard is not None and heard.sample_rate == 16_000
    assert np.corrcoef(heard.samples[0, 2000:10_000], HUM[2000:10_000])[0, 1] > 0.95


def test_a_part_of_a_video_is_made_anew(server: Server) -> None:
    video = text(mp4(frames(18), fps=20))
    again = {"start_seconds": 0.2, "end_seconds": 0.4}
    answer = server.ask("POST", "/api/generate", {**ASKED, "source_video": video, "retake_range": again})
    assert answer.status == 200, answer.body[:300]
    info = probe_video(BytesIO(answer.body))
    assert (info.frames, info.fps, info.width, info.height) == (17, 20.0, 64, 32)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        (
            {"audio_file": text(b"no sound")},
            "audio_file is not an audio file, or is damaged; use WAV, MP3, FLAC, Ogg or M4A",
        ),
        ({"source_video": text(b"no video")}, "source_video is not an MP4 file, or is damaged"),
        ({"source_video": "?"}, "source_video must be base64 text (RFC 4648) or a data: URL"),
        ({"retake_range": {"start_seconds": 1}}, "retake_range.end_seconds is required"),
        ({"spatial_upscale": "x3"}, "spatial_upscale must be one of x1-5, x2, not 'x3'"),
    ],
)
def test_what_is_none_gets_one_error(server: Server, fields: dict[str, Any], error: str) -> None:
    answer = server.ask("POST", "/api/generate", {**ASKED, **fields})
    assert (answer.status, answer.json()) == (422, {"error": error, "code": "VALIDATION_ERROR"})
