"""Prompt adherence of ltx2-nano in motion and sound: clips of the engine, followed by a tracker.

The checkers (`plugins/mold_nano/training/tracker.py`, `listener.py`) determine for every clip which thing moves how and
where, and whether its sound fits. Drawings of the same clips give their ceiling, drawings of other clips their floor.
`--sheet` saves strips of frames.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import av
import numpy as np
from common import report
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "plugins" / "mold_nano" / "training"))

from clips import FPS, Clip, begun, caption, frames, random_clip, sound
from listener import fits
from tracker import agrees, see

AIM_HELD_IN, AIM_HELD_OUT = 0.8, 0.6
PROMPTS_SEED = 20_261_125

Shown = tuple[list[Image.Image], np.ndarray, int]
Make = Callable[[Clip, str, int], Shown]


def engine_clips(model: str, count: int, size: tuple[int, int]) -> Make:
    """Return a function that makes the clip of a caption with the engine."""
    from mold_core import Engine, GenerateRequest

    engine = Engine()

    def make(_clip: Clip, text: str, seed: int) -> Shown:
        request = GenerateRequest(
            prompt=text, model=model, seed=seed, frames=count, fps=FPS, width=size[0], height=size[1]
        )
        answer = engine.generate(request)
        assert answer.video is not None
        return read(answer.video.data)

    return make


def read(data: bytes) -> Shown:
    """Return the frames and the sound [2, S] of an MP4, and the sound's rate."""
    with av.open(io.BytesIO(data)) as container:
        images = [frame.to_image() for frame in container.decode(video=0)]
    with av.open(io.BytesIO(data)) as container:
        parts = [frame.to_ndarray() for frame in container.decode(audio=0)]
        rate = container.streams.audio[0].rate
    return images, np.concatenate(parts, axis=1), rate


def drawn(count: int, size: tuple[int, int]) -> Make:
    """Return a function that draws the asked clip as the world does."""

    def make(clip: Clip, _text: str, seed: int) -> Shown:
        shown = [Image.fromarray(frame) for frame in frames(clip, count, *size)]
        return shown, sound(clip, count / FPS, Random(seed), *size)[:, ::2], 24_000

    return make


def other(count: int, size: tuple[int, int]) -> Make:
    """Return a function that draws another clip than the asked one."""
    draw = drawn(count, size)
    return lambda _clip, text, seed: draw(begun(random_clip(Random(seed)), Random(seed)), text, seed)


def asked(count: int, held_out: bool) -> list[tuple[Clip, str, int]]:
    """Return clips to ask for, each with its caption and a seed."""
    rng = Random(PROMPTS_SEED + held_out)
    made = []
    for _ in range(count):
        clip = begun(random_clip(rng, held_out=held_out), rng)
        made.append((clip, caption(clip, rng), rng.getrandbits(31)))
    return made


def judged(clips: Sequence[tuple[Clip, str, int]], make: Make) -> tuple[float, Counter[str]]:
    """Return the share of clips with all factors right, and how often each factor was."""
    whole, right = 0, Counter[str]()
    for clip, text, seed in clips:
        shown, samples, rate = make(clip, text, seed)
        seen = see(shown)
        factors = agrees(seen, clip)
        factors["sound"] = fits(seen.kind, seen.track, FPS, samples, rate)
        right.update(name for name, yes in factors.items() if yes)
        whole += all(factors.values())
    return whole / len(clips), right


def strips(clips: Sequence[tuple[Clip, str, int]], make: Make, shown: int = 8) -> Image.Image:
    """Return strips of frames, a clip a row."""
    rows = []
    for clip, text, seed in clips:
        images = make(clip, text, seed)[0]
        chosen = [images[round(index * (len(images) - 1) / (shown - 1))] for index in range(shown)]
        rows.append(
            np.concatenate([np.pad(np.asarray(p), ((0, 3), (0, 3), (0, 0)), constant_values=255) for p in chosen], 1)
        )
    return Image.fromarray(np.concatenate(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ltx2-nano")
    parser.add_argument(
        "--count", type=int, default=60, help="clips with things that training saw; half as many others"
    )
    parser.add_argument("--frames", type=int, default=33)
    parser.add_argument("--size", default="64x64")
    parser.add_argument("--sheet", type=Path, help="where to write strips of frames")
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    size = (width, height)
    makers = {
        "engine": engine_clips(arguments.model, arguments.frames, size),
        "drawn": drawn(arguments.frames, size),
        "others": other(arguments.frames, size),
    }
    shares = {}
    for held_out, count in ((False, arguments.count), (True, arguments.count // 2)):
        clips = asked(count, held_out)
        for name, make in makers.items():
            share, right = judged(clips, make)
            label = f"{'held out' if held_out else 'held in'}, {name}"
            shares[label] = round(share, 3)
            parts = "  ".join(f"{factor} {right[factor] / count:.0%}" for factor in sorted(right))
            print(f"{label:18} all right {share:.0%}   {parts}", flush=True)
    if arguments.sheet:
        strips(asked(10, False), makers["engine"]).save(arguments.sheet)
    report("nano motion, held out", shares["held out, engine"], AIM_HELD_OUT, "share with all right", better="higher")
    report("nano motion", shares["held in, engine"], AIM_HELD_IN, "share with all right", better="higher")


if __name__ == "__main__":
    main()
