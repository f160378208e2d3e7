"""Results get safe names and never overwrite each other."""

from __future__ import annotations

from pathlib import Path
from threading import Thread

import pytest

from mold_core.errors import OutputError
from mold_core.gallery import file_name, save


@pytest.mark.parametrize(
    ("model", "index", "format", "name"),
    [
        ("flux-dev:q4", None, "png", "mold-flux-dev-q4-1700000000.png"),
        ("flux-dev:q4", 0, "jpeg", "mold-flux-dev-q4-1700000000-0.jpeg"),
        ("ltx-2:fp8", 3, "mp4", "mold-ltx-2-fp8-1700000000-3.mp4"),
        ("ltx-video:bf16", None, "apng", "mold-ltx-video-bf16-1700000000.png"),
        ("../../etc/passwd", None, "webp", "mold-..-..-etc-passwd-1700000000.webp"),
        ('a b\\c"\n\0é', None, "gif", "mold-a-b-c-----1700000000.gif"),
    ],
)
def test_a_file_is_named_after_its_model_and_time(model: str, index: int | None, format: str, name: str) -> None:
    assert file_name(model, 1_700_000_000, index, format) == name  # type: ignore[arg-type]


def test_a_very_long_model_name_still_makes_a_file(tmp_path: Path) -> None:
    path = save(tmp_path, file_name("m" * 5000, 1_700_000_000_000, 999, "png"), b"image")
    assert path.read_bytes() == b"image"


def test_a_taken_name_is_counted_up(tmp_path: Path) -> None:
    paths = [save(tmp_path, "mold-m-17.png", b"%d" % number) for number in range(3)]
    assert [path.name for path in paths] == ["mold-m-17.png", "mold-m-17-1.png", "mold-m-17-2.png"]
    assert [path.read_bytes() for path in paths] == [b"0", b"1", b"2"]


def test_results_saved_at_once_all_survive(tmp_path: Path) -> None:
    threads = [Thread(target=save, args=(tmp_path, "mold-m-17.png", b"%d" % number)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.read_bytes() for path in tmp_path.iterdir()) == sorted(b"%d" % number for number in range(12))


def test_the_output_folder_is_made(tmp_path: Path) -> None:
    assert save(tmp_path / "home" / "output", "a.png", b"image").read_bytes() == b"image"


def test_an_output_folder_that_is_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "output").write_bytes(b"")
    with pytest.raises(OutputError, match=r"cannot write '.*output/a\.png': '.*output' is not a folder"):
        save(tmp_path / "output", "a.png", b"image")
