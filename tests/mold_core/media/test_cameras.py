"""Videos of phones and cameras: upright, square pixels, clocks that tremble or begin late, HDR."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from camera_videos import (
    BLUE,
    HEIGHT,
    RED,
    WIDTH,
    corners,
    cut_by_edit_list,
    first_click_s,
    hdr_video,
    hlg,
    is_color,
    pq,
    turned,
    video,
)
from PIL import Image

from mold_core.media import decoder
from mold_core.media.video import VideoWriter, decode_frames, probe_video

TURNS = {
    "quarter": ((0, 1, -1, 0), ["blue", "red", "blue", "green"]),
    "half": ((-1, 0, 0, -1), ["green", "blue", "red", "blue"]),
    "three quarters": ((0, -1, 1, 0), ["blue", "green", "blue", "red"]),
    "mirrored": ((-1, 0, 0, 1), ["blue", "red", "blue", "green"]),
}


@pytest.mark.parametrize("name", TURNS)
def test_a_rotated_video_is_decoded_upright_and_says_so(name: str, tmp_path: Path) -> None:
    matrix, expected = TURNS[name]
    size = (HEIGHT, WIDTH) if matrix[0] == 0 else (WIDTH, HEIGHT)
    data = turned(video(tmp_path / "a.mp4"), *matrix).read_bytes()
    info = decoder.probe_video(data, name="v")
    image = decoder.decode_clip(data, name="v", frames=1)[0]
    assert (info.width, info.height) == image.size == size
    assert corners(image) == expected


def test_a_rotation_of_the_whole_movie_counts_too(tmp_path: Path) -> None:
    path = turned(turned(video(tmp_path / "a.mp4"), 0, 1, -1, 0), 0, 1, -1, 0, b"mvhd")
    assert corners(decoder.decode_clip(path.read_bytes(), name="v", frames=1)[0]) == TURNS["half"][1]


def test_thumbnails_and_previews_of_a_rotated_video_are_upright(tmp_path: Path) -> None:
    path = turned(video(tmp_path / "a.mp4"), 0, 1, -1, 0)
    small = Image.open(BytesIO(decoder.thumbnail(path, "mp4")))
    moving = Image.open(BytesIO(decoder.preview(path, "mp4", 10) or b""))
    assert corners(small.convert("RGB")) == TURNS["quarter"][1]
    assert moving.size == (HEIGHT, WIDTH)


def test_pixels_become_square(tmp_path: Path) -> None:
    data = video(tmp_path / "a.mp4", aspect=(4, 3)).read_bytes()
    info = decoder.probe_video(data, name="v")
    image = decoder.decode_clip(data, name="v", frames=1)[0]
    assert (info.width, info.height) == image.size == (128, 64)
    # The red corner is a quarter of the width in both.
    assert is_color(image.getpixel((24, 8)), RED) and is_color(image.getpixel((40, 8)), BLUE)


def test_frames_of_an_uneven_clock_come_when_players_show_them(tmp_path: Path) -> None:
    times = [0, 40, 130, 300, 330, 700]  # a screen recording: many changes, then none
    data = video(tmp_path / "a.mp4", times, bright_from_ms=300).read_bytes()
    info = decoder.probe_video(data, name="v")
    frames = decoder.decode_clip(data, name="v", frames=99, fps=20)
    first_bright = next(index for index, image in enumerate(frames) if is_color(image.getpixel((48, 32)), (255,) * 3))
    assert first_bright == 6  # 300 ms
    assert len(frames) == info.frames_at(20) >= 14


def test_a_trembling_clock_gives_every_frame_once(tmp_path: Path) -> None:
    times = [100 * index + (-1) ** index * 9 + 9 for index in range(20)]
    data = video(tmp_path / "a.mp4", times, bright_from_ms=1000).read_bytes()
    frames = decoder.decode_clip(data, name="v", frames=99, fps=10)
    assert len(frames) == 20
    assert [is_color(image.getpixel((48, 32)), (255,) * 3) for image in frames] == [False] * 10 + [True] * 10


@pytest.mark.parametrize(("video_from", "sound_from"), [(0, 400), (400, 0)])
def test_sound_and_frames_of_a_late_clock_stay_together(video_from: int, sound_from: int, tmp_path: Path) -> None:
    """The frame turns bright and the sound clicks at 600 ms, whichever of the two begins 400 ms late."""
    times = range(video_from, 1000, 100)
    path = video(tmp_path / "a.mp4", times, bright_from_ms=600, sound_from_ms=sound_from, click_ms=600)
    frames = decoder.decode_clip(path.read_bytes(), name="v", frames=99, fps=10)
    sound = decoder.decode_sound(path.read_bytes(), max_seconds=1.0, name="v")
    assert sound is not None
    assert [is_color(image.getpixel((48, 32)), (255,) * 3) for image in frames] == [False] * 6 + [True] * 4
    assert first_click_s(sound.samples, sound.sample_rate) == pytest.approx(0.6, abs=0.03)


def test_frames_that_an_edit_list_cuts_off_are_not_shown(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4", range(0, 1000, 100), bright_from_ms=600)
    data = cut_by_edit_list(path.read_bytes(), 400)
    frames = decoder.decode_clip(data, name="v", frames=99, fps=10)
    assert decoder.probe_video(data, name="v").frames_at(10) == len(frames) == 6
    assert [is_color(image.getpixel((48, 32)), (255,) * 3) for image in frames] == [False] * 2 + [True] * 4


# --- HDR -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "curve", "signal"), [("pq", 16, pq), ("hlg", 18, hlg)])
def test_hdr_has_the_brightness_of_an_sdr_display(name: str, curve: int, signal: Any, tmp_path: Path) -> None:
    nits = (5, 20, 80, 203, 1000)
    data = hdr_video(tmp_path / "a.mp4", curve, [signal(one) for one in nits])
    assert decoder.probe_video(data, name="v").transfer == name
    image = decoder.decode_clip(data, name="v", frames=1)[0]
    greys = [image.getpixel((32 * index + 16, 16))[1] for index in range(len(nits))]
    for grey, one in zip(greys[:3], nits[:3], strict=True):  # below the highlights nothing changes
        assert grey == pytest.approx(255 * (one / 203) ** (1 / 2.4), abs=3)
    assert 200 < greys[3] < greys[4] and greys[4] >= 253


# --- GIF -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fps", [60, 100, 50, 24])
def test_a_gif_is_never_faster_than_players_show_and_lasts_as_long(fps: int) -> None:
    file = BytesIO()
    with VideoWriter(file, "gif", width=32, height=32, fps=fps) as writer:
        for index in range(fps):
            writer.add(Image.new("RGB", (32, 32), (index * 255 // fps, 0, 0)))
    gif = Image.open(file)
    delays, reds = [], []
    for index in range(gif.n_frames):
        gif.seek(index)
        delays.append(gif.info["duration"])
        reds.append(gif.convert("RGB").getpixel((0, 0))[0])
    assert len(delays) == min(fps, 50) and min(delays) >= 20
    assert sum(delays) == pytest.approx(1000, abs=20)
    steps = np.diff(reds)
    assert steps.max() <= -(-2 * 255 // fps) + 2 if fps <= 60 else True  # dropped evenly


def test_what_mold_writes_keeps_all_its_frames(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4")
    with path.open("rb") as file:
        assert len(list(decode_frames(file))) == probe_video(file).frames == 8
