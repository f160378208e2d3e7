"""What a person at a terminal sees, and what signals do."""

from __future__ import annotations

import fcntl
import os
import pty
import random
import re
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Start = Callable[..., subprocess.Popen[Any]]

RUN = ("run", "a red house", "--seed", "7")
CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Terminal:
    """A terminal of so many columns; `streams` says which of a process's streams are connected to it."""

    def __init__(self, start: Start, columns: int = 80) -> None:
        self._start = start
        self._columns = columns

    def show(self, *arguments: str, streams: tuple[str, ...] = ("stdin", "stdout", "stderr"), **options: Any) -> str:
        """Run `mold` to its end and return everything that came to the screen."""
        screen, end = pty.openpty()
        fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, self._columns, 0, 0))
        others = {name: subprocess.DEVNULL for name in ("stdin", "stdout", "stderr") if name not in streams}
        with self._start(*arguments, **{**others, **dict.fromkeys(streams, end), **options}) as process:
            os.close(end)
            text = b"".join(iter(lambda: read(screen), b""))
        os.close(screen)
        assert process.returncode == 0, text
        return text.decode()


def read(screen: int) -> bytes:
    ready, _, _ = select.select([screen], [], [], 60)
    assert ready, "nothing came to the screen for a minute"
    try:
        return os.read(screen, 65_536)
    except OSError:  # Linux reports the end of a terminal as an error
        return b""


def lines_drawn(text: str) -> list[str]:
    """Return what was drawn in place: the pieces between the sequences that clear the line."""
    return [piece for piece in text.split("\r\x1b[2K")[1:] if piece]


# --- progress ----------------------------------------------------------------------------------------------------


def test_a_terminal_shows_progress_and_then_only_the_result(sketch_process: Start, tmp_path: Path) -> None:
    text = Terminal(sketch_process).show(*RUN, "-o", "house.png")
    drawn = lines_drawn(text)
    assert any("step 2/2" in piece for piece in drawn)
    assert any("Loading sketch:v1" in piece for piece in drawn)
    assert drawn[-1].startswith("\x1b[32m✓\x1b[0m house.png  32x32, seed 7, ")
    assert (tmp_path / "house.png").exists()


def test_the_progress_line_fits_a_narrow_terminal(sketch_process: Start) -> None:
    terminal = Terminal(sketch_process, columns=40)
    for streams in (("stdout", "stderr"), ("stderr",)):
        drawn = lines_drawn(terminal.show(*RUN, "-o", "house.png", "--steps", "3", streams=streams))
        assert any("step 3/3" in piece for piece in drawn)
        assert max(len(piece) for piece in drawn if "✓" not in piece) < 40


def test_the_list_of_models_fits_a_narrow_terminal(sketch_process: Start) -> None:
    models, _, _ = Terminal(sketch_process, columns=40).show("list").partition("★ default")
    lines = CONTROL.sub("", models).splitlines()
    assert max(map(len, lines)) <= 40
    assert "★ sketch:v1" in lines
    assert "32x32 · 2 steps · Rectangles for tests" in " ".join(models.split())


def test_progress_is_shown_while_the_image_goes_into_a_pipe(sketch_process: Start, tmp_path: Path) -> None:
    with (tmp_path / "piped").open("wb") as piped:
        text = Terminal(sketch_process).show(*RUN, streams=("stdin", "stderr"), stdout=piped)
    assert "step 2/2" in text
    assert Image.open(BytesIO((tmp_path / "piped").read_bytes())).size == (32, 32)


def test_without_a_terminal_nothing_is_drawn(sketch: Callable[..., Any]) -> None:
    done = sketch(*RUN, "-o", "house.png")
    assert "\r" not in done.stderr
    assert "\x1b" not in done.stderr
    assert "step" not in done.stderr


def test_at_a_terminal_the_image_is_saved_in_the_current_folder(sketch_process: Start, tmp_path: Path) -> None:
    text = Terminal(sketch_process).show(*RUN)
    (saved,) = tmp_path.glob("*.png")
    assert re.fullmatch(r"mold-sketch-v1-\d+\.png", saved.name)
    assert saved.name in text


# --- colour ------------------------------------------------------------------------------------------------------


def test_a_terminal_gets_colour(sketch_process: Start) -> None:
    assert CONTROL.search(Terminal(sketch_process).show("list"))


@pytest.mark.parametrize(
    "arguments", [("list",), ("info", "sketch"), (*RUN, "--width", "33")], ids=lambda words: words[0]
)
def test_no_color_takes_the_colour_away(sketch_process: Start, arguments: tuple[str, ...]) -> None:
    text = Terminal(sketch_process).show(*arguments, NO_COLOR="1")
    assert {code for code in CONTROL.findall(text) if code.endswith("m")} == set()


# --- signals -----------------------------------------------------------------------------------------------------


def wait_for_steps(process: subprocess.Popen[Any], count: int) -> None:
    for _ in range(count):
        line = process.stderr.readline()  # type: ignore[union-attr]
        if line != b"step\n":
            process.kill()  # it may compute for ever
        assert line == b"step\n"


def slow(start: Start, *arguments: str, steps: int = 100, step_s: str = "0.02") -> subprocess.Popen[Any]:
    return start(
        *(*RUN, "--steps", str(steps), "-o", "house.png", *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        SKETCH_SAYS="1",
        SKETCH_STEP_S=step_s,
    )


def test_ctrl_c_ends_with_one_line_130_and_no_file(sketch_process: Start, tmp_path: Path) -> None:
    with slow(sketch_process) as process:
        wait_for_steps(process, 2)
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=120)
    assert process.returncode == 130
    assert [line for line in rest.splitlines() if line != b"step"] == [b"error: interrupted"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("computes", "times"), [("whole", 1), ("pieces", 1), ("pieces", 3)])
def test_ctrl_c_ends_a_computation_that_does_not_come_back(
    sketch_process: Start, tmp_path: Path, computes: str, times: int
) -> None:
    pytest.importorskip("torch")
    with sketch_process(
        *RUN,
        "-o",
        str(tmp_path / "house.png"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        SKETCH_COMPUTES=computes,
    ) as process:
        wait_for_steps(process, 1)
        for _ in range(times):
            process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert rest.splitlines() == [b"error: interrupted"]
    assert list(tmp_path.iterdir()) == []


def test_a_kill_at_any_time_leaves_the_old_file_or_the_new_one(sketch_process: Start, tmp_path: Path) -> None:
    chance = random.Random(0)
    target = tmp_path / "house.png"
    for attempt in range(8):
        target.write_bytes(b"old")
        with slow(sketch_process, "--width", "256", "--height", "256", steps=3, step_s="0.001") as process:
            wait_for_steps(process, 3 if attempt % 4 else chance.randrange(3))
            try:
                process.wait(chance.uniform(0, 0.04))
            except subprocess.TimeoutExpired:
                process.kill()
            process.communicate(timeout=120)
        data = target.read_bytes()
        if data != b"old":
            assert Image.open(BytesIO(data)).convert("RGB").size == (256, 256)
        visible = [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")]
        assert visible == ["house.png"]


def test_a_reader_that_leaves_ends_mold_quietly(sketch_process: Start) -> None:
    with sketch_process("list", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()  # type: ignore[union-attr]
        error = process.stderr.read()  # type: ignore[union-attr]
    assert error == b""
    assert process.returncode in (0, -signal.SIGPIPE)
