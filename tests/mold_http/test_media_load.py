"""Files that take long to decode hold up nobody but who sent them, and nobody who left."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from time import monotonic, sleep
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from http_server import Answer, Server, serving
from ltx2_media import frames, mp4
from media_bombs import black_gif

from mold_core import CancelledError
from mold_core.media.decoder import decode_sound
from mold_core.media.decoder.pool import pool
from mold_core.media.decoder.process import Task
from mold_http.disconnect import Presence
from mold_http.media_threads import MediaThreads

SLOW = 8  # previews that take seconds of a processor each
PATIENCE_S = 60.0
ASKED: dict[str, Any] = {"prompt": "a", "model": "ltx2-nano", "steps": 1}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("load") / "home"
    (home / "output").mkdir(parents=True)
    slow = black_gif((3900, 3900), 300)
    for number in range(SLOW):
        (home / "output" / f"slow-{number}.gif").write_bytes(slow)
    with serving(home, MOLD_THUMBNAIL_WARMUP="0") as server:
        assert server.soon("/api/gallery", lambda found: len(found) == SLOW)
        yield server


def decoders(server: Server) -> set[int]:
    """Return the decoder processes of a server."""
    found = set()
    for task in Path(f"/proc/{server.process.pid}/task").iterdir():
        with suppress(OSError):
            for pid in (task / "children").read_text().split():
                if b"decoder" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.add(int(pid))
    return found


def until(condition: Any) -> None:
    deadline = monotonic() + PATIENCE_S
    while not condition():
        assert monotonic() < deadline
        sleep(0.02)


def is_busy(pid: int) -> bool:
    """Say whether a process computes: its processor time grows."""
    times = []
    for _ in range(2):
        with suppress(OSError):
            times.append(sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13])))
        sleep(0.15)
    return len(times) == 2 and times[1] > times[0]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are found in /proc")
def test_while_files_are_decoded_all_other_routes_answer(server: Server) -> None:
    answers: list[Answer] = []
    threads = [
        threading.Thread(target=lambda n=n: answers.append(server.ask("GET", f"/api/gallery/preview/slow-{n}.gif")))  # type: ignore[misc]
        for n in range(SLOW)
    ]
    for thread in threads:
        thread.start()
    until(lambda: any(map(is_busy, decoders(server))))
    while any(thread.is_alive() for thread in threads):
        for path in ("/health", "/api/status", "/api/gallery", "/api/models", "/api/jobs"):
            assert server.ask("GET", path, patience_s=10).status == 200
    assert {answer.status for answer in answers} <= {404, 422}


def test_the_decoder_of_a_client_who_leaves_is_killed() -> None:
    task = Task(
        name="preview",
        source=black_gif((3900, 3900), 2_000),  # minutes of work
        options={
            "format": "gif", "side": 256, "max_pixels": 32_000_000, "frames": 2_000, "every": 1, "delay_ms": 100,
        },
        cpu_s=3600, wall_s=3600, patience_s=3600,
    )  # fmt: skip
    at_work = threading.Event()

    def work() -> None:
        at_work.set()
        pool().run(task)

    async def leave() -> dict[str, Any]:
        await asyncio.to_thread(at_work.wait)
        return {"type": "http.disconnect"}

    async def ask() -> None:
        threads = MediaThreads(seconds=3600)
        request: Any = SimpleNamespace(scope={"mold.presence": Presence(leave)})
        try:
            await threads.run(request, work)
        finally:
            threads.close()

    with pytest.raises(CancelledError):
        asyncio.run(asyncio.wait_for(ask(), PATIENCE_S))


def test_a_source_that_is_no_longer_than_needed_is_accepted(server: Server) -> None:
    hum = 0.4 * np.sin(np.arange(16_000, dtype=np.float32) * 0.2)
    video = mp4(frames(18), sound=np.stack([hum, hum]))
    wanted = {**ASKED, "source_video": base64.b64encode(video).decode(), "frames": 25}
    answer = server.ask("POST", "/api/generate", wanted, patience_s=300)
    assert (answer.status, answer.type) == (200, "video/mp4"), answer.body[:300]
    assert decode_sound(answer.body, max_seconds=1) is not None


def many_frames() -> bytes:
    """An MP4 in fragments, whose frames nobody has counted."""
    buffer = BytesIO()
    options = {"movflags": "frag_keyframe+empty_moov"}
    with av.open(buffer, "w", format="mp4", options=options) as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "4"})
        stream.width, stream.height = 64, 32
        for image in frames(25):
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def test_frames_in_fragments_are_counted_without_decoding_them(server: Server) -> None:
    wanted = {
        **ASKED,
        "source_video": base64.b64encode(many_frames()).decode(),
        "retake_range": {"start_seconds": 0, "end_seconds": 1.5},
    }
    answer = server.ask("POST", "/api/generate", wanted)
    assert answer.status == 422
    assert "and the source_video has 1.00 s" in answer.json()["error"]


def test_a_server_that_is_stopped_leaves_no_decoder(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "output").mkdir(parents=True)
    (home / "output" / "slow.gif").write_bytes(black_gif((3900, 3900), 300))
    with serving(home, MOLD_SHUTDOWN_GRACE_S="1") as server:
        assert server.soon("/api/gallery", lambda found: len(found) == 1)
        with server.begin("GET", "/api/gallery/preview/slow.gif"):
            until(lambda: any(map(is_busy, decoders(server))))
            here = decoders(server)
            server.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                server.process.wait(PATIENCE_S)
        assert here
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in here))
