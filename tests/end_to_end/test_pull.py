"""`mold pull` as a person meets it: the executable, a plugin's catalog, a hub over HTTP, and what happens to them."""

from __future__ import annotations

import os
import pty
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fake_hub import FakeFile, FakeHub, fake_hub

WEIGHTS = bytes(range(256)) * 4000
TOKENIZER = b'{"words": ["red", "house"]}'
PART = ".hf-cache/models--paint--house/blobs/*.incomplete"

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake_hub() as hub:
        yield hub


@pytest.fixture
def start(mold_process: Start) -> Iterator[Start]:
    """Start mold with its output to read, and end it when the test ends."""
    processes = []

    def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
        piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(mold_process(*arguments, **{**piped, **options}))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def weights(hub: FakeHub) -> FakeFile:
    hub.add("paint/house", "tokenizer.json", TOKENIZER, large=False)
    return hub.add("paint/house", "house.safetensors", WEIGHTS)


@pytest.fixture
def world(hub: FakeHub, weights: FakeFile, tmp_path: Path) -> dict[str, Any]:
    """What a mold process needs to see this hub and the plugin `painter`, and nobody's Hugging Face account."""
    folder = tmp_path / "installed"
    about = folder / "painter-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: painter\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[mold]\npainter = painter\n")
    (folder / "painter.py").write_text(
        "from pathlib import Path\nfrom mold_core import hookimpl, read_catalog\n\n"
        "@hookimpl\ndef mold_models():\n    return read_catalog(Path(__file__).with_name('painter.toml'))\n"
    )
    (folder / "painter.toml").write_text(
        f"""
        [[model]]
        name = "house:q8"
        family = "paint"
        licence = "CC0-1.0"
        [[model.files]]
        component = "transformer"
        path = "house-q8/house.safetensors"
        repo = "paint/house"
        size_bytes = {len(WEIGHTS)}
        sha256 = "{weights.sha256}"
        [[model.files]]
        component = "tokenizer"
        path = "shared/paint/tokenizer.json"
        repo = "paint/house"
        """
    )
    nobody = {"HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "", "HF_HUB_OFFLINE": "", "NO_PROXY": "*"}
    return {"paths": [folder], "MOLD_PLUGINS": "painter,nano", "HF_ENDPOINT": hub.url, **nobody}


def models(home: Path) -> dict[str, bytes]:
    """Return what lies in the models folder and is not hidden."""
    found = {path.relative_to(home / "models").as_posix(): path for path in (home / "models").rglob("*")}
    return {name: path.read_bytes() for name, path in found.items() if path.is_file() and "/." not in f"/{name}"}


WHOLE_MODEL = {"house-q8/house.safetensors": WEIGHTS, "shared/paint/tokenizer.json": TOKENIZER}


def until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline, "it did not happen within two minutes"
        time.sleep(0.01)


def size_of_part(home: Path) -> int:
    return max((path.stat().st_size for path in (home / "models").glob(PART)), default=0)


def started_and_held(start: Start, world: dict[str, Any], weights: FakeFile, home: Path) -> subprocess.Popen[str]:
    """Start a pull and return when 400,000 bytes are on the disk and no more come."""
    weights.hold_after = 400_000
    process = start("pull", "house", **world)
    assert weights.held.wait(120)
    until(lambda: size_of_part(home) > 390_000)
    return process


def test_a_model_is_pulled_and_then_listed(mold: Run, world: dict[str, Any], home: Path, weights: FakeFile) -> None:
    pulled = mold("pull", "house", **world)
    assert pulled.returncode == 0
    assert pulled.stdout == ""
    warning, start, *files, done = pulled.stderr.splitlines()
    assert warning == "note: no loaded plugin provides the family paint, so nothing runs house:q8 yet"
    assert start == "note: downloading house:q8, 2 files, 1.0 MB; licence CC0-1.0"
    assert sorted(files) == ["✓ 1/2 house.safetensors", "✓ 2/2 tokenizer.json"]  # downloaded at the same time
    assert done == "✓ house:q8 downloaded, 1.0 MB"
    assert models(home) == WHOLE_MODEL
    again = mold("pull", "house:q8", **world)
    assert again.stderr.splitlines()[1:] == ["✓ house:q8 downloaded, 1.0 MB"]
    assert weights.bytes_sent == len(WEIGHTS)


@pytest.mark.parametrize(("how", "status"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, -15)])
def test_a_pull_that_was_ended_goes_on_with_what_came(
    mold: Run,
    start: Start,
    world: dict[str, Any],
    weights: FakeFile,
    home: Path,
    how: signal.Signals,
    status: int,
) -> None:
    process = started_and_held(start, world, weights, home)
    process.send_signal(how)
    _, words = process.communicate(timeout=120)
    assert process.returncode == status
    assert ("partial downloads are kept; resume with mold pull house:q8" in words) == (how == signal.SIGINT)
    came = size_of_part(home)
    assert came > 390_000
    assert "house-q8/house.safetensors" not in models(home)
    weights.released.set()
    assert mold("pull", "house", **world).returncode == 0
    assert weights.ranges == ["", f"bytes={came}-"]
    assert weights.sent[1] == len(WEIGHTS) - came
    assert models(home) == WHOLE_MODEL


def test_two_pulls_at_once_share_the_work(start: Start, world: dict[str, Any], weights: FakeFile, home: Path) -> None:
    first = started_and_held(start, world, weights, home)
    second = start("pull", "house", **world)
    assert second.stderr is not None
    lines = iter(second.stderr.readline, "")
    assert any("another process is downloading house.safetensors; waiting for it" in line for line in lines)
    weights.released.set()
    for process in (first, second):
        _, words = process.communicate(timeout=120)
        assert (process.returncode, "✓ house:q8 downloaded, 1.0 MB" in words) == (0, True)
    assert weights.bytes_sent == len(WEIGHTS)
    assert models(home) == WHOLE_MODEL


def test_a_pull_takes_over_from_one_that_was_killed(
    start: Start, world: dict[str, Any], weights: FakeFile, home: Path
) -> None:
    first = started_and_held(start, world, weights, home)
    second = start("pull", "house", **world)
    assert second.stderr is not None
    assert any("waiting for it" in line for line in iter(second.stderr.readline, ""))
    first.kill()
    first.communicate(timeout=120)
    weights.released.set()
    second.communicate(timeout=120)
    assert second.returncode == 0
    assert len(weights.ranges) == 2
    assert models(home) == WHOLE_MODEL


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.soak)])
def test_a_kill_at_any_moment_leaves_whole_files_or_none(
    mold: Run, start: Start, world: dict[str, Any], weights: FakeFile, home: Path, kills: int
) -> None:
    weights.pause_s = 0.001
    chance = random.Random(kills)
    for _ in range(kills):
        answers = len(weights.ranges)
        process = start("pull", "house", **world)
        until(lambda before=answers, process=process: len(weights.ranges) > before or process.poll() is not None)  # type: ignore[misc]
        time.sleep(chance.uniform(0.0, 0.5))  # the file takes half a second
        process.kill()
        process.communicate()
        assert models(home).items() <= WHOLE_MODEL.items()
        if models(home) == WHOLE_MODEL:
            shutil.rmtree(home / "models")
    weights.pause_s = 0.0
    assert mold("pull", "house", **world).returncode == 0
    assert models(home) == WHOLE_MODEL


def test_a_disk_that_fills_up_is_reported_and_the_pull_goes_on_later(
    mold: Run, start: Start, world: dict[str, Any], weights: FakeFile, home: Path
) -> None:
    process = started_and_held(start, world, weights, home)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (600_000, 600_000))
    weights.released.set()
    _, words = process.communicate(timeout=120)
    assert process.returncode == 1
    assert re.search(
        r"^error: cannot write '.*\.incomplete': the file is larger than this disk or `ulimit -f` allows; .*; "
        r"mold pull house:q8 then resumes the download$",
        words.splitlines()[-1],
    )
    assert "house-q8/house.safetensors" not in models(home)
    came = size_of_part(home)
    assert came == 600_000
    assert mold("pull", "house", **world).returncode == 0
    assert weights.ranges[1:] == ["bytes=600000-"]
    assert models(home) == WHOLE_MODEL


def test_a_damaged_file_is_an_error_of_one_line(
    mold: Run, world: dict[str, Any], weights: FakeFile, home: Path
) -> None:
    weights.served = WEIGHTS[:-1] + b"!"
    pulled = mold("pull", "house", **world)
    assert pulled.returncode == 1
    assert pulled.stderr.splitlines()[-1].startswith(
        "error: house.safetensors of paint/house arrived damaged and was deleted: "
        f"expected sha256 {weights.sha256}, got "
    )
    assert "house-q8/house.safetensors" not in models(home)


def test_a_licence_that_was_not_accepted_is_an_error_of_one_line(
    mold: Run, world: dict[str, Any], weights: FakeFile, hub: FakeHub
) -> None:
    weights.gated = True
    pulled = mold("pull", "house", **world)
    assert pulled.returncode == 1
    assert pulled.stderr.splitlines()[-1] == (
        f"error: paint/house requires accepting its licence; accept it at {hub.url}/paint/house, "
        "then set HF_TOKEN to a token of that account (https://huggingface.co/settings/tokens)"
    )
    hub.members.add("hf_member")
    assert mold("pull", "house", **{**world, "HF_TOKEN": "hf_member"}).returncode == 0


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set, so house.safetensors of paint/house is not downloaded"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "nothing can be downloaded: http://127.0.0.1:9 refuses connections"),
    ],
)
def test_without_a_network_the_error_is_one_line(
    mold: Run, world: dict[str, Any], variables: dict[str, str], words: str
) -> None:
    pulled = mold("pull", "house", **{**world, **variables})
    assert pulled.returncode == 1
    assert pulled.stderr.splitlines()[-1].startswith(f"error: {words}")
    assert len(pulled.stderr.splitlines()) == 2


def test_names_are_explained(mold: Run, world: dict[str, Any], hub: FakeHub) -> None:
    unknown = mold("pull", "huose", **world)
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr == "error: unknown model 'huose'; nearest: house:q8 (mold list shows all)\n"
    embedded = mold("pull", "flux-nano", **world)
    assert embedded.returncode == 0
    assert embedded.stderr == "note: flux-nano:bf16 ships with mold; nothing to download\n"
    assert hub.requests == []


def test_looking_at_models_does_not_import_the_hub() -> None:
    code = "import sys; from mold_core import Engine; Engine().models(); assert 'huggingface_hub' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("columns", [80, 40])
def test_the_progress_line_fits_the_terminal(
    start: Start, world: dict[str, Any], weights: FakeFile, home: Path, columns: int
) -> None:
    weights.pause_s = 0.004
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    process = start("pull", "house", stdout=theirs, stderr=theirs, **world)
    os.close(theirs)
    screen = b""
    with suppress(OSError), open(ours, "rb", buffering=0) as terminal:  # reading ends with EIO when mold is gone
        while more := terminal.read(4096):
            screen += more
    process.wait(timeout=120)
    drawn = [line.removeprefix("\x1b[2K") for line in screen.decode().split("\r") if line.startswith("\x1b[2K")]
    figures = [line for line in drawn if "%" in line]
    assert any(re.search(r"\d+ %  \d.* of 1\.0 MB .*\d s", line) for line in figures)
    assert all(len(line) < columns for line in figures)
    assert ("house.safetensors" in "".join(figures)) == (columns == 80)
    assert "house:q8 downloaded" in screen.decode()
    assert process.returncode == 0
