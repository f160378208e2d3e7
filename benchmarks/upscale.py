"""Upscaling: pixels per second and peak memory, against a plain fp32 run of the same network over the whole image.

Both sides load the same random weights and the same PNG, with one thread each; mold also writes the upscaled PNG, while
the plain side stops at the pixels. Processor times are compared in turn. Memory is measured in one process per side:
its peak less its memory after the imports. `--quick` uses smaller images.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import compare, report

SIDE_OF_MEMORY = 2048


def written(folder: Path, blocks: int) -> Path:
    """Write a network with random weights: RRDBNet with some blocks, or for 0 the SRVGGNetCompact of anime-v3."""
    import torch
    from safetensors.torch import save_file

    from mold_esrgan.configs import CompactConfig, RRDBConfig
    from mold_esrgan.networks import RRDBNet, SRVGGNetCompact

    torch.manual_seed(0)
    network = RRDBNet(RRDBConfig(blocks=blocks)) if blocks else SRVGGNetCompact(CompactConfig())
    path = folder / f"network-{blocks}.safetensors"
    save_file(network.state_dict(), path)
    return path


def drawn(folder: Path, side: int) -> Path:
    """Write an image of side x side pixels, a colourful fractal."""
    from PIL import Image

    path = folder / f"image-{side}.png"
    extents = ((-2, -1.5, 1, 1.5), (-1, -0.6, 0.2, 0.6), (-0.8, 0, -0.4, 0.4))
    bands = [Image.effect_mandelbrot((side, side), extent, 90) for extent in extents]
    Image.merge("RGB", bands).save(path, compress_level=1)
    return path


def sides(weights: Path, source: Path) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return the two ways to enlarge an image: mold's, from file to file, and the plain one."""
    import torch
    from PIL import Image
    from safetensors.torch import load_file

    from mold_core import FileUpscaleRequest, LoadContext
    from mold_core.placement.device import free_bytes
    from mold_core.testing import RecordedRun
    from mold_core.upscaling import enlarge, images, results  # noqa: F401  imported before memory is measured
    from mold_core.upscaling.execution import ExecutionDevice
    from mold_core.upscaling.loading import load_network
    from mold_core.upscaling.run import upscale
    from mold_esrgan.architectures import RRDB, Compact
    from mold_esrgan.configs import CompactConfig, RRDBConfig
    from mold_esrgan.networks import RRDBNet, SRVGGNetCompact

    torch.set_num_threads(1)
    context = LoadContext(device="cpu", threads=1, cache_dir=Path("unused"), report=lambda event: None)
    request = FileUpscaleRequest(source=source, target=source.with_name("larger.png"))

    def ours() -> None:
        upscale(
            request,
            lambda: load_network(weights, [RRDB(), Compact()], context),
            ExecutionDevice("cpu", free_bytes),
            "benchmark",
            RecordedRun(),
        )

    def plain() -> None:
        state = load_file(weights)
        blocks = len({name.split(".")[1] for name in state if ".rdb1." in name})
        network = RRDBNet(RRDBConfig(blocks=blocks)) if blocks else SRVGGNetCompact(CompactConfig())
        network.load_state_dict(state)
        with Image.open(source) as image, torch.inference_mode():
            samples = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, 3)
            made = network(samples.permute(2, 0, 1)[None].float() / 255)
            made.clamp_(0, 1).mul_(255).round_().to(torch.uint8)

    return ours, plain


def peak_bytes(weights: Path, source: Path, which: str) -> int:
    """Return how much the memory of a process rises above what it was before, in bytes."""
    command = [sys.executable, __file__, "--memory", which, "--network", str(weights), "--image", str(source)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure_memory(weights: Path, source: Path, which: str) -> None:
    ours, plain = sides(weights, source)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    before = resident_bytes("VmRSS")
    (ours if which == "ours" else plain)()
    print(resident_bytes("VmHWM") - before)


def resident_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--memory", choices=["ours", "plain"])
    parser.add_argument("--image", type=Path)
    parser.add_argument("--network", type=Path)
    arguments = parser.parse_args()
    if arguments.memory:
        measure_memory(arguments.network, arguments.source, arguments.memory)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ratios = []
        for title, blocks, side in (("SRVGGNetCompact", 0, 768), ("RRDBNet, 6 blocks", 6, 448)):
            source = drawn(folder, side // 4 if arguments.quick else side)
            ours, plain = sides(written(folder, blocks), source)
            measured = compare(ours, plain, pairs=3, warmup=0, clock=time.thread_time)
            print(f"{title}: {measured.describe('mold', 'plain fp32')}")
            ratios.append(1 / measured.ratio)
        report("upscale speed", min(ratios), 2.0, "pixels per second ÷ plain fp32's", better="higher")
        side = SIDE_OF_MEMORY // 4 if arguments.quick else SIDE_OF_MEMORY
        small, source = written(folder, 0), drawn(folder, side)
        peaks = {which: peak_bytes(small, source, which) for which in ("ours", "plain")}
        print(f"peak memory at {side} x {side}: mold {peaks['ours'] / 1e6:.0f} MB, plain {peaks['plain'] / 1e6:.0f} MB")
        report("upscale memory", peaks["ours"] / peaks["plain"], 0.3, "of plain fp32's peak", better="lower")


if __name__ == "__main__":
    main()
