"""Media of clients is decoded in another process, within limits: nothing that a file claims reaches this one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from time import monotonic
from typing import Any

import attrs
import numpy as np
import pytest
from ltx2_media import frames, mp4, wav
from media_bombs import ANIMATED, SOUNDS, VIDEOS, black_gif, flac
from PIL import Image

from mold_core import CancelledError, ValidationError
from mold_core.media import decoder, video
from mold_core.media.decoder.pool import DecoderPool
from mold_core.media.decoder.process import DecoderProcess, Task
from mold_core.media.sound import decode_sound

HUM = 0.4 * np.sin(np.arange(16_000, dtype=np.float32) * 0.2)
LARGE = black_gif((3900, 3900), 300)  # half a minute of work
SMALL = black_gif((8, 8), 2)
PATIENCE_S = 60.0


@pytest.fixture
def pool() -> Iterator[DecoderPool]:
    pool = DecoderPool()
    yield pool
    pool.close()


def task(data: bytes, name: str = "preview", **limits: float) -> Task:
    options: dict[str, Any] = {"format": "gif", "side": 256, "max_pixels": 32_000_000}
    if name == "preview":
        options |= {"frames": 5_000, "every": 1, "delay_ms": 100}
    return Task(
        name=name, source=data, options=options, **{"cpu_s": 600, "wall_s": 600, "patience_s": PATIENCE_S, **limits}
    )


def in_thread(pool: DecoderPool, work: Task, cancellation: decoder.Cancellation | None = None) -> Any:
    """Start a task in a thread; return the thread and the list that gets its error."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with decoder.cancellable(cancellation or decoder.Cancellation()):
                pool.run(work)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors


def until(condition: Any) -> None:
    deadline = monotonic() + PATIENCE_S
    while not condition():
        assert monotonic() < deadline
        threading.Event().wait(0.01)


def test_a_video_gives_what_it_gives_in_this_process() -> None:
    data = mp4(frames(17), sound=np.stack([HUM, -HUM]))
    assert decoder.probe_video(data, name="v") == video.probe_video(BytesIO(data))
    here, there = list(video.decode_frames(BytesIO(data))), decoder.decode_clip(data, name="v", frames=99)
    assert [image.tobytes() for image in there] == [image.tobytes() for image in here]
    some = decoder.decode_clip(data, name="v", frames=9, every=4)
    assert [image.tobytes() for image in some] == [image.tobytes() for image in here[:9:4]]


def test_a_sound_gives_what_it_gives_in_this_process() -> None:
    data = wav(np.stack([HUM, -HUM]))
    here, there = decode_sound(data, max_seconds=0.7), decoder.decode_sound(data, max_seconds=0.7)
    assert here is not None and there is not None
    assert np.array_equal(here.samples, there.samples) and here.sample_rate == there.sample_rate
    info = decoder.probe_sound(data, max_seconds=0.7, name="s")
    assert info is not None and (info.sample_rate, info.channels, info.samples) == (16_000, 2, 11_200)
    assert decoder.probe_sound(mp4(frames(3)), max_seconds=1, name="s") is None


def test_frames_far_larger_than_needed_come_smaller() -> None:
    (image,) = decoder.decode_clip(mp4(frames(1, (512, 256))), name="v", frames=1, reach=(64, 32))
    assert image.size == (128, 64)
    (image,) = decoder.decode_clip(mp4(frames(1, (512, 256))), name="v", frames=1, reach=(256, 128))
    assert image.size == (512, 256)


@pytest.mark.parametrize("name", SOUNDS)
def test_a_sound_that_claims_too_much_is_refused_by_its_field(name: str) -> None:
    with pytest.raises(ValidationError) as caught:
        decoder.probe_sound(SOUNDS[name](), max_seconds=2, name="audio_file")
    assert caught.value.field == "audio_file"


@pytest.mark.parametrize("name", VIDEOS)
def test_a_video_that_claims_too_much_is_refused_by_its_field(name: str) -> None:
    with pytest.raises(ValidationError) as caught:
        decoder.probe_video(VIDEOS[name](), name="source_video")
    assert caught.value.field == "source_video"


@pytest.mark.parametrize("name", ANIMATED)
def test_moving_images_that_claim_too_much_give_no_preview(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(ANIMATED[name]())
    format = {"G": "gif", "A": "apng", "W": "webp", "P": "apng"}[name[0]]
    try:
        made = decoder.preview(path, format, 8)
    except ValidationError:
        return
    assert made is None or len(made) < 1_000_000


def test_sound_at_a_low_rate_is_cut_before_it_is_resampled() -> None:
    sound = decoder.decode_sound(flac(1000, 1000, frames=100, block=60_000), max_seconds=2)
    assert sound is not None and sound.samples.shape == (1, 96_000)


def test_the_server_never_imports_a_decoder_of_video() -> None:
    script = (
        "import sys; from mold_core.media import decoder\n"
        "data = sys.stdin.buffer.read()\n"
        "decoder.probe_video(data, name='v'); decoder.probe_sound(data, max_seconds=1, name='v')\n"
        "decoder.decode_clip(data, name='v', frames=1)\n"
        "print({'av', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], input=mp4(frames(2)), capture_output=True, check=True)
    assert done.stdout == b"set()\n"


def test_what_is_damaged_in_any_way_is_refused_by_its_field() -> None:
    chance, wrong = np.random.default_rng(5), []
    honest = {
        "source_video": mp4(frames(9), sound=np.stack([HUM, HUM])),
        "audio_file": wav(np.stack([HUM[:4000], HUM[:4000]])),
    }
    for index in range(60):
        for name, data in honest.items():
            bad = bytearray(data)
            for place in chance.integers(0, min(len(bad), 3000), 1 + index % 12):
                bad[place] = chance.integers(256)
            try:
                if name == "source_video":
                    decoder.probe_video(bytes(bad), name=name)
                decoder.probe_sound(bytes(bad), max_seconds=1, name=name)
            except ValidationError as error:
                if error.field != name:
                    wrong.append(str(error))
    assert not wrong


def test_a_task_over_its_processor_time_is_ended_and_the_next_one_runs(pool: DecoderPool) -> None:
    with pytest.raises(ValidationError, match="the file takes too long to decode"):
        pool.run(task(LARGE, cpu_s=0.1))
    pool.run(task(SMALL, "thumbnail"))


def test_a_task_over_its_time_is_ended(pool: DecoderPool) -> None:
    with pytest.raises(ValidationError, match="the file takes too long to decode"):
        pool.run(task(LARGE, wall_s=0.3))


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS")
def test_a_task_over_its_memory_is_refused_and_the_process_lives(pool: DecoderPool) -> None:
    buffer = BytesIO()
    Image.new("1", (24_000, 24_000)).save(buffer, "PNG")
    options = {"name": "image", "max_pixels": 10**9}
    with pytest.raises(ValidationError, match="image"):
        pool.run(attrs.evolve(task(buffer.getvalue(), "check_image"), options=options))
    pool.run(task(SMALL, "thumbnail"))


def test_where_the_system_limits_no_memory_it_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    from mold_core.media.decoder import process as module

    monkeypatch.setattr(module, "ADDRESS_SPACE_BYTES", 30_000_000)
    pool = DecoderPool(lambda: DecoderProcess(watches_memory=True))
    try:
        with pytest.raises(ValidationError, match="the file takes too much memory to decode"):
            pool.run(task(LARGE))
    finally:
        pool.close()


def test_files_are_handed_over_by_name_where_descriptors_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr("mold_core.media.decoder.process._INHERITS", False)
    pool = DecoderPool()
    parts: list[Any] = []
    try:
        pool.run(task(SMALL, "thumbnail"), parts.append)
    finally:
        pool.close()
    assert Image.open(BytesIO(parts[0].data)).size == (8, 8)


def test_cancelling_ends_the_decoder_at_once(pool: DecoderPool) -> None:
    cancellation = decoder.Cancellation()
    thread, errors = in_thread(pool, task(LARGE), cancellation)
    until(lambda: cancellation._working is not None)
    cancellation.cancel()
    thread.join(PATIENCE_S)
    assert [type(error) for error in errors] == [CancelledError]
    thread, errors = in_thread(pool, task(LARGE), cancellation)
    thread.join(PATIENCE_S)
    assert [type(error) for error in errors] == [CancelledError]


def test_closing_ends_what_runs_and_what_waits(pool: DecoderPool) -> None:
    running = [in_thread(pool, task(LARGE)) for _ in range(2)]
    until(lambda: len(pool._in_use) == 2)
    waiting = in_thread(pool, task(LARGE))
    pool.close()
    for thread, errors in (*running, waiting):
        thread.join(PATIENCE_S)
        assert [type(error) for error in errors] == [CancelledError]


def test_who_finds_no_decoder_free_in_time_is_told(pool: DecoderPool) -> None:
    running = [in_thread(pool, task(LARGE)) for _ in range(2)]
    until(lambda: len(pool._in_use) == 2)
    with pytest.raises(ValidationError, match=r"could not be read in time: other files are being decoded"):
        pool.run(task(LARGE, patience_s=0.05))
    pool.close()
    for thread, _errors in running:
        thread.join(PATIENCE_S)


def test_a_decoder_that_was_killed_while_idle_is_replaced(pool: DecoderPool) -> None:
    pool.warm()
    process = pool._idle[0]
    process._process.kill()
    process._process.wait()
    pool.run(task(SMALL, "thumbnail"))


def test_it_ends_with_the_process_that_started_it() -> None:
    script = (
        "import os\nfrom mold_core.media.decoder.pool import pool\n"
        "pool().warm(); print(pool()._idle[0].pid, flush=True); os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    pid = int(done.stdout)

    def is_gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
        except OSError:
            return True

    if sys.platform == "linux":
        until(is_gone)


def test_it_knows_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLD_API_KEY", "secret")
    process = DecoderProcess()
    try:
        if sys.platform == "linux":
            assert b"secret" not in Path(f"/proc/{process.pid}/environ").read_bytes()
    finally:
        process.close()
