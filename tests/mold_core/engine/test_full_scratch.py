"""A video is not lost because the disk for temporary files is full."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from PIL import Image
from small_disk import load_weights, small_disk

from mold_core import Frames, GenerateRequest
from mold_core.jobs.kinds.videos import encode_video


def test_a_video_is_encoded_although_the_temporary_folder_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/dev/shm").is_dir():
        pytest.skip("there is no file system in memory here")
    request = GenerateRequest(prompt="a house", width=64, height=64, frames=5, fps=8, output_format="mp4")
    made = Frames(images=[Image.effect_noise((64, 64), 90).convert("RGB") for _ in range(5)], fps=8)
    with small_disk(tmp_path / "disk") as disk:
        load_weights(disk, leave_bytes=8192)
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        video = encode_video(request, made, None)
    assert (video.frames, video.data[4:8]) == (5, b"ftyp")
