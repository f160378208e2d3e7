"""Overhead of an image over the arithmetic: a warm `Engine.generate` against diffusers' FluxPipeline.

Both have the same weights, size, steps, prompt length and threads, are warm, and return a PNG; mold's time includes the
queue, the worker thread and events. diffusers runs in fp32 or bf16, whichever is faster on this machine.
"""

from __future__ import annotations

import io
from itertools import count
from typing import Any

import torch
from common import NANO, compare, report
from reference import faster_dtype

from mold_core import Engine, GenerateRequest, Settings

PROMPT = "a red house under a yellow moon"
PAIRS = 25


def main() -> None:
    """Compare at 4 and 8 steps; then with a prompt that is new each time, so that no embedding is remembered."""
    torch.set_num_threads(1)
    pipeline = faster_dtype(NANO, lambda pipeline: theirs(pipeline, PROMPT, 8))
    with Engine(Settings(threads=1, device="cpu")) as engine:
        short = compare(lambda: ours(engine, PROMPT, 4), lambda: theirs(pipeline, PROMPT, 4), pairs=PAIRS)
        print(short.describe("4 steps, mold", "diffusers"))
        times = compare(lambda: ours(engine, PROMPT, 8), lambda: theirs(pipeline, PROMPT, 8), pairs=PAIRS)
        print(times.describe("8 steps, mold", "diffusers"))
        fresh = count()
        new = compare(
            lambda: ours(engine, f"{PROMPT} {next(fresh)}", 8),
            lambda: theirs(pipeline, f"{PROMPT} {next(fresh)}", 8),
            pairs=PAIRS,
        )
        print(new.describe("8 steps, new prompts, mold", "diffusers"))
    report("overhead", times.ratio, 0.8, "warm Engine.generate ÷ FluxPipeline, 128x128, 8 steps", better="lower")


def ours(engine: Engine, prompt: str, steps: int) -> bytes:
    """Return a PNG made by mold."""
    request = GenerateRequest(prompt=prompt, model="flux-nano:bf16", steps=steps, seed=1)
    return engine.generate(request).images[0].data


def theirs(pipeline: Any, prompt: str, steps: int) -> bytes:
    """Return a PNG made by diffusers."""
    image = pipeline(
        prompt,
        width=128,
        height=128,
        num_inference_steps=steps,
        guidance_scale=0.0,
        max_sequence_length=48,
        generator=torch.Generator().manual_seed(1),
    ).images[0]
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    main()
