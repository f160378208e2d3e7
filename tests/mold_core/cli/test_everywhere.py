"""Every command that a server can follow, asked of one disk twice: here, and through a server. Both answer alike."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from http_server import serving
from PIL import Image

from mold_core.cli.main import COMMANDS
from mold_core.cli.page import cli_page
from mold_core.gallery import Gallery, Parent
from mold_core.media import OutputMetadata, encode_image
from mold_core.settings import Settings

Mold = Callable[..., CompletedProcess[Any]]

PLUGINS = "http,sketch"

# Commands that are about no machine.
NOWHERE = {"completions", "version"}


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MOLD_HOME with two models, a LoRA, a chain and three results, one made from another."""
    home = tmp_path_factory.mktemp("disk") / "home"
    for model in ("sketch-v1", "far-q8"):
        (home / "models" / model).mkdir(parents=True)
        (home / "models" / model / "weights").write_bytes(b"12345")
    (home / "config.toml").write_text('default_model = "sketch:v1"\n')
    (home / "loras").mkdir()
    (home / "loras" / "ink.safetensors").write_bytes(b"123")
    (home / "chains").mkdir()
    chain = {"model": "video:v1", "stages": [{"prompt": "a boat", "frames": 9}, {"prompt": "the boat", "frames": 9}]}
    (home / "chains" / "0123456789abcdef.json").write_text(json.dumps(chain))
    gallery = Gallery.of(Settings(home=home))
    assert gallery is not None
    for number, prompt in enumerate(["a red house", "a blue boat", "a black cat"]):
        about = OutputMetadata(
            prompt=prompt, model="sketch:v1", seed=number, steps=4, guidance=0.0, width=16, height=16, version="1.0"
        )
        image = encode_image(Image.new("RGB", (16, 16), (number, 0, 0)), "png", about)
        parents = [Parent(relation="upscaled-from", name="0.png")] if number == 2 else []
        gallery.add(image, about, name=f"{number}.png", parents=parents)
    gallery.update("1.png", favourite=True, tags=["sea"])
    gallery.close()
    return home


@pytest.fixture(scope="module")
def port(site: Path, disk: Path) -> Iterator[int]:
    """The port of a server with that MOLD_HOME."""
    with serving(disk, PYTHONPATH=str(site), MOLD_PLUGINS=PLUGINS) as server:
        yield server.port


@pytest.fixture
def here(mold: Mold, site: Path, disk: Path) -> Mold:
    """Run `mold` with that MOLD_HOME and no server."""

    def run(*arguments: str, **options: Any) -> CompletedProcess[Any]:
        return mold(
            *arguments,
            paths=[site],
            MOLD_HOME=str(disk),
            MOLD_PLUGINS=PLUGINS,
            MOLD_USE_SERVER="never",
            **options,
        )

    return run


@pytest.fixture
def there(mold: Mold, port: int) -> Mold:
    """Run `mold` where no plugin, model or result is, with the server as its host."""

    def run(*arguments: str, **options: Any) -> CompletedProcess[Any]:
        return mold(*arguments, MOLD_PLUGINS="none", MOLD_HOST=f"127.0.0.1:{port}", **options)

    return run


def plain(text: str, disk: Path) -> str:
    """Return an answer without what only one of the two can know: absolute paths, addresses, durations."""
    text = text.replace(f"{disk}/models/", "").replace(f"{disk}/output/", "")
    text = re.sub(r"http://127\.0\.0\.1:\d+/api/gallery/image/", "", text)
    text = re.sub(r'\n *"(models_dir|output_dir|path)": "[^"]*",?', "", text).replace(",\n  }", "\n  }")
    text = re.sub(rf"{re.escape(str(disk))}\S*", "", text)
    return re.sub(r" +", " ", re.sub(r", \d+\.\d s|all on \S+|files go to", "", text))


@pytest.mark.parametrize(
    "arguments",
    [
        ("list",),
        ("list", "--json"),
        ("list", "--loras"),
        ("list", "--loras", "--json"),
        ("info", "sketch"),
        ("info", "far", "--json"),
        ("info", "skech"),
        ("expand", "a house"),
        ("upscale", "nowhere.png"),
        ("pull", "nosuch"),
        ("rm", "nosuch", "--yes"),
        ("rm", "far"),
        ("gallery", "list"),
        ("gallery", "list", "--json", "--limit", "2"),
        ("gallery", "list", "--favourites"),
        ("gallery", "list", "--tag", "sea", "--json"),
        ("gallery", "search", "red", "house"),
        ("gallery", "search", "nothing of this"),
        ("gallery", "show", "0.png"),
        ("gallery", "show", "2.png"),
        ("gallery", "show", "1.png", "--json"),
        ("gallery", "show", "nowhere.png"),
        ("gallery", "mark", "0.png", "--tag", "land"),
        ("gallery", "mark", "0.png", "--untag", "land", "--no-favourite"),
        ("gallery", "rm", "0.png", "nowhere.png", "--yes"),
        ("chain", "list"),
        ("chain", "list", "--json"),
        ("chain", "resume", "nosuch"),
        ("run", "a red house", "--seed", "7", "-o", "house.png"),
        ("run", "a house", "--steps", "1000", "-o", "house.png"),
    ],
    ids=" ".join,
)
def test_the_answer_is_the_same(here: Mold, there: Mold, disk: Path, arguments: tuple[str, ...]) -> None:
    one, other = here(*arguments, stdin=""), there(*arguments, stdin="")
    assert other.returncode == one.returncode, other.stderr
    assert plain(other.stdout, disk) == plain(one.stdout, disk)
    assert plain(other.stderr, disk) == plain(one.stderr, disk)
    assert one.stdout or one.stderr


def test_the_room_taken_is_told(here: Mold, there: Mold) -> None:
    one, other = (json.loads(mold("stats", "--json").stdout) for mold in (here, there))
    assert other["models"] == one["models"] == [{"name": "sketch:v1", "bytes": 5}, {"name": "far:q8", "bytes": 5}]
    assert (other["models_dir_bytes"], other["loras_bytes"]) == (one["models_dir_bytes"], 3)
    assert "models_dir" not in other


def test_what_is_marked_there_is_seen_here(here: Mold, there: Mold) -> None:
    assert there("gallery", "mark", "2.png", "--favourite", "--tag", "night").stdout == "2.png  favourite  night\n"
    assert "2.png" in here("gallery", "list", "--tag", "night", "--favourites").stdout
    there("gallery", "mark", "2.png", "--no-favourite", "--untag", "night")


def test_a_result_of_a_server_is_opened_as_a_copy(there: Mold, tmp_path: Path, home: Path, disk: Path) -> None:
    viewer = tmp_path / "bin" / "xdg-open"
    viewer.parent.mkdir()
    viewer.write_text(f'#!/bin/sh\ncp "$1" {tmp_path}/opened\n')
    viewer.chmod(0o755)
    done = there("gallery", "open", "1.png", PATH=f"{viewer.parent}:/usr/bin:/bin")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "opened").read_bytes() == (disk / "output" / "1.png").read_bytes()


def test_a_model_is_taken_off_a_servers_disk(there: Mold, disk: Path, tmp_path: Path) -> None:
    weights = disk / "models" / "far-q8" / "weights"
    kept = shutil.copy(weights, tmp_path)
    done = there("rm", "far", "--yes")
    assert (done.returncode, done.stdout) == (0, "✓ far:q8 deleted, 5 B freed\n")
    assert done.stderr.split() == ["5", "B", "far-q8/weights"]
    assert not weights.exists()
    weights.parent.mkdir()
    shutil.move(kept, weights)


def test_nothing_here_is_removed_where_the_named_server_is_not(here: Mold, disk: Path) -> None:
    done = here("rm", "sketch", "--yes", "--host", "127.0.0.1:9")
    assert done.returncode == 1
    assert "there is no server at http://127.0.0.1:9" in done.stderr
    assert (disk / "models" / "sketch-v1" / "weights").exists()


def test_a_flag_about_this_machine_and_a_named_server_contradict(there: Mold) -> None:
    assert "--memory-budget-gb applies to this machine only" in there("info", "sketch", "--memory-gb", "4").stderr
    assert "--verify reads files of this machine" in there("info", "sketch", "--verify").stderr


def test_every_command_takes_a_host_or_says_that_it_is_about_this_machine() -> None:
    helps = dict.fromkeys(COMMANDS, "")
    for name, section in re.findall(r"^## mold (\w+)[^\n]*\n(.*?)(?=^## |\Z)", cli_page(), re.MULTILINE | re.DOTALL):
        helps[name] = helps.get(name, "") + " ".join(section.split())
    silent = {name for name in COMMANDS if "--host" not in helps[name] and "this machine" not in helps[name]}
    assert silent == NOWHERE
