"""Pixels per second and peak memory of upscaling, beside a plain fp32 run of the same network over the whole picture.

Both sides use the same random weights and one thread each; the processor time of the work is compared, in turn. Memory
is measured in a process for each side: its peak less what it was before the network ran. `--quick` takes smaller
pictures.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from io import BytesIO
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


def sides(path: Path, side: int) -> tuple[object, object]:
    """Return the two ways to enlarge a picture of side x side pixels: mold's, to a PNG, and the plain one."""
    import torch
    from safetensors.torch import load_file

    from mold_core import LoadContext
    from mold_core.upscaling.enlarge import Enlarger
    from mold_core.upscaling.loading import load_network
    from mold_core.upscaling.pictures import Picture
    from mold_core.upscaling.results import open_result
    from mold_esrgan.architectures import RRDB, Compact
    from mold_esrgan.configs import CompactConfig, RRDBConfig
    from mold_esrgan.networks import RRDBNet, SRVGGNetCompact

    torch.set_num_threads(1)
    samples = torch.randint(0, 256, (side, side, 3), dtype=torch.uint8)
    context = LoadContext(device="cpu", threads=1, cache_dir=Path("unused"), report=lambda event: None)

    def ours() -> None:
        network = load_network(path, [RRDB(), Compact()], context)
        picture, file = Picture(samples=samples), BytesIO()
        result = open_result(file, "png", picture, network.scale, upscaler="benchmark")
        enlarger = Enlarger(network, "cpu", tile=network.tile)
        for strip in enlarger.strips(picture.read, side, side):
            result.write(picture.samples_of(strip))
        result.close()

    def plain() -> None:
        state = load_file(path)
        blocks = len({name.split(".")[1] for name in state if ".rdb1." in name})
        network = RRDBNet(RRDBConfig(blocks=blocks)) if blocks else SRVGGNetCompact(CompactConfig())
        network.load_state_dict(state)
        with torch.inference_mode():
            made = network(samples.permute(2, 0, 1)[None].float() / 255)
            made.clamp_(0, 1).mul_(255).round_().to(torch.uint8)

    return ours, plain


def peak_bytes(path: Path, side: int, which: str) -> int:
    """Return how much the memory of a process rises above what it was before, in bytes."""
    command = [sys.executable, __file__, "--memory", which, "--side", str(side), "--network", str(path)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure_memory(path: Path, side: int, which: str) -> None:
    ours, plain = sides(path, side)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (ours if which == "ours" else plain)()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--memory", choices=["ours", "plain"])
    parser.add_argument("--side", type=int)
    parser.add_argument("--network", type=Path)
    arguments = parser.parse_args()
    if arguments.memory:
        measure_memory(arguments.network, arguments.side, arguments.memory)
        return
    with tempfile.TemporaryDirectory() as folder:
        ratios = []
        for name, blocks, side in (("SRVGGNetCompact", 0, 512), ("RRDBNet, 6 blocks", 6, 96)):
            ours, plain = sides(written(Path(folder), blocks), side // 2 if arguments.quick else side)
            measured = compare(ours, plain, pairs=2, warmup=0 if arguments.quick else 1, clock=time.thread_time)
            print(f"{name}: {measured.describe('mold', 'plain fp32')}")
            ratios.append(1 / measured.ratio)
        report("upscale speed", min(ratios), 2.0, "pixels per second ÷ plain fp32's", better="higher")
        side = SIDE_OF_MEMORY // 4 if arguments.quick else SIDE_OF_MEMORY
        small = written(Path(folder), 0)
        peaks = {which: peak_bytes(small, side, which) for which in ("ours", "plain")}
        print(f"peak memory at {side} x {side}: mold {peaks['ours'] / 1e6:.0f} MB, plain {peaks['plain'] / 1e6:.0f} MB")
        report("upscale memory", peaks["ours"] / peaks["plain"], 0.3, "of plain fp32's peak", better="lower")


if __name__ == "__main__":
    main()
