"""mold run: a prompt in, an image out, and one line for whatever goes wrong."""

from __future__ import annotations

import resource
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from PIL import Image
from small_disk import load_weights, small_disk

from mold_core.media.metadata import OutputMetadata, read_metadata

Mold = Callable[..., CompletedProcess[Any]]

REQUEST = ("run", "a red house", "--seed", "7")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def format_of(data: bytes) -> str | None:
    return Image.open(BytesIO(data)).format


def metadata_of(data: bytes) -> OutputMetadata:
    metadata = read_metadata(data)
    assert metadata is not None
    return metadata


def error_line(done: CompletedProcess[str], status: int) -> str:
    """Return the one line on stderr of a run that failed as it should."""
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    line, rest = done.stderr.split("\n", 1)
    assert line.startswith("error: "), done.stderr
    assert rest == "", done.stderr
    return line.removeprefix("error: ")


# --- where the image goes --------------------------------------------------------------------------------------


def test_into_a_pipe_go_the_bytes_of_the_image_and_nothing_else(sketch: Mold, tmp_path: Path) -> None:
    done = sketch(*REQUEST, text=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert format_of(done.stdout) == "PNG"
    assert metadata_of(done.stdout).prompt == "a red house"
    assert names(tmp_path) == []


def test_a_named_file_is_written_and_said(sketch: Mold, tmp_path: Path) -> None:
    done = sketch(*REQUEST, "-o", "house.png")
    assert done.returncode == 0
    assert (done.stdout, done.stderr.split()[:5]) == ("", ["✓", "house.png", "32x32,", "seed", "7,"])
    assert names(tmp_path) == ["house.png"]
    assert format_of((tmp_path / "house.png").read_bytes()) == "PNG"


def test_the_same_seed_gives_the_same_bytes_and_another_run_as_well(sketch: Mold, tmp_path: Path) -> None:
    piped = sketch(*REQUEST, text=False).stdout
    sketch(*REQUEST, "-o", "house.png")
    assert (tmp_path / "house.png").read_bytes() == piped


def test_without_a_seed_the_one_that_was_drawn_is_said(sketch: Mold, tmp_path: Path) -> None:
    said = sketch("run", "a red house", "-o", "house.png").stderr
    seed = metadata_of((tmp_path / "house.png").read_bytes()).seed
    assert f"seed {seed}, " in said


def test_an_existing_file_is_replaced(sketch: Mold, tmp_path: Path) -> None:
    (tmp_path / "house.png").write_bytes(b"old")
    assert sketch(*REQUEST, "-o", "house.png").returncode == 0
    assert format_of((tmp_path / "house.png").read_bytes()) == "PNG"


@pytest.mark.parametrize(
    ("arguments", "name", "format"),
    [
        (("-o", "a.webp"), "a.webp", "WEBP"),
        (("-o", "a.JPG"), "a.JPG", "JPEG"),
        (("-o", "a.jpeg", "--format", "jpg"), "a.jpeg", "JPEG"),
        (("-o", "a", "--format", "webp"), "a", "WEBP"),
        (("-o", "a"), "a", "PNG"),
    ],
)
def test_the_format_follows_the_suffix_or_the_flag(
    sketch_inside: Mold, tmp_path: Path, arguments: tuple[str, ...], name: str, format: str
) -> None:
    assert sketch_inside(*REQUEST, *arguments).returncode == 0
    assert format_of((tmp_path / name).read_bytes()) == format


def test_into_a_pipe_goes_the_format_of_the_flag(sketch: Mold) -> None:
    assert format_of(sketch(*REQUEST, "-o", "-", "--format", "jpeg", text=False).stdout) == "JPEG"


def test_a_batch_is_numbered_and_its_seeds_count_up(sketch: Mold, tmp_path: Path) -> None:
    done = sketch(*REQUEST, "--batch", "3", "-o", "house.png")
    assert names(tmp_path) == ["house-0.png", "house-1.png", "house-2.png"]
    assert [metadata_of((tmp_path / name).read_bytes()).seed for name in names(tmp_path)] == [7, 8, 9]
    assert [line.split()[1] for line in done.stderr.splitlines()] == names(tmp_path)


def test_the_seed_that_is_said_goes_round_at_the_largest(sketch: Mold) -> None:
    done = sketch("run", "a house", "--seed", str(2**64 - 1), "--batch", "2", "-o", "house.png")
    assert [line.partition("seed ")[2].partition(",")[0] for line in done.stderr.splitlines()] == [str(2**64 - 1), "0"]


def test_metadata_is_left_out_on_request(sketch: Mold) -> None:
    assert read_metadata(sketch(*REQUEST, "--no-metadata", text=False).stdout) is None


def test_flags_become_the_request(sketch: Mold) -> None:
    flags = ("-m", "sketch", "--width", "64", "--height", "40", "--steps", "3", "--guidance", "2.5", "-n", "fog")
    done = sketch("run", "a", "red", "house", *flags, "--seed", "1", text=False)
    made = metadata_of(done.stdout)
    assert (made.prompt, made.model, made.negative_prompt) == ("a red house", "sketch:v1", "fog")
    assert (made.width, made.height, made.steps, made.guidance, made.seed) == (64, 40, 3, 2.5, 1)


def test_the_first_word_may_be_the_model(sketch: Mold) -> None:
    made = metadata_of(sketch("run", "sketch:v1", "a", "house", text=False).stdout)
    assert (made.model, made.prompt) == ("sketch:v1", "a house")


def test_the_prompt_may_come_from_standard_input(sketch: Mold) -> None:
    done = sketch("run", stdin=b"a house\non a hill\n", text=False)
    assert metadata_of(done.stdout).prompt == "a house\non a hill"


def test_adjustments_are_noted(sketch: Mold) -> None:
    done = sketch(*REQUEST, "--width", "33", "-o", "house.png")
    assert "note: dimensions adjusted from 33x32 to 32x32\n" in done.stderr


def test_the_model_that_was_named_is_remembered(sketch: Mold, home: Path) -> None:
    sketch("run", "-m", "sketch", "a house", "-o", "a.png")
    assert (home / "last-model").read_text() == "sketch:v1"


def test_the_embedded_model_is_announced_in_one_line_with_the_way_to_a_large_one(sketch: Mold) -> None:
    done = sketch(*REQUEST, SKETCH_EMBEDDED="1", text=False)
    assert done.returncode == 0
    note = done.stderr.decode()
    assert note.startswith("note: using tiny:v1, the tiny model inside mold; ")
    assert "mold pull NAME" in note
    assert note.count("\n") == 1


def test_an_embedded_model_that_was_named_needs_no_note(sketch: Mold) -> None:
    assert sketch("run", "-m", "tiny", "a", SKETCH_EMBEDDED="1", text=False).stderr == b""


# --- strange prompts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt", ["🦊🏠", "a\tb", "-- ", "x" * 70_000, "\u202e abc", "../../etc/passwd", "%s {0} $(ls)"]
)
def test_a_strange_prompt_is_a_prompt(sketch: Mold, prompt: str) -> None:
    done = sketch("run", "--", prompt, text=False)
    assert done.returncode == 0, done.stderr
    assert metadata_of(done.stdout).prompt == prompt


def test_nul_bytes_from_standard_input_are_a_prompt(sketch: Mold) -> None:
    done = sketch("run", stdin=b"a\0b", text=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert metadata_of(done.stdout).prompt == "a\0b"


def test_bytes_that_are_no_text_are_replaced_on_standard_input(sketch: Mold) -> None:
    assert metadata_of(sketch("run", stdin=b"a\xffb", text=False).stdout).prompt == "a\ufffdb"


# --- what people get wrong ---------------------------------------------------------------------------------------


MISTAKES = [
    (("--width", "0"), 2, "width must be from 1 to 16384, not 0"),
    (("--steps", "0"), 2, "steps must be from 1 to 100, not 0"),
    (("--seed", "-1"), 2, "seed must be from 0 to 18446744073709551615, not -1"),
    (("-m", "skech"), 1, "unknown model 'skech'; nearest: sketch:v1 (mold list shows all)"),
    (("x" * 100_000,), 2, "prompt must be at most 77,000 bytes of UTF-8, not 100,012"),
    ((b"\xff",), 2, "prompt must be valid Unicode text; there is a lone surrogate at position 12"),
    (("-o", "nowhere/a.png"), 1, "the directory 'nowhere' does not exist; create it first"),
]
MORE_MISTAKES = [
    (("--height", "-5"), 2, "height must be from 1 to 16384, not -5"),
    (("--seed", str(2**64)), 2, f"seed must be from 0 to 18446744073709551615, not {2**64}"),
    (("--guidance", "nan"), 2, "guidance must be a finite number, not nan"),
    (("--batch", "0"), 2, "batch_size must be from 1 to 1000, not 0"),
    (("-m", "far"), 1, "model 'far:q8' is not downloaded: 1 of 1 files (0.0 GB) are missing, the first is "),
    (("-m", "a\nb\x1b[31m"), 1, r"unknown model 'a\nb\x1b[31m' (mold list shows all)"),
    (("--device", "tpu"), 2, "--device must be one of auto, cpu, cuda, mps, not 'tpu'"),
    (("-o", "a.bmp"), 2, "--output 'a.bmp' has the unknown suffix .bmp; use .png, .jpg, .jpeg or .webp"),
    (("-o", "a.png", "--format", "webp"), 2, "--output 'a.png' is a png file and --format says webp; leave one"),
    (("-o", "."), 1, "--output '.' is a directory; add a file name"),
    (("-o", "nowhere/"), 1, "--output 'nowhere/' is a directory; add a file name"),
    (("-o", "-", "--batch", "2"), 2, "standard output takes one image, and --batch is 2; name a file"),
    (("-o", "x" * 300 + ".png"), 1, f"cannot write '{'x' * 300}.png': the name is too long; choose a shorter one"),
]


@pytest.mark.parametrize(("arguments", "status", "line"), MISTAKES, ids=lambda value: str(value)[:40])
def test_a_mistake_gives_one_line_and_its_exit_status(
    sketch: Mold, tmp_path: Path, arguments: tuple[str, ...], status: int, line: str
) -> None:
    assert error_line(sketch("run", "-o", "house.png", "a red house", *arguments), status).startswith(line)
    assert names(tmp_path) == []


@pytest.mark.parametrize(("arguments", "status", "line"), MORE_MISTAKES, ids=lambda value: str(value)[:40])
def test_so_does_any_other_mistake(
    sketch_inside: Mold, tmp_path: Path, arguments: tuple[str, ...], status: int, line: str
) -> None:
    assert error_line(sketch_inside("run", "-o", "house.png", "a red house", *arguments), status).startswith(line)
    assert names(tmp_path) == []


def test_no_prompt_shows_how_to_give_one(sketch: Mold) -> None:
    done = sketch("run", stdin="")
    assert done.returncode == 2
    assert "Error: no prompt given, and standard input is empty" in done.stderr


def test_a_closed_standard_input_is_no_prompt(sketch: Mold, tmp_path: Path) -> None:
    done = sketch("run", preexec_fn=lambda: __import__("os").close(0))
    assert done.returncode == 2
    assert "no prompt given" in done.stderr


def test_a_folder_that_cannot_be_written_to_is_said_before_the_work(sketch: Mold) -> None:
    line = error_line(sketch("run", "a red house", "-o", "/proc/a.png"), 1)
    assert line.startswith(("the directory '/proc' is not writable", "cannot write '/proc/a.png': "))


def test_a_full_disk_gives_one_line_and_leaves_no_file(sketch: Mold, tmp_path: Path) -> None:
    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))

    (tmp_path / "old.png").write_bytes(b"old")
    done = sketch(*REQUEST, "-o", "old.png", preexec_fn=little_room)
    line = error_line(done, 1)
    assert line.startswith("cannot write 'old.png': the file is larger than this disk or `ulimit -f` allows")
    assert names(tmp_path) == ["old.png"]
    assert (tmp_path / "old.png").read_bytes() == b"old"


@pytest.mark.parametrize(
    "command", [REQUEST, ("list",), ("plugins", "--json"), ("--help",)], ids=lambda words: words[0]
)
def test_standard_output_that_takes_no_more_gives_one_line(sketch: Mold, command: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = sketch(*command, stdout=full)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr


def test_with_mold_log_debug_the_cause_is_shown(sketch: Mold) -> None:
    done = sketch("run", "a", "-m", "nope", MOLD_LOG="debug")
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: unknown model 'nope'")


def test_a_broken_config_gives_one_line(sketch: Mold, home: Path) -> None:
    (home / "config.toml").write_text("threads = ")
    for command in (REQUEST, ("serve",), ("scribble",), ("list",), ("gallery", "list"), ("ps",), ("default",)):
        assert "config.toml is not valid TOML: line 1: " in error_line(sketch(*command), 2)
    assert sketch("--help").returncode == 0


def test_an_image_that_the_disk_has_no_room_for_is_kept_elsewhere(sketch: Mold, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    with small_disk(tmp_path / "disk") as disk:
        load_weights(disk)
        done = sketch("run", "a red house", "-o", str(disk / "a.png"), TMPDIR=str(tmp_path / "elsewhere"))
    line = error_line(done, 1)
    (kept,) = (tmp_path / "elsewhere").glob("mold-*.png")
    assert "the disk is full" in line and str(kept) in line
    assert kept.read_bytes().startswith(b"\x89PNG")
