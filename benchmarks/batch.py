"""Throughput of batches: eight images together against eight one by one, and against diffusers' batch of eight.

Both sides may use every core; mold uses as many as pay off, which is one for a single small image. diffusers runs in
fp32 or bf16, on one thread or all, whichever is fastest on this machine, and in its own process, because the threads of
both would disturb each other in one process. The two sides of a pair are measured in direct succession; the figures are
medians of the ratios. The ratio of processor times shows the gain of batching when no core is idle.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from time import process_time
from typing import Any

import torch
from common import NANO, compare, report
from reference import faster_dtype

from mold_core import Engine, GenerateRequest, Settings

PROMPT = "a red house under a yellow moon"
BATCH = 8
STEPS = 4
PAIRS = 12


def main() -> None:
    """Images per second of a batch of 8 at 128x128, relative to two alternatives."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=diffusers_process, args=(there,), daemon=True)
    child.start()
    how = here.recv()

    def theirs() -> None:
        here.send(True)
        here.recv()

    with Engine(Settings(device="cpu")) as engine:
        alone = compare(lambda: together(engine), lambda: one_by_one(engine), pairs=PAIRS)
        print(alone.describe("batch of 8", "one by one"))
        other = compare(lambda: together(engine), theirs, pairs=PAIRS)
        print(other.describe("batch of 8", f"diffusers' batch of 8, {how}"))
        batched, single = processor_time(lambda: together(engine)), processor_time(lambda: one_by_one(engine))
        print(f"processor time, batch of 8: {1000 * batched:.0f} ms   one by one: {1000 * single:.0f} ms")
    here.send(False)
    child.join()
    report("batch-vs-diffusers", 1 / other.ratio, 1.2, "images/s ÷ diffusers' batch of 8", better="higher")
    report("batch", 1 / alone.ratio, 1.6, "images/s, batch of 8 ÷ one by one, 128x128", better="higher")


def together(engine: Engine) -> None:
    """Make eight images in one batch."""
    engine.generate(request(seed=1, batch_size=BATCH))


def one_by_one(engine: Engine) -> None:
    """Make the same eight images one after the other."""
    for seed in range(1, BATCH + 1):
        engine.generate(request(seed=seed, batch_size=1))


def request(seed: int, batch_size: int) -> GenerateRequest:
    """Return the request for a number of images."""
    return GenerateRequest(prompt=PROMPT, model="flux-nano:bf16", steps=STEPS, seed=seed, batch_size=batch_size)


def processor_time(function: Callable[[], object]) -> float:
    """Return the least processor time, in seconds, of a few calls."""
    taken = []
    for _ in range(5):
        started = process_time()
        function()
        taken.append(process_time() - started)
    return min(taken)


def diffusers_process(connection: Connection) -> None:
    """Choose how diffusers is fastest, send that, then make a batch for every message; the answer says it is made."""
    every = torch.get_num_threads()
    pipeline = faster_dtype(NANO, partial(diffusers_batch, threads=1))
    times = compare(lambda: diffusers_batch(pipeline, every), lambda: diffusers_batch(pipeline, 1), pairs=5)
    print(times.describe(f"diffusers on {every} threads", "on one"), flush=True)
    threads = every if times.ratio < 1 else 1
    connection.send(f"threads: {threads}")
    while connection.recv():
        diffusers_batch(pipeline, threads)
        connection.send(True)


def diffusers_batch(pipeline: Any, threads: int) -> None:
    """Make eight images with diffusers in one batch."""
    torch.set_num_threads(threads)
    pipeline(
        PROMPT,
        width=128,
        height=128,
        num_inference_steps=STEPS,
        guidance_scale=0.0,
        max_sequence_length=48,
        num_images_per_prompt=BATCH,
        generator=[torch.Generator().manual_seed(seed) for seed in range(1, BATCH + 1)],
    )


if __name__ == "__main__":
    main()
