"""mold chain: scripts in, videos out, and what was stopped goes on."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from mold_core.media.video import decode_frames, probe_video

SCRIPT = """
schema = "mold.chain.v1"

[chain]
model = "flipbook"
seed = 7

[[stage]]
prompt = "a red ball"
frames = 17

[[stage]]
prompt = "a blue ball"
frames = 17

[[stage]]
prompt = "a green ball"
frames = 17
transition = "fade"
fade_frames = 4
"""

FRAMES = 17 + 8 + 13

Run = Callable[..., subprocess.CompletedProcess[Any]]


@pytest.fixture
def videos(sketch_inside: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `mold` with the family flipbook, in this process."""
    monkeypatch.setenv("SKETCH_FILMS", "1")
    return sketch_inside


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "video.toml"
    path.write_text(SCRIPT)
    return path


def test_a_script_is_checked_without_making_anything(videos: Run, script: Path) -> None:
    ran = videos("chain", "validate", str(script))
    assert (ran.returncode, ran.stdout) == (0, f"OK — 3 stages, {FRAMES} frames estimated\n")
    ran = videos("chain", "run", str(script), "--dry-run")
    assert (ran.returncode, ran.stdout) == (0, f"3 stages, {FRAMES} frames estimated\n")


def test_a_wrong_script_is_one_line_and_status_2(videos: Run, script: Path) -> None:
    script.write_text(SCRIPT.replace("frames = 17", "frames = 16", 1))
    ran = videos("chain", "validate", str(script))
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == "error: stages[0].frames must be of the form 8n+1, not 16; the nearest are 9 and 17\n"


def test_a_script_becomes_a_video(videos: Run, script: Path, tmp_path: Path) -> None:
    target = tmp_path / "video.mp4"
    ran = videos("chain", "run", str(script), "-o", str(target))
    assert ran.returncode == 0, ran.stderr
    with target.open("rb") as file:
        assert probe_video(file).frames == FRAMES
    assert f"{FRAMES} frames at 24, seed 7" in ran.stderr + ran.stdout


def test_mold_run_takes_a_script_too(videos: Run, script: Path, tmp_path: Path) -> None:
    assert videos("run", "--script", str(script), "--dry-run").stdout == f"3 stages, {FRAMES} frames estimated\n"
    target = tmp_path / "video.mp4"
    ran = videos("run", "--script", str(script), "--seed", "9", "-o", str(target))
    assert ran.returncode == 0, ran.stderr
    with target.open("rb") as file:
        assert probe_video(file).frames == FRAMES
    assert f"{FRAMES} frames at 24, seed 9" in ran.stderr + ran.stdout


@pytest.mark.parametrize(
    ("extra", "what"), [(("--steps", "4"), "--steps"), (("a red ball",), "a prompt"), (("-m", "flipbook"), "-m")]
)
def test_what_a_script_says_has_no_flag(videos: Run, script: Path, extra: tuple[str, ...], what: str) -> None:
    ran = videos("run", "--script", str(script), *extra)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == (
        f"error: {what} cannot be combined with --script, which sets everything but the seed;"
        " edit the script, or leave one out\n"
    )


def test_the_suffix_decides_the_format(videos: Run, script: Path, tmp_path: Path) -> None:
    target = tmp_path / "video.gif"
    assert videos("chain", "run", str(script), "-o", str(target)).returncode == 0
    assert target.read_bytes().startswith(b"GIF89a")
    ran = videos("chain", "run", str(script), "-o", str(tmp_path / "video.avi"))
    assert ran.returncode == 2
    assert "use .mp4, .gif, .png, .apng or .webp" in ran.stderr


def test_chains_are_listed_and_resumed_by_their_names(videos: Run, script: Path, tmp_path: Path) -> None:
    first, again = tmp_path / "a.mp4", tmp_path / "b.mp4"
    videos("chain", "run", str(script), "-o", str(first))
    (row,) = json.loads(videos("chain", "list", "--json").stdout)
    assert (row["model"], row["prompt"], row["stages"]) == ("flipbook:v1", "a red ball", 3)
    assert row["id"] in videos("chain", "list").stdout
    assert videos("chain", "resume", row["id"], "-o", str(again)).returncode == 0
    assert again.read_bytes() == first.read_bytes()


def test_an_unknown_name_says_which_there_are(videos: Run) -> None:
    ran = videos("chain", "resume", "0123456789abcdef")
    assert ran.returncode == 2
    assert "there is no chain '0123456789abcdef'; known: none" in ran.stderr


@pytest.mark.parametrize("steps", [pytest.param(1, marks=pytest.mark.soak), 3, pytest.param(6, marks=pytest.mark.soak)])
def test_a_chain_killed_in_any_stage_ends_in_the_same_bytes(
    sketch: Run, sketch_process: Callable[..., subprocess.Popen[Any]], script: Path, home: Path, steps: int
) -> None:
    video = partial(sketch, SKETCH_FILMS="1", text=False)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = ("chain", "run", str(script), "-o", "-")
    with sketch_process(*command, SKETCH_FILMS="1", SKETCH_SAYS="1", **pipes) as process:
        said = 0
        while said < steps:
            said += b"step" in process.stderr.readline()
        process.kill()
    resumed = video(*command)
    whole = video(*command, MOLD_HOME=str(home / "other"))
    assert resumed.returncode == whole.returncode == 0, resumed.stderr
    assert resumed.stdout == whole.stdout
    assert sum(1 for _ in decode_frames(BytesIO(whole.stdout))) == FRAMES


def test_mold_run_makes_a_video_with_a_model_of_videos(videos: Run, tmp_path: Path) -> None:
    target = tmp_path / "ball.mp4"
    ran = videos("run", "-m", "flipbook", "a red ball", "--frames", "9", "--fps", "12", "--no-audio", "-o", str(target))
    assert ran.returncode == 0, ran.stderr
    with target.open("rb") as file:
        info = probe_video(file)
    assert (info.frames, info.fps, info.has_audio) == (9, 12.0, False)


def test_mold_run_chains_clips_for_a_longer_video(videos: Run, tmp_path: Path) -> None:
    target = tmp_path / "ball.mp4"
    long = ("--frames", "40", "--clip-frames", "17", "--motion-tail", "1", "--seed", "3")
    ran = videos("run", "-m", "flipbook", "a red ball", *long, "-o", str(target))
    assert ran.returncode == 0, ran.stderr
    with target.open("rb") as file:
        assert probe_video(file).frames == 40
    (row,) = json.loads(videos("chain", "list", "--json").stdout)
    assert row["stages"] == 3


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("-o", "a.jpeg"), "has the unknown suffix .jpeg; use .mp4, .gif"),
        (("--format", "jpeg", "-o", "a"), "--format jpeg cannot be used for videos; use one of mp4, gif, apng, webp"),
        (("--keyframe", "a.png"), "must be FRAME:PATH; as in 48:boat.png"),
        (("--frames", "40", "--clip-frames", "17", "-n", "rain"), "--negative-prompt cannot be used for a chain"),
        (
            ("--frames", "40", "--clip-frames", "17", "--temporal-upscale", "x2"),
            "--temporal-upscale cannot be used for a chain",
        ),
        (("--frames", "40", "--clip-frames", "17", "--pipeline", "a2vid"), "--pipeline cannot be used for a chain"),
        (
            ("--frames", "40", "--clip-frames", "17", "--audio-file", __file__),
            "--audio-file cannot be used for a chain",
        ),
        (
            ("--frames", "40", "--clip-frames", "17", "--video", __file__),
            "--video cannot be used for a chain: 40 frames in",
        ),
        (("--retake", "1-2"), "error: --retake '1-2' must be START:END in seconds; as in 1.5:3"),
        (("--audio-file", "none.wav"), "error: --audio-file 'none.wav' cannot be read: No such file or directory"),
        (("--video", __file__), "error: source_video is not an MP4 file, or is damaged"),
        (("--dry-run",), "error: --dry-run prints the plan of a script; pass one with --script"),
    ],
)
def test_what_a_video_cannot_have_is_one_line(videos: Run, flags: tuple[str, ...], words: str) -> None:
    ran = videos("run", "-m", "flipbook", "a red ball", *flags)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert words in ran.stderr
