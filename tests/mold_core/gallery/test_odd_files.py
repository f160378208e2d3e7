"""One file that cannot be shown is passed over, told of once, and holds nothing else up."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from tempfile import NamedTemporaryFile

import pytest
from PIL import Image

from mold_core.gallery import Changes, Gallery
from mold_core.media import OutputMetadata, encode_image
from mold_core.media.video import VideoWriter

RED_HOUSE = OutputMetadata(
    prompt="a red house", model="flux-nano:bf16", seed=7, steps=4, guidance=0.0, width=64, height=48, version="1.0"
)


def image(format: str = "PNG") -> bytes:
    buffer = BytesIO()
    Image.effect_noise((300, 200), 50).convert("RGB").save(buffer, format)
    return buffer.getvalue()


def video(frames: int = 4) -> bytes:
    with NamedTemporaryFile() as file:
        with VideoWriter(file, "mp4", width=64, height=64, fps=8) as writer:  # type: ignore[arg-type]
            for shade in range(frames):
                writer.add(Image.new("RGB", (64, 64), (50 * shade, 0, 90)))
        file.flush()
        return Path(file.name).read_bytes()


def put(folder: Path, name: str, data: bytes) -> None:
    (folder / name).write_bytes(data)


def dated(year_s: int) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        put(folder, "odd.png", image())
        # Written in this way because not every system's utime() takes such a date.
        try:
            os.utime(folder / "odd.png", (year_s, year_s))
        except (OSError, OverflowError):
            pytest.skip("this disk has no such dates")
        if (folder / "odd.png").stat().st_mtime != year_s:
            pytest.skip("this disk has no such dates")

    return make


def cut(name: str, data: Callable[[], bytes]) -> Callable[[Path], None]:
    return lambda folder: put(folder, name, data()[: len(data()) // 2])


ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "a date beyond 2262": (dated(9_223_372_037), "its date is not"),
    "a cut PNG": (cut("odd.png", image), "its end is missing"),
    "a cut JPEG": (cut("odd.jpg", lambda: image("JPEG")), "its end is missing"),
    "a cut WebP": (cut("odd.webp", lambda: image("WEBP")), "its end is missing"),
    "a cut GIF": (cut("odd.gif", lambda: image("GIF")), "its end is missing"),
    "a cut MP4": (cut("odd.mp4", video), "its end is missing"),
    "an unknown codec": (lambda folder: put(folder, "odd.mp4", video().replace(b"avc1", b"zz9q")), ""),
    "text": (lambda folder: put(folder, "odd.png", b"no image at all" * 9), "does not match the extension"),
    "nothing": (lambda folder: put(folder, "odd.png", b""), "it is empty"),
    "a broken link": (lambda folder: (folder / "odd.png").symlink_to("nowhere.png"), "symbolic link"),
    "a pipe": (lambda folder: os.mkfifo(folder / "odd.png"), "not a regular file"),
    "a folder": (lambda folder: (folder / "odd.png").mkdir(), "it is a folder"),
    "a line break": (lambda folder: put(folder, "odd\nERROR.png", image()), "control characters"),
    "no text": (lambda folder: put(folder, os.fsdecode(b"odd\xff\xfe.png"), image()), "not UTF-8"),
}


@pytest.mark.parametrize("odd", ODD)
def test_one_odd_file_is_passed_over_with_one_line(odd: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make, reason = ODD[odd]
    folder = tmp_path / "output"
    folder.mkdir()
    make(folder)
    put(folder, "a.png", encode_image(Image.new("RGB", (64, 48)), "png", RED_HOUSE))
    put(folder, "z.png", image())
    with caplog.at_level(logging.WARNING):
        gallery = Gallery(folder, tmp_path / "gallery.db")
        assert gallery.reconcile() == Changes(added=2)
        assert gallery.reconcile() == Changes()
        gallery.close()
        again = Gallery(folder, tmp_path / "gallery.db")  # another program
        assert again.reconcile() == Changes()
    (line,) = [record.getMessage() for record in caplog.records]
    assert "odd" in line and reason in line and "\n" not in line
    assert {entry.filename for entry in again.list().entries} == {"a.png", "z.png"}
    (skipped,) = again.skipped()
    assert (skipped.name.startswith("odd"), reason in skipped.reason) == (True, True)
    put(folder, "new.png", image())
    assert again.reconcile() == Changes(added=1)


@pytest.mark.parametrize(
    ("name", "format"), [("a.png", "PNG"), ("a.jpg", "JPEG"), ("a.webp", "WEBP"), ("a.gif", "GIF")]
)
def test_a_whole_file_is_no_odd_one(name: str, format: str, tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    put(tmp_path / "output", name, image(format))
    put(tmp_path / "output", "video.mp4", video())
    gallery = Gallery(tmp_path / "output", tmp_path / "gallery.db")
    assert gallery.reconcile() == Changes(added=2)
    assert gallery.skipped() == ()


def test_a_file_before_1970_is_shown(tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    put(tmp_path / "output", "old.png", image())
    os.utime(tmp_path / "output" / "old.png", (-86_400, -86_400))
    gallery = Gallery(tmp_path / "output", tmp_path / "gallery.db")
    assert gallery.reconcile() == Changes(added=1)
    assert gallery.get("old.png").timestamp == -86_400


def test_a_file_that_is_mended_is_shown_and_one_that_broke_no_longer_is(tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    put(tmp_path / "output", "one.png", image()[:5000])
    put(tmp_path / "output", "two.png", image())
    gallery = Gallery(tmp_path / "output", tmp_path / "gallery.db")
    assert gallery.reconcile() == Changes(added=1)
    put(tmp_path / "output", "one.png", image())
    put(tmp_path / "output", "two.png", image()[:5000])
    gallery.reconcile()
    gallery.reconcile()
    assert [entry.filename for entry in gallery.list().entries] == ["one.png"]
    assert [file.name for file in gallery.skipped()] == ["two.png"]
    (tmp_path / "output" / "two.png").unlink()
    gallery.reconcile()
    assert gallery.skipped() == ()


def test_thousands_of_odd_files_do_not_flood_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "output").mkdir()
    for number in range(300):
        put(tmp_path / "output", f"{number}.png", b"")
    with caplog.at_level(logging.WARNING):
        Gallery(tmp_path / "output", tmp_path / "gallery.db").reconcile()
    assert len(caplog.records) == 21
    assert "280 more files are not shown" in caplog.records[-1].getMessage()
