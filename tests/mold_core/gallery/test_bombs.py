"""Files in the output folder that claim more than they are cost the gallery little, and only once."""

from __future__ import annotations

from pathlib import Path

import pytest
from media_bombs import gif

from mold_core.errors import ResultNotFoundError
from mold_core.gallery import Gallery
from mold_core.media.decoder.pool import pool


def test_a_file_that_cannot_be_decoded_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = Gallery(tmp_path / "output", tmp_path / "gallery.db")
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "bomb.gif").write_bytes(gif((64, 64), (64, 64), (65_000, 10_000)))
    gallery.reconcile()
    tried: list[str] = []
    run = pool().run
    monkeypatch.setattr(pool(), "run", lambda task, *rest: (tried.append(task.name), run(task, *rest))[1])
    for _ in range(3):
        assert gallery.thumbnail("bomb.gif").stand_in
        with pytest.raises(ResultNotFoundError):
            gallery.preview("bomb.gif")
    assert tried == ["thumbnail", "preview"]
    gallery.close()
