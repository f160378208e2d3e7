"""The same command here and against a server: same output, same files, same exit status."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from http_server import Server, serving

from mold_core import (
    CancelledError,
    Client,
    DenoiseStep,
    GenerateRequest,
    ServerError,
    UnknownModelError,
    UpscaleRequest,
    ValidationError,
)
from mold_core.errors import JobNotFoundError

Mold = Callable[..., CompletedProcess[Any]]

REQUEST = ("run", "a red house", "--seed", "7")
KEY = "a-key"


@pytest.fixture(scope="module")
def server(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the plugin `sketch`, whose steps take a moment, and a key."""
    home = tmp_path_factory.mktemp("server") / "home"
    weights = home / "models" / "sketch-v1" / "weights"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"12345")
    with serving(
        home,
        PYTHONPATH=str(site),
        MOLD_PLUGINS="http,sketch",
        MOLD_API_KEY=f"{KEY},another",
        SKETCH_STEP_S="0.05",
    ) as running:
        yield running


@pytest.fixture
def remote(mold: Mold, server: Server) -> Mold:
    """Run `mold` where no plugin and no model is, with the server as its host."""

    def run(*arguments: str, **options: Any) -> Any:
        return mold(*arguments, MOLD_PLUGINS="none", MOLD_HOST=f"127.0.0.1:{server.port}", MOLD_API_KEY=KEY, **options)

    return run


def without_times_and_places(text: str) -> str:
    lines = (line.rpartition(",")[0] if line.startswith("✓") else line for line in text.splitlines())
    # A server names a file without its folder; here the whole path is shown.
    return re.sub(r"/\S*/home/(\S*/)?", "", "\n".join(lines))


@pytest.mark.parametrize(
    "arguments",
    [
        (*REQUEST, "-o", "house.png"),
        (*REQUEST, "--batch", "2", "-o", "house.webp"),
        ("run", "-m", "sketch", "a house", "--width", "1000", "-o", "a.png", "--seed", "1"),
        ("run", "-m", "sketsch", "a house"),
        ("run", "-m", "far", "a house"),
        ("run", "a house", "--steps", "1000"),
        ("run", "a house", "--image", "nowhere.png"),
        ("expand", "a house"),
        ("pull", "nosuch"),
        ("list", "--json"),
    ],
    ids=" ".join,
)
def test_a_server_does_what_this_machine_does(
    sketch: Mold, remote: Mold, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    here = sketch(*arguments)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for path in tmp_path.iterdir():
        path.unlink()
    there = remote(*arguments)
    assert there.returncode == here.returncode, there.stderr
    assert without_times_and_places(there.stderr) == without_times_and_places(here.stderr)
    assert there.stdout == here.stdout
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == made


def test_the_key_is_needed_and_its_absence_said(mold: Mold, server: Server) -> None:
    done = mold(*REQUEST, MOLD_HOST=f"127.0.0.1:{server.port}")
    assert done.returncode == 1
    assert done.stderr == "error: missing X-Api-Key header; set MOLD_API_KEY to a key of the server\n"


def test_a_flag_about_this_machine_is_refused_with_a_named_server(remote: Mold) -> None:
    done = remote(*REQUEST, "--device", "cpu")
    assert done.returncode == 2
    assert "--device applies to this machine only" in done.stderr


def test_where_nothing_listens_this_machine_does_the_work(sketch: Mold, tmp_path: Path) -> None:
    done = sketch(*REQUEST, "-o", "a.png", "--host", "127.0.0.1:9")
    assert done.returncode == 0
    assert done.stderr.startswith(
        "note: there is no server at http://127.0.0.1:9; running on this machine instead\n✓ a.png"
    )


def test_a_server_with_the_same_home_is_used_and_can_be_left_out(sketch: Mold, server: Server) -> None:
    there = sketch("list", MOLD_HOME=str(server.home), MOLD_API_KEY=KEY, MOLD_PLUGINS="none")
    here = sketch("list", "--local", MOLD_HOME=str(server.home), MOLD_PLUGINS="none")
    never = sketch("list", MOLD_HOME=str(server.home), MOLD_PLUGINS="none", MOLD_USE_SERVER="never")
    assert "sketch:v1" in there.stdout
    assert here.stdout == never.stdout
    assert "sketch:v1" not in here.stdout


def test_control_c_cancels_the_job_on_the_server(
    mold_process: Callable[..., subprocess.Popen[Any]], server: Server
) -> None:
    with mold_process(
        *("run", "a house", "--steps", "100", "-o", "never.png"),
        MOLD_HOST=f"127.0.0.1:{server.port}",
        MOLD_API_KEY=KEY,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        client = Client(f"127.0.0.1:{server.port}", KEY)
        running = _wait_for(lambda: client.jobs(state="running"))
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=120) == (None, "error: interrupted\n")
        assert process.returncode == 130
    assert _wait_for(lambda: running[0].state == "cancelled")


def test_a_image_of_a_server_costs_no_heavy_import(server: Server, tmp_path: Path) -> None:
    code = """
import sys
from mold_core.cli.main import main
sys.argv = ["mold", "run", "a house", "-o", "a.png"]
try:
    main()
except SystemExit as exit_:
    assert not exit_.code, exit_.code
print("imported:", *(name for name in ("torch", "numpy", "falcon", "av") if name in sys.modules))
"""
    where = {"MOLD_HOST": f"127.0.0.1:{server.port}", "MOLD_API_KEY": KEY, "MOLD_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **where}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "imported:\n"
    assert (tmp_path / "a.png").is_file()


def test_results_of_a_server_are_found_and_removed(remote: Mold, client: Client) -> None:
    client.generate(GenerateRequest(prompt="a windmill", seed=5))
    listed = json.loads(remote("gallery", "search", "windmill", "--json").stdout)
    name = listed["entries"][0]["filename"]
    assert f"{name}  " in remote("gallery", "list").stdout
    assert remote("gallery", "rm", name, "--yes").stdout == f"deleted {name}\n"
    assert remote("gallery", "search", "windmill").stdout == "Nothing found.\n"
    assert remote("gallery", "show", name).returncode == 1


# --- the library --------------------------------------------------------------------------------------------------


@pytest.fixture
def client(server: Server) -> Client:
    """A client of the server."""
    return Client(f"127.0.0.1:{server.port}", KEY)


def test_a_client_gives_events_and_the_response(client: Client) -> None:
    *events, response = client.stream(GenerateRequest(prompt="a house", seed=3, steps=2, batch_size=2))
    steps = [event for event in events if isinstance(event, DenoiseStep)]
    assert [event.step for event in steps][-1] == 2
    assert (response.seed_used, len(response.images), response.model) == (3, 2, "sketch:v1")
    assert response.images[1].data.startswith(b"\x89PNG")


def test_an_iterator_that_is_closed_cancels(client: Client) -> None:
    stream = client.stream(GenerateRequest(prompt="a house", steps=100))
    next(stream)
    job = _wait_for(lambda: client.jobs(state="running"))[0]
    stream.close()  # type: ignore[attr-defined]
    assert _wait_for(lambda: job.state == "cancelled")


def test_on_event_that_says_false_cancels(client: Client) -> None:
    with pytest.raises(CancelledError):
        client.generate(GenerateRequest(prompt="a house", steps=100), lambda event: not isinstance(event, DenoiseStep))


def test_a_job_is_submitted_found_followed_and_cancelled(client: Client) -> None:
    job = client.submit(GenerateRequest(prompt="a house", steps=2), idempotency_key="twice")
    assert client.submit(GenerateRequest(prompt="a house", steps=2), idempotency_key="twice").id == job.id
    assert client.job(job.id).result().images[0].width == 32
    assert job.id in [found.id for found in client.jobs(kind="generate")]
    assert job.cancel() is False
    with pytest.raises(JobNotFoundError):
        client.job("nowhere")


def test_errors_are_those_of_the_engine(client: Client, server: Server) -> None:
    with pytest.raises(UnknownModelError, match="sketch"):
        client.generate(GenerateRequest(prompt="a house", model="sketsch"))
    with pytest.raises(ValidationError, match="steps"):
        client.generate(GenerateRequest(prompt="a house", steps=1000))
    with pytest.raises(ValidationError):
        client.upscale(UpscaleRequest(image=b"no image"))
    with pytest.raises(ServerError, match="invalid API key") as refused:
        Client(f"127.0.0.1:{server.port}", "another key").status()
    assert refused.value.code == "UNAUTHORIZED"


def test_a_model_is_loaded_seen_and_dropped(client: Client) -> None:
    assert client.load("sketch") == "sketch:v1"
    assert client.loaded() == {"sketch:v1"}
    assert client.unload("sketch") == ("sketch:v1",)
    assert client.unload() == ()
    assert client.status().models_loaded == ()


def test_results_are_listed_fetched_and_deleted(client: Client) -> None:
    made = client.generate(GenerateRequest(prompt="a lighthouse", seed=11))
    page = client.gallery.list("lighthouse", limit=1)
    (entry,) = page.entries
    assert (entry.metadata.seed, page.next) == (11, None)
    assert client.gallery.read(entry.filename) == made.images[0].data
    assert client.gallery.update(entry.filename, favourite=True, tags=["sea"]).tags == ("sea",)
    assert client.gallery.list(tag="sea", favourite=True).entries == (client.gallery.get(entry.filename),)
    client.gallery.delete(entry.filename)
    assert client.gallery.list("lighthouse").entries == ()


def _wait_for(wanted: Callable[[], Any]) -> Any:
    for _ in range(2400):
        found = wanted()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come")
