"""Long videos of the model that ships, over HTTP: both forms of the request, and a server that dies in each clip."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import av
import pytest
from http_server import PATIENCE_S, Server, events, serving

MODEL = "ltx2-nano"
PROMPT = "a red boat sailing left to right"
FRAMES, CLIP, FPS = 40, 25, 16


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("videos") / "home") as server:
        yield server


def measured(data: bytes) -> tuple[int, float, tuple[int, int], float]:
    """Return frames, frames per second, size and seconds of sound of an MP4, all counted by decoding it."""
    with av.open(BytesIO(data)) as container:
        stream = container.streams.video[0]
        count = sum(1 for _ in container.decode(stream))
        rate, size = float(stream.average_rate), (stream.width, stream.height)
    with av.open(BytesIO(data)) as container:
        sound = container.streams.audio[0]
        seconds = sum(frame.samples for frame in container.decode(sound)) / sound.rate
    return count, rate, size, seconds


def test_both_forms_give_the_frames_that_were_asked_for(videos: Server) -> None:
    divided = {"model": MODEL, "prompt": PROMPT, "total_frames": FRAMES, "clip_frames": CLIP, "seed": 3}
    stages = [{"prompt": PROMPT, "frames": CLIP}, {"prompt": f"{PROMPT} at sunset", "frames": CLIP}]
    staged = {"model": MODEL, "stages": stages, "motion_tail_frames": 2, "seed": 3}
    for request, frames in ((divided, FRAMES), (staged, 2 * CLIP - 9)):
        answer = videos.ask("POST", "/api/generate/chain", request)
        assert answer.status == 200, answer.body[:300]
        count, rate, size, seconds = measured(base64.b64decode(answer.json()["video"]["data"]))
        assert (count, rate, size) == (frames, FPS, (64, 64))
        # AAC comes in whole packets of 1024 samples: what was put in is as long as the frames.
        assert abs(seconds - frames / FPS) <= 1 / FPS + 1024 / 24_000


def test_limits_are_those_of_the_model(videos: Server) -> None:
    limits = videos.ask("GET", f"/api/capabilities/chain-limits?model={MODEL}").json()
    assert (limits["frames_per_clip_recommended"], limits["frames_per_clip_cap"]) == (49, 97)


def test_the_stream_tells_every_denoising_step_of_every_clip(videos: Server) -> None:
    request = {"model": MODEL, "prompt": PROMPT, "total_frames": FRAMES, "clip_frames": CLIP, "seed": 4}
    told = events(videos.ask("POST", "/api/generate/chain/stream", request).body)
    progress = [data for name, data in told if name == "progress"]
    steps = [(data["stage_idx"], data["step"]) for data in progress if data["type"] == "denoise_step"]
    assert steps == [(stage, step) for stage in range(2) for step in range(1, 9)]
    assert told[-1][0] == "complete"
    assert measured(base64.b64decode(told[-1][1]["video"]))[0] == FRAMES


@pytest.mark.soak
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_chain_that_is_killed_in_any_clip_ends_in_the_same_bytes(tmp_path: Path, videos: Server, stage: int) -> None:
    request = {
        "model": MODEL, "prompt": "a green car driving right to left", "total_frames": 57,
        "clip_frames": CLIP, "seed": 11,
    }  # fmt: skip
    whole = videos.ask("POST", "/api/generate/chain", request).json()["video"]["data"]
    home = tmp_path / "home"
    with serving(home) as first:
        job = first.ask("POST", "/api/jobs", {"kind": "chain", "request": request}).json()["id"]
        wait_for_step(first, job, stage)
        first.process.kill()
        first.process.wait()
    with serving(home) as second:
        again = second.ask("POST", "/api/generate/chain", request)
        assert again.status == 200, again.body[:300]
        assert again.json()["video"]["data"] == whole


def wait_for_step(server: Server, job: str, stage: int) -> None:
    """Return when a chain is in the middle of a clip."""
    told = b""
    with server.begin("GET", f"/api/jobs/{job}/events") as connection:
        connection.settimeout(PATIENCE_S)
        while not re.search(rb'"stage_idx": ?%d, ?"step": ?[2-9]' % stage, told):
            part = connection.recv(65_536)
            assert part, told[-300:]
            told += part
