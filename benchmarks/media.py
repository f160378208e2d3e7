"""Decoding of client media in the warm decoder process, against the same work in this process.

Wall time is measured, because a request waits for it. The clip is small, so the overhead of the process dominates.
"""

from __future__ import annotations

from io import BytesIO
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from common import Comparison, compare, report
from PIL import Image

from mold_core.media import decoder, sound, video

WIDTH, HEIGHT, FRAMES, FPS, RATE = 512, 320, 49, 24, 24_000
PAIRS = 15


def main() -> None:
    data = clip()
    seconds = FRAMES / FPS
    decoder.warm_decoder()

    def probe_here() -> None:
        video.probe_video(BytesIO(data))
        next(video.decode_frames(BytesIO(data)))

    numbers = count()

    def probe_there() -> None:
        other = data + b"\0\0\0\x0cfree" + next(numbers).to_bytes(4, "big")  # what was looked at is remembered
        decoder.probe_video(other, name="video")

    probing = compare(probe_there, probe_here, pairs=PAIRS, warmup=3)
    frames = compare(
        lambda: decoder.decode_clip(data, name="video", frames=FRAMES),
        lambda: list(video.decode_frames(BytesIO(data))),
        pairs=PAIRS,
    )
    hearing = compare(
        lambda: decoder.decode_sound(data, max_seconds=seconds),
        lambda: sound.decode_sound(data, max_seconds=seconds),
        pairs=PAIRS,
    )
    names = ("looked at, first frame decoded", f"{FRAMES} frames decoded", f"{seconds:.1f} s of sound decoded")
    for name, comparison in zip(names, (probing, frames, hearing), strict=True):
        print(f"{name}: {comparison.describe('decoder process', 'in process')}")
    report(
        "media, looked at",
        more_ms(probing),
        10,
        "ms more than in this process until a clip is accepted",
        better="lower",
    )
    report("media, sound", more_ms(hearing), 10, "ms more than in this process, sound of a clip", better="lower")
    report("media, frames", frames.ratio, 1.3, "decoder process ÷ in process, all frames of a clip", better="lower")


def more_ms(comparison: Comparison) -> float:
    """Return how much longer the decoder process takes, in the median."""
    return 1000 * median(ours - theirs for ours, theirs in zip(comparison.ours, comparison.theirs, strict=True))


def clip() -> bytes:
    """Return two seconds of moving stripes with a tone."""
    with TemporaryDirectory(prefix="mold-bench-") as folder:
        path = Path(folder) / "clip.mp4"
        columns, rows = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
        with (
            path.open("w+b") as file,
            video.VideoWriter(file, "mp4", width=WIDTH, height=HEIGHT, fps=FPS, sample_rate=RATE) as writer,
        ):
            for index in range(FRAMES):
                waves = np.sin((columns + 6 * index) / 23) * np.cos((rows - 3 * index) / 31)
                level = (waves * 127 + 128).astype(np.uint8)
                writer.add(Image.fromarray(np.stack([level, 255 - level, level // 2], axis=2)))
            tone = 0.4 * np.sin(np.arange(RATE * FRAMES // FPS, dtype=np.float32) * 0.1)
            writer.add_sound(np.stack([tone, -tone]))
        return path.read_bytes()


if __name__ == "__main__":
    main()
