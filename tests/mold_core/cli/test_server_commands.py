"""mold server, ps, unload, jobs, doctor and stats: a server in the background, and what is said of it."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

Mold = Callable[..., CompletedProcess[Any]]


@pytest.fixture
def served(mold: Mold, site: Path, downloaded: None) -> Mold:
    """Run `mold` with the plugins `sketch` and `http`."""
    return partial(mold, paths=[site], MOLD_PLUGINS="http,sketch", MOLD_EXECUTOR="inline")


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def test_a_server_in_the_background_is_used_asked_and_ended(served: Mold, home: Path, tmp_path: Path) -> None:
    port = free_port()
    started = served("server", "start", "--port", port)
    assert started.returncode == 0, started.stderr
    assert f"mold is listening on http://127.0.0.1:{port}" in started.stderr
    try:
        again = served("server", "start", "--port", free_port())
        assert (again.returncode, "a server is already running" in again.stderr) == (1, True)
        assert served("run", "a house", "--seed", "7", "-o", "a.png", MOLD_PLUGINS="none").returncode == 0
        jobs = json.loads(served("jobs", "list", "--json").stdout)
        assert [job["state"] for job in jobs] == ["done"]
        assert json.loads(served("ps", "--json").stdout)["models_loaded"] == ["sketch:v1"]
        job = jobs[0]["id"]
        assert job[:16] in served("jobs", "follow", job[:8]).stdout
        assert json.loads(served("jobs", "show", job[:8], "--json").stdout)["state"] == "done"
        assert " done " in served("jobs", "cancel", job).stdout
        assert served("jobs", "show", "nowhere").returncode == 1
        assert served("unload").stdout == "unloaded sketch:v1\n"
        assert json.loads(served("server", "status", "--json").stdout)["models_loaded"] == []
        findings = json.loads(served("doctor", "--json").stdout)
        assert [row["state"] for row in findings if row["about"] in ("server", "default model")] == ["good", "good"]
    finally:
        stopped = served("server", "stop")
    assert stopped.returncode == 0, stopped.stderr
    assert not (home / "mold-server.pid").exists()
    # Its result is the one that this machine gives without a server.
    assert served("run", "a house", "--seed", "7", "-o", "b.png").returncode == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(("server", "status"), 1), (("server", "stop"), 1), (("unload",), 1), (("jobs", "list"), 1), (("ps",), 0)],
    ids=str,
)
def test_without_a_server_that_is_said(sketch_inside: Mold, arguments: tuple[str, ...], status: int) -> None:
    done = sketch_inside(*arguments)
    assert done.returncode == status
    assert "no server is running" in done.stdout + done.stderr


def test_a_server_that_cannot_start_says_why(served: Mold, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = served("server", "start", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert "the server exited during startup: the server cannot listen on 127.0.0.1" in done.stderr


def test_the_doctor_says_what_is_broken_and_what_to_do(sketch_inside: Mold, home: Path) -> None:
    (home / "models" / "sketch-v1" / "weights").unlink()
    (home / "config.toml").write_text('default_model = "sketch"\nhost = "127.0.0.1:9"\n')
    done = sketch_inside("doctor")
    assert done.returncode == 1
    assert "✗ default model  sketch:v1 is not downloaded\n                 → mold pull sketch:v1" in done.stdout
    assert "✗ server         there is no server at http://127.0.0.1:9" in done.stdout
    (home / "config.toml").write_text("nonsense = 1\n")
    assert "✗ settings" in sketch_inside("doctor").stdout


def test_stats_count_what_is_there(sketch_inside: Mold, home: Path) -> None:
    (home / "output").mkdir()
    (home / "output" / "a.png").write_bytes(b"1234567")
    stats = json.loads(sketch_inside("stats", "--json").stdout)
    assert stats["models"] == [{"name": "sketch:v1", "bytes": 5}]
    assert (stats["models_dir_bytes"], stats["output_bytes"], stats["output_images"]) == (5, 7, 1)


def test_model_names_and_commands_complete(sketch: Mold) -> None:
    def complete(*words: str) -> list[str]:
        done = sketch(COMP_WORDS=" ".join(("mold", *words)), COMP_CWORD=str(len(words)), _MOLD_COMPLETE="bash_complete")
        return [line.partition(",")[2] for line in done.stdout.splitlines()]

    assert complete("run", "-m", "ske") == ["sketch", "sketch:v1"]
    assert complete("pull", "f") == ["far", "far:q8"]
    assert "server" in complete("ser")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_each_shell_is_printed(sketch_inside: Mold, shell: str) -> None:
    done = sketch_inside("completions", shell)
    assert done.returncode == 0
    assert f"_MOLD_COMPLETE={shell}_complete" in done.stdout


@pytest.mark.parametrize(
    ("line", "words", "completed"),
    [
        ("mold info sk", "mold info sk", ["sketch", "sketch:v1"]),
        ("mold info sketch:", "mold info sketch :", ["v1"]),
        ("mold run 'a: house' -m far:q", "mold run \"'a: house'\" -m far : q", ["q8"]),
        ("mold run a sk", "mold run a sk", [""]),
    ],
)
def test_bash_completes_names_that_it_cuts_at_the_colon(
    sketch: Mold, site: Path, home: Path, line: str, words: str, completed: list[str]
) -> None:
    """`words` are what readline makes of `line`; only an interactive shell would do that by itself."""
    script = f"""
{sketch("completions", "bash").stdout}
COMP_LINE={shlex.quote(line)}
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_mold_completion {shlex.quote(str(Path(sys.executable).parent / "mold"))}
printf '%s\n' "${{COMPREPLY[@]}}"
"""
    surroundings = {**os.environ, "MOLD_HOME": str(home), "MOLD_PLUGINS": "sketch", "PYTHONPATH": str(site)}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=surroundings, check=True)
    assert done.stdout.splitlines() == completed
