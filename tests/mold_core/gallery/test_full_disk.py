"""The gallery on a disk that is full or read-only, and with databases that are none of its own."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from PIL import Image
from small_disk import load_weights, small_disk

from mold_core.disk import is_full
from mold_core.errors import OutputError
from mold_core.gallery import Gallery
from mold_core.media import OutputMetadata, encode_image

RED_HOUSE = OutputMetadata(
    prompt="a red house", model="flux-nano:bf16", seed=7, steps=4, guidance=0.0, width=64, height=48, version="1.0"
)
IMAGE = encode_image(Image.new("RGB", (64, 48)), "png", RED_HOUSE)


def whole(database: Path) -> bool:
    connection = sqlite3.connect(database)
    try:
        return bool(connection.execute("PRAGMA integrity_check").fetchone() == ("ok",))
    finally:
        connection.close()


def test_everything_can_be_deleted_on_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "2m") as disk:
        gallery = Gallery(disk / "output", disk / "gallery.db")
        names = [gallery.add(IMAGE, RED_HOUSE).filename for _ in range(20)]
        load_weights(disk)
        with pytest.raises(OutputError) as refused:
            gallery.add(IMAGE, RED_HOUSE)
        assert is_full(refused.value)
        for name in names:
            assert gallery.delete(name)
        assert gallery.list().entries == ()
        assert list((disk / "output").glob("*.png")) == []
        gallery.close()
        assert whole(disk / "gallery.db")


def test_a_image_is_deleted_where_no_room_was_kept_back(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "2m") as disk:
        gallery = Gallery(disk / "output", disk / "gallery.db")
        entry = gallery.add(IMAGE + b"\0" * 300_000, RED_HOUSE)
        (disk / "gallery.db-spare").unlink()
        load_weights(disk)
        assert gallery.delete(entry.filename)
        assert gallery.list().entries == ()
        assert not entry.path.exists()
        gallery.close()


def test_a_gallery_opens_on_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "2m") as disk:
        gallery = Gallery(disk / "output", disk / "gallery.db")
        entry = gallery.add(IMAGE, RED_HOUSE)
        gallery.close()
        load_weights(disk)
        again = Gallery(disk / "output", disk / "gallery.db")
        assert again.get(entry.filename) == entry
        assert again.delete(entry.filename)
        again.close()


@pytest.mark.parametrize("statement", ["CREATE TABLE entries (name TEXT)", "CREATE TABLE customers (name TEXT)"])
def test_a_database_of_another_program_is_put_aside(statement: str, tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "gallery.db")
    connection.execute(statement)
    connection.commit()
    connection.close()
    gallery = Gallery(tmp_path / "output", tmp_path / "gallery.db")
    entry = gallery.add(IMAGE, RED_HOUSE)
    assert gallery.list().entries == (entry,)
    (aside,) = tmp_path.glob("gallery.db.damaged-*")
    assert whole(aside)


def test_a_database_that_was_cut_is_put_aside(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path / "output", tmp_path / "gallery.db")
    entry = gallery.add(IMAGE, RED_HOUSE)
    gallery.close()
    data = (tmp_path / "gallery.db").read_bytes()
    (tmp_path / "gallery.db").write_bytes(data[: len(data) // 2])
    again = Gallery(tmp_path / "output", tmp_path / "gallery.db")
    again.reconcile()
    assert [found.filename for found in again.list().entries] == [entry.filename]
