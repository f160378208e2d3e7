"""What reaches standard output and error: whole results, whatever the streams are, and no text that is obeyed."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from http_server import Server, serving
from leaky import install
from PIL import Image

from mold_core.cli.main import COMMANDS
from mold_core.gallery import Gallery
from mold_core.media import OutputMetadata, encode_image
from mold_core.settings import Settings
from mold_core.text import json_text

Mold = Callable[..., subprocess.CompletedProcess[Any]]

# What a terminal would obey: clear the screen, set the title, turn the direction of text, colour by one byte, go on in
# a line of its own.
HOSTILE = "a house\x1b[2J\x1b]0;title\x07\u202eesrever\u2066\x9b31m\x7f\r\nFORGED line\u2028FORGED too"
OBEYED = re.compile("[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]|\x1b(?!\\[[0-9;]*m)")

# One call of every command that needs nothing but what `disk` has, and its exit status.
CALLS: dict[tuple[str, ...], int] = {
    ("--help",): 0,
    ("--version",): 0,
    ("run", "a red house", "--seed", "7", "-o", "house.png"): 0,
    ("run", "a red house", "--steps", "0", "-o", "house.png"): 2,
    ("expand", "a house"): 1,
    ("upscale", "nowhere.png", "-o", "large.png"): 2,
    ("convert", "nowhere.pth"): 1,
    ("adopt", "nowhere"): 1,
    ("adopt", "list"): 0,
    ("adopt", "forget", "nothing"): 1,
    ("list",): 0,
    ("list", "--json"): 0,
    ("list", "--loras"): 0,
    ("info",): 0,
    ("info", "sketch"): 0,
    ("info", "sketch", "--verify"): 0,
    ("pull", "nosuch"): 1,
    ("chain", "list"): 0,
    ("chain", "validate", "nowhere.toml"): 2,
    ("rm", "nosuch", "--yes"): 1,
    ("clean", "--dry-run"): 0,
    ("gallery", "list"): 0,
    ("gallery", "list", "--json"): 0,
    ("gallery", "search", "house"): 0,
    ("gallery", "show", "0.png"): 0,
    ("gallery", "mark", "0.png", "--tag", "land"): 0,
    ("gallery", "rm", "nowhere.png", "--yes"): 1,
    ("plugins",): 0,
    ("default",): 0,
    ("config", "list", "--all"): 0,
    ("config", "get", "queue_size"): 0,
    ("config", "where", "queue_size"): 0,
    ("config", "path"): 0,
    ("server", "status"): 1,
    ("ps",): 0,
    ("unload",): 1,
    ("jobs", "list"): 1,
    ("stats",): 0,
    ("doctor",): 0,
    ("completions", "bash"): 0,
    ("completions", "zsh"): 0,
    ("version",): 0,
    ("scribble",): 0,
    ("nosuch",): 2,
}


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MOLD_HOME whose prompts, names and descriptions a terminal would obey."""
    home = tmp_path_factory.mktemp("disk") / "home"
    weights = home / "models" / "sketch-v1" / "weights"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"12345")
    own = f'[models."own:v1"]\nlike = "sketch:v1"\ndescription = {json_text(HOSTILE)}\n'
    (home / "config.toml").write_text(f'default_model = "sketch:v1"\n{own}', "utf-8")
    (home / "loras").mkdir()
    (home / "loras" / "ink\x1b[2J\nFORGED.safetensors").write_bytes(b"123")
    (home / "chains").mkdir()
    chain = {"model": "video:v1", "stages": [{"prompt": HOSTILE, "frames": 25}, {"prompt": HOSTILE, "frames": 25}]}
    (home / "chains" / "0123456789abcdef.json").write_text(json.dumps(chain))
    gallery = Gallery.of(Settings(home=home))
    assert gallery is not None
    about = OutputMetadata(
        prompt=HOSTILE, model=f"sketch{HOSTILE}", seed=1, steps=4, guidance=0.0, width=16, height=16, version=HOSTILE
    )
    gallery.add(encode_image(Image.new("RGB", (16, 16)), "png", about), about, name="0.png")
    gallery.close()
    return home


@pytest.fixture
def on_disk(sketch: Mold, disk: Path) -> Mold:
    """Run `mold` with that MOLD_HOME."""

    def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[Any]:
        return sketch(*arguments, MOLD_HOME=str(disk), MOLD_USE_SERVER="never", **options)

    return run


def in_shell(site: Path, disk: Path, folder: Path, redirection: str, *arguments: str, **environment: str) -> Any:
    """Run `mold` by a shell with a redirection, and return what came of it."""
    command = [str(Path(sys.executable).parent / "mold"), *arguments]
    settings = {
        "MOLD_HOME": str(disk),
        "MOLD_PLUGINS": "sketch",
        "MOLD_DEVICE": "cpu",
        "MOLD_USE_SERVER": "never",
        "PYTHONPATH": str(site),
        "PYTHONWARNINGS": "error",
    }
    return subprocess.run(
        ["bash", "-c", f'"$@" {redirection}', "bash", *command],
        env={**os.environ, **settings, **environment},
        cwd=folder,
        capture_output=True,
        timeout=120,
        check=False,
    )


def test_every_command_is_called_here() -> None:
    assert {call[0] for call in CALLS if not call[0].startswith("-")} >= COMMANDS.keys() - {
        "mcp"
    }  # which speaks a protocol on its streams


# --- streams -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
@pytest.mark.parametrize("redirection", [">&-", "<&- 2>&-", "2>/dev/full"])
def test_streams_that_take_nothing_change_nothing_else(
    site: Path, disk: Path, tmp_path: Path, redirection: str, call: tuple[str, ...]
) -> None:
    done = in_shell(site, disk, tmp_path, redirection, *call)
    assert done.returncode == CALLS[call], done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    assert (tmp_path / "house.png").exists() == (call[0] == "run" and CALLS[call] == 0)
    if redirection != ">&-" and CALLS[call] == 0 and call[0] != "run":
        assert done.stdout


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_an_old_encoding_gets_what_it_can_show(site: Path, disk: Path, tmp_path: Path, call: tuple[str, ...]) -> None:
    for encoding in ("ascii", "cp1252") if call[0] in ("list", "gallery", "run") else ("latin-1",):
        done = in_shell(site, disk, tmp_path, "", *call, PYTHONIOENCODING=encoding)
        assert done.returncode == CALLS[call], done.stderr
        assert b"Traceback" not in done.stderr
        assert done.stdout.decode(encoding) + done.stderr.decode(encoding)


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_a_reader_that_has_left_is_no_trouble(
    sketch_process: Callable[..., subprocess.Popen[bytes]], disk: Path, call: tuple[str, ...]
) -> None:
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with sketch_process(*call, **streams, MOLD_HOME=str(disk), MOLD_USE_SERVER="never") as process:
        process.stdout.close()  # type: ignore[union-attr]
        words = process.stderr.read()  # type: ignore[union-attr]
    assert b"Traceback" not in words
    assert b"Broken" not in words
    assert process.returncode in (CALLS[call], -signal.SIGPIPE)


def test_a_image_is_not_made_for_a_standard_output_that_is_closed(site: Path, disk: Path, tmp_path: Path) -> None:
    done = in_shell(site, disk, tmp_path, ">&-", "run", "a red house")
    assert (done.returncode, done.stderr.decode()) == (1, "error: standard output is closed; name a file with -o\n")


def test_signs_that_an_encoding_lacks_are_replaced_by_ones_like_them(site: Path, disk: Path, tmp_path: Path) -> None:
    done = in_shell(site, disk, tmp_path, "", "run", "x", "--seed", "1", "-o", "ü.png", PYTHONIOENCODING="ascii")
    assert done.stderr.startswith(b"+ \\xfc.png  32x32, seed 1, ")


# --- what others print -------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def leaky_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a plugin that prints whenever it can."""
    return install(tmp_path_factory.mktemp("leaky") / "site")


@pytest.mark.parametrize("executor", ["inline", "process"])
def test_a_image_in_a_pipe_is_nothing_but_the_image(mold: Mold, leaky_site: Path, executor: str) -> None:
    plugin: dict[str, Any] = {"paths": [leaky_site], "MOLD_PLUGINS": "leaky", "MOLD_EXECUTOR": executor, "text": False}
    done = mold("run", "-m", "leaky", "a red house", "--width", "32", "--height", "32", **plugin)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"\x89PNG")
    assert done.stdout.endswith(b"IEND\xaeB`\x82")
    assert Image.open(BytesIO(done.stdout)).size == (32, 32)
    if executor == "inline":
        for printed in (b"imported, from Python", b"from C", b"generating, from Python", b"from a child", b"closing"):
            assert printed in done.stderr


def test_lists_and_help_are_nothing_but_what_they_are(mold: Mold, leaky_site: Path) -> None:
    plugin: dict[str, Any] = {"paths": [leaky_site], "MOLD_PLUGINS": "leaky"}
    assert [model["name"] for model in json.loads(mold("list", "--json", **plugin).stdout)] == ["leaky:v1"]
    assert mold("--help", **plugin).stdout.startswith("Usage: mold ")
    assert mold("plugins", "--help", **plugin).stdout.startswith("Usage: mold plugins ")
    words = {"_MOLD_COMPLETE": "bash_complete", "COMP_WORDS": "mold run lea", "COMP_CWORD": "2"}
    assert mold(**plugin, **words).stdout.split() == ["plain,leaky", "plain,leaky:v1"]


def test_a_command_of_a_plugin_has_standard_output_for_itself(sketch: Mold) -> None:
    assert sketch("scribble").stdout == "~~~\n"


# --- what others wrote -------------------------------------------------------------------------------------------


def screen_of(start: Callable[..., subprocess.Popen[Any]], *arguments: str, **options: Any) -> str:
    """Return what `mold` writes to a terminal."""
    screen, end = pty.openpty()
    with start(*arguments, stdin=end, stdout=end, stderr=end, **options) as process:
        os.close(end)
        text = b""
        try:
            while chunk := os.read(screen, 65_536):
                text += chunk
        except OSError:  # Linux reports the end of a terminal as an error
            pass
    os.close(screen)
    assert process.returncode in (0, 1, 2), text
    return text.decode("utf-8", "surrogateescape").replace("\r\n", "\n")


def assert_harmless(text: str) -> None:
    """Fail for anything that a terminal obeys but colours and progress, and for lines that others began."""
    assert OBEYED.findall(re.sub("\r\x1b\\[2K|\x1b\\[A\x1b\\[2K", "", text)) == [], text
    assert not [line for line in text.splitlines() if line.lstrip().startswith("FORGED")]


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_a_terminal_obeys_nothing_that_others_wrote(
    sketch_process: Callable[..., subprocess.Popen[Any]], disk: Path, call: tuple[str, ...]
) -> None:
    text = screen_of(sketch_process, *call, MOLD_HOME=str(disk), MOLD_USE_SERVER="never")
    assert_harmless(text)


@pytest.mark.parametrize(
    "call", [("gallery", "list"), ("gallery", "show", "0.png"), ("chain", "list"), ("list",), ("list", "--loras")]
)
def test_what_others_wrote_is_shown_with_escapes(on_disk: Mold, call: tuple[str, ...]) -> None:
    text = on_disk(*call).stdout
    assert r"\x1b[2J" in text or call == ("gallery", "list")
    assert_harmless(text)


def test_json_holds_what_others_wrote_as_it_is(on_disk: Mold) -> None:
    done = on_disk("gallery", "show", "0.png", "--json")
    assert json.loads(done.stdout)["metadata"]["prompt"] == HOSTILE
    assert_harmless(done.stdout)


@pytest.fixture(scope="module")
def server(site: Path, disk: Path) -> Iterator[Server]:
    """A server with that MOLD_HOME."""
    with serving(disk, PYTHONPATH=str(site), MOLD_PLUGINS="http,sketch") as running:
        yield running


def test_what_a_server_answers_is_not_obeyed_either(
    mold_process: Callable[..., subprocess.Popen[Any]], server: Server
) -> None:
    body = {"kind": "generate", "request": {"prompt": HOSTILE, "model": "sketch:v1", "width": 32, "height": 32}}
    job = server.ask("POST", "/api/jobs", body).json()["id"]
    assert server.soon(f"/api/jobs/{job}", lambda job: job["state"] == "done")
    for call in (
        ("jobs", "list"),
        ("jobs", "show", job),
        ("jobs", "follow", job),
        ("ps",),
        ("list",),
        ("info", "own"),
        ("gallery", "list"),
        ("gallery", "show", "0.png"),
        ("chain", "list"),
        ("run", HOSTILE.replace("\0", ""), "-m", "sketch", "--steps", "0"),
    ):
        text = screen_of(mold_process, *call, MOLD_PLUGINS="none", MOLD_HOST=f"127.0.0.1:{server.port}")
        assert_harmless(text)
