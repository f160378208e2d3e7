"""An image of which not all fits into memory at once: rows of tiles are written as they are finished."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

# In the working precision alone, the result would take more.
LIMIT_BYTES = 700_000_000
WIDTH, HEIGHT = 20_000, 4_000

ENLARGE = """
import sys
from pathlib import Path
from mold_core import Engine, FileUpscaleRequest, Settings

def bytes_of(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

source, target, warm, home = map(Path, sys.argv[1:])
with Engine(Settings(home=home, device="cpu", threads=1)) as engine:
    engine.upscale(FileUpscaleRequest(source=warm, target=target, model="esrgan-nano-x4"))
    before = bytes_of("VmRSS")
    engine.upscale(FileUpscaleRequest(source=source, target=target, model="esrgan-nano-x4"))
    print(bytes_of("VmHWM") - before)
"""


@pytest.mark.soak
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_a_result_20_000_pixels_wide_takes_a_strip_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target, warm = (tmp_path / name for name in ("huge.png", "larger.png", "small.png"))
    size = WIDTH // 4, HEIGHT // 4
    bands = [Image.linear_gradient("L").rotate(angle).resize(size) for angle in (0, 90, 180)]
    Image.merge("RGB", bands).save(source)
    Image.new("RGB", (64, 64)).save(warm)
    done = subprocess.run(
        [sys.executable, "-c", ENLARGE, source, target, warm, tmp_path / "home"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < LIMIT_BYTES < WIDTH * HEIGHT * 3 * 4
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with Image.open(target) as made, Image.open(source) as before:
        assert made.size == (WIDTH, HEIGHT)
        made.draft("RGB", made.size)
        small = made.reduce(40).getpixel((300, 60))
        wanted = before.reduce(10).getpixel((300, 60))
        assert max(abs(a - b) for a, b in zip(small, wanted, strict=True)) < 4
