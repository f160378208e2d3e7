"""Videos hold the frames and the sound that went in, and nothing of a hostile file gets through."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import pytest
from PIL import Image, ImageDraw

from mold_core import ValidationError
from mold_core.media import OutputMetadata
from mold_core.media.video import VideoFormat, VideoWriter, decode_frames, probe_video, read_video_metadata

SIZE = (96, 64)
RATE = 24_000

METADATA = OutputMetadata(
    prompt="a red ball · ein Ball", model="m:x", seed=1, steps=8, guidance=1.0, width=96, height=64, version="0"
)


# Three threads of a new process that all need PyAV at once; prints what went wrong in them.
FIRST_NEED = """
import sys, threading
from io import BytesIO
from pathlib import Path
from PIL import Image
from mold_core.media.video import VideoWriter, decode_frames, probe_video

data = Path(sys.argv[1]).read_bytes()
together, wrong = threading.Barrier(3), []

def write():
    with VideoWriter(BytesIO(), "gif", width=16, height=16, fps=8) as video:
        video.add(Image.new("RGB", (16, 16)))

def attempt(work):
    together.wait()
    try:
        work()
    except BaseException as error:
        wrong.append(repr(error))

works = lambda: list(decode_frames(BytesIO(data))), lambda: probe_video(BytesIO(data)), write
threads = [threading.Thread(target=attempt, args=(work,)) for work in works]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(wrong)
"""


def ball(index: int) -> Image.Image:
    """Return a frame in which a red ball is `index` steps on its way to the right."""
    image = Image.new("RGB", SIZE, (20, 40, 90))
    ImageDraw.Draw(image).ellipse((2 * index, 20, 2 * index + 24, 44), fill=(230, 60, 20))
    return image


def write(path: Path, format: VideoFormat, frames: int = 24, *, sound: bool = False, fps: int = 24) -> Path:
    rate = RATE if sound else None
    tone = np.sin(np.arange(RATE // fps) * 0.2, dtype=np.float32)
    with (
        path.open("w+b") as file,
        VideoWriter(file, format, width=SIZE[0], height=SIZE[1], fps=fps, sample_rate=rate, metadata=METADATA) as video,
    ):
        for index in range(frames):
            video.add(ball(index))
            video.add_sound(np.stack([tone, -tone]))
    return path


def shows(image: Image.Image, index: int) -> bool:
    """Say whether the image is frame `index`, as nearly as a lossy format keeps it."""
    difference = np.abs(np.asarray(image.convert("RGB"), np.int16) - np.asarray(ball(index), np.int16))
    return float(difference.mean()) < 6


def test_an_mp4_gives_its_frames_back_in_order(tmp_path: Path) -> None:
    with write(tmp_path / "a.mp4", "mp4").open("rb") as file:
        frames = list(decode_frames(file))
    assert len(frames) == 24
    assert all(shows(frame, index) for index, frame in enumerate(frames))
    assert not shows(frames[0], 23)


def test_an_mp4_says_what_is_in_it(tmp_path: Path) -> None:
    with write(tmp_path / "a.mp4", "mp4", sound=True).open("rb") as file:
        info = probe_video(file)
    assert (info.width, info.height, info.fps, info.frames, info.duration_ms) == (96, 64, 24.0, 24, 1000)
    assert (info.has_audio, info.sample_rate, info.channels) == (True, RATE, 2)


def test_a_video_without_sound_has_none(tmp_path: Path) -> None:
    with write(tmp_path / "a.mp4", "mp4").open("rb") as file:
        assert not probe_video(file).has_audio


def test_sound_is_as_long_as_the_frames_and_is_what_went_in(tmp_path: Path) -> None:
    with write(tmp_path / "a.mp4", "mp4", sound=True).open("rb") as file, av.open(file, format="mp4") as container:
        heard = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
    assert abs(heard.shape[1] - RATE) <= RATE / 24
    left, right = heard[:, 2000:20_000]
    assert float(np.corrcoef(left, right)[0, 1]) < -0.99
    assert 0.6 < float(np.sqrt((left**2).mean())) < 0.8


@pytest.mark.parametrize("rate", [16_000, 24_000, 48_000])
def test_what_is_lost_of_sound_is_a_hundredth_of_it_at_most(tmp_path: Path, rate: int) -> None:
    time_s = np.arange(2 * rate) / rate
    tones = (np.sin(2 * np.pi * pitch * time_s) / (index + 2) for index, pitch in enumerate((220, 330, 440, 880, 1760)))
    played = np.sum(list(tones), axis=0) * np.abs(np.sin(3 * time_s)) * 0.4
    samples = np.stack([played, 0.7 * played]).astype(np.float32)
    with (tmp_path / "a.mp4").open("w+b") as file:
        with VideoWriter(file, "mp4", width=SIZE[0], height=SIZE[1], fps=24, sample_rate=rate) as video:
            for index in range(48):
                video.add(ball(index))
            video.add_sound(samples)
        file.seek(0)
        with av.open(file, format="mp4") as container:
            heard = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
    lost = heard[:, : samples.shape[1]] - samples[:, : heard.shape[1]]
    assert float((lost**2).mean()) < 0.01 * float((samples**2).mean())


def test_players_find_the_index_before_the_images(tmp_path: Path) -> None:
    data = write(tmp_path / "a.mp4", "mp4", sound=True).read_bytes()
    assert data[4:8] == b"ftyp"
    assert 0 < data.find(b"moov") < data.find(b"mdat")


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    first = write(tmp_path / "a.mp4", "mp4", sound=True).read_bytes()
    assert first == write(tmp_path / "b.mp4", "mp4", sound=True).read_bytes()


def test_an_mp4_carries_its_metadata(tmp_path: Path) -> None:
    with write(tmp_path / "a.mp4", "mp4").open("rb") as file:
        assert read_video_metadata(file) == METADATA


@pytest.mark.parametrize(("format", "kind", "delay"), [("gif", "GIF", 50), ("apng", "PNG", 50), ("webp", "WEBP", 50)])
def test_an_animation_shows_every_frame_for_its_time_and_loops(
    tmp_path: Path, format: VideoFormat, kind: str, delay: int
) -> None:
    with Image.open(write(tmp_path / "a", format, 6, fps=20)) as image:
        assert (image.format, image.n_frames, image.info["loop"]) == (kind, 6, 0)  # type: ignore[attr-defined]
        for index in range(6):
            image.seek(index)
            image.load()
            assert shows(image, index), index
            assert image.info["duration"] == delay, index


def local_palettes(gif: bytes) -> int:
    """Return how many frames of a GIF have colours of their own, by its blocks (GIF89a, §17 to §23)."""

    def table(flags: int) -> int:
        return 3 << (flags % 8 + 1) if flags & 128 else 0

    at, count = 13 + table(gif[10]), 0
    while gif[at] != 0x3B:
        if gif[at] == 0x21:
            at += 2
        else:
            count += gif[at + 9] >> 7
            at += 11 + table(gif[at + 9])
        while gif[at]:
            at += gif[at] + 1
        at += 1
    return count


def test_a_gif_with_a_shared_palette_keeps_no_other_and_shows_the_colours() -> None:
    colours = [(220, 30, 30), (30, 180, 60), (40, 60, 230)]
    tables = {}
    for shared in (True, False):
        file = BytesIO()
        with VideoWriter(file, "gif", width=32, height=32, fps=8, shared_palette=shared) as video:
            for colour in colours:
                video.add(Image.new("RGB", (32, 32), colour))
        with Image.open(file) as gif:
            assert gif.n_frames == 3  # type: ignore[attr-defined]
            seen = []
            for index in range(3):
                gif.seek(index)
                seen.append(gif.convert("RGB").getpixel((16, 16)))
            tables[shared] = local_palettes(file.getvalue())
        assert np.abs(np.array(seen) - np.array(colours)).max() <= 8
    assert tables == {True: 0, False: 2}  # the first frame has that of the file


def test_threads_that_are_the_first_to_need_pyav_do_not_trip_each_other(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", "mp4")
    for _ in range(3):  # it happened in two tries of three
        done = subprocess.run([sys.executable, "-c", FIRST_NEED, path], capture_output=True, text=True, check=True)
        assert done.stdout == "[]\n"


def test_an_odd_size_is_refused_before_anything_is_written() -> None:
    file = BytesIO()
    with pytest.raises(ValidationError, match="even width and height, not 97 x 64"):
        VideoWriter(file, "mp4", width=97, height=64, fps=24)
    assert file.getvalue() == b""


def test_a_frame_of_another_size_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "a.mp4").open("w+b") as file, VideoWriter(file, "mp4", width=96, height=64, fps=24) as video:
        with pytest.raises(ValueError, match="does not fit"):
            video.add(Image.new("RGB", (64, 64)))
        video.add(ball(0))


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b"#EXTM3U\nhttp://127.0.0.1/a.ts\n", b"\0\0\0\x18ftypisom\0\0\0\0isom", b"\x89PNG\r\n\x1a\n" * 20],
)
def test_what_is_no_mp4_is_refused(data: bytes) -> None:
    with pytest.raises(ValidationError, match="not an MP4 file, or is damaged"):
        list(decode_frames(BytesIO(data)))
    assert read_video_metadata(BytesIO(data)) is None


def test_frames_of_too_many_pixels_are_refused(tmp_path: Path) -> None:
    file: BinaryIO
    with write(tmp_path / "a.mp4", "mp4").open("rb") as file, pytest.raises(ValidationError, match="over the limit"):
        next(decode_frames(file, max_pixels=6_000))
