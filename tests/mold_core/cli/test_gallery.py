"""mold gallery: list, search, show, mark, open, rm."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from PIL import Image

from mold_core.gallery import Gallery
from mold_core.media import OutputMetadata, encode_image
from mold_core.settings import Settings

Mold = Callable[..., CompletedProcess[Any]]


@pytest.fixture
def kept(home: Path) -> list[str]:
    """Three results, newest first; the oldest lies in the folder and has no row yet."""
    gallery = Gallery.of(Settings(home=home))
    assert gallery is not None
    prompts = ["a red house under a yellow moon", "a blue boat on the sea, " * 20]
    made = [
        OutputMetadata(
            prompt=prompt, model="sketch:v1", seed=7, steps=4, guidance=0.0, width=16, height=16, version="1.0"
        )
        for prompt in prompts
    ]
    files = [encode_image(Image.new("RGB", (16, 16), "red"), "png", metadata) for metadata in made]
    names = [gallery.add(data, metadata).filename for data, metadata in zip(files, made, strict=True)]
    (home / "output" / "found.png").write_bytes(files[0])
    os.utime(home / "output" / "found.png", (1_600_000_000, 1_600_000_000))
    return [*reversed(names), "found.png"]


def output(done: CompletedProcess[str]) -> str:
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_results_are_listed_newest_first_one_line_each(mold: Mold, kept: list[str]) -> None:
    lines = output(mold("gallery", "list", COLUMNS="100")).splitlines()
    assert [line.split()[0] for line in lines] == kept
    assert lines[0].endswith("…") and "2020-09-13" in lines[2]
    assert lines[1].endswith("a red house under a yellow moon")


def test_a_list_goes_on_page_by_page(mold: Mold, kept: list[str]) -> None:
    first = json.loads(output(mold("gallery", "list", "--limit", "2", "--json")))
    assert [entry["filename"] for entry in first["entries"]] == kept[:2]
    second = output(mold("gallery", "list", "--cursor", first["next"]))
    assert second.split()[0] == kept[2]


def test_words_find_results(mold: Mold, kept: list[str]) -> None:
    found = json.loads(output(mold("gallery", "search", "yellow", "hou", "--json")))
    assert [entry["filename"] for entry in found["entries"]] == kept[1:]
    assert output(mold("gallery", "search", "nothing like it")) == "Nothing found.\n"


def test_one_result_is_shown_with_all_that_is_known(mold: Mold, kept: list[str], home: Path) -> None:
    shown = output(mold("gallery", "show", kept[1]))
    assert "prompt          a red house under a yellow moon" in shown
    assert str(home / "output" / kept[1]) in shown
    as_json = json.loads(output(mold("gallery", "show", kept[1], "--json")))
    assert (as_json["metadata"]["seed"], as_json["path"]) == (7, str(home / "output" / kept[1]))


def test_favourites_and_tags_are_kept(mold: Mold, kept: list[str]) -> None:
    output(mold("gallery", "mark", kept[0], "--favourite", "--tag", "sea", "--tag", "blue"))
    output(mold("gallery", "mark", kept[0], "--untag", "Blue"))
    assert output(mold("gallery", "list", "--favourites")).startswith(f"★ {kept[0]}")
    assert output(mold("gallery", "list", "--tag", "sea")).split()[1] == kept[0]
    assert output(mold("gallery", "list", "--tag", "blue")) == "Nothing found.\n"


def test_results_are_removed_when_all_names_are_right(mold: Mold, kept: list[str], home: Path) -> None:
    wrong = mold("gallery", "rm", "-y", kept[0], "nothing.png")
    assert (wrong.returncode, wrong.stderr) == (1, "error: image not found: nothing.png\n")
    unasked = mold("gallery", "rm", kept[0])
    assert unasked.returncode == 2 and "--yes" in unasked.stderr
    assert (home / "output" / kept[0]).exists()
    output(mold("gallery", "rm", "--yes", kept[0], kept[2]))
    assert [path.name for path in (home / "output").iterdir()] == [kept[1]]


def test_a_result_is_opened_by_the_program_for_it(mold: Mold, kept: list[str], tmp_path: Path, home: Path) -> None:
    viewer = tmp_path / "bin" / "xdg-open"
    viewer.parent.mkdir()
    viewer.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    viewer.chmod(0o755)
    output(mold("gallery", "open", kept[1], PATH=f"{viewer.parent}:{os.environ['PATH']}"))
    assert (tmp_path / "opened").read_text().strip() == str(home / "output" / kept[1])


def test_without_a_folder_it_says_what_to_do(mold: Mold) -> None:
    done = mold("gallery", "list", MOLD_OUTPUT_DIR="")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "MOLD_OUTPUT_DIR is empty" in done.stderr


def test_an_empty_gallery_says_so(mold: Mold, home: Path) -> None:
    assert output(mold("gallery", "list")) == f"The gallery {home / 'output'} is empty.\n"


def test_the_doctor_shows_files_that_the_gallery_passes_over(mold: Mold, home: Path) -> None:
    (home / "output").mkdir(parents=True)
    (home / "output" / "odd\n\x1b[31m.png").write_bytes(b"")
    done = mold("doctor", "--json")
    (finding,) = [found for found in json.loads(done.stdout) if found["about"] == "gallery"]
    assert finding["state"] == "note"
    assert "odd\\n\\x1b[31m.png' is not shown: its name contains control characters" in finding["words"]
    assert "\x1b" not in done.stderr
