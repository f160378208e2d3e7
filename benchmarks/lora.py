"""Cost of LoRAs: of a step with a stack of two, and of a switch to another LoRA.

A double and a single block of FLUX.1's width, bf16, random weights, with 4096 image tokens (1024x1024) and 512 text
tokens; the LoRAs have rank 16 on every linear layer of the blocks. Steps with and without the stack alternate, and the
processor time of each block is measured. A whole step is extrapolated: 19 double and 38 single blocks. The switch is
measured at full size, 57 blocks, on a network without memory, because it reads no weights of the network. It includes
reading the file; the time for that alone is printed too.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from time import thread_time

import attrs
import torch
from common import report
from safetensors.torch import save_file
from torch import Tensor, nn

from mold_core import LoraWeight
from mold_core.testing import RecordedRun
from mold_core.weights import LoraCache, empty_modules
from mold_flux.diffusers_layout import layer_names
from mold_flux.lora_names import FluxNames
from mold_flux.transformer import Conditioning, FluxConfig, FluxTransformer, rope

FULL = FluxConfig()
PAIR = attrs.evolve(FULL, depth_double=1, depth_single=1)
TEXT, SIDE, RANK = 512, 64, 16
CHANGES = 5


class Network:
    """A transformer with random weights and inputs for a step of it."""

    def __init__(self, config: FluxConfig) -> None:
        torch.manual_seed(0)
        with empty_modules():
            made = FluxTransformer(config)
        self.transformer = made.to_empty(device="cpu").bfloat16().eval().requires_grad_(False)
        for weight in self.transformer.parameters():
            weight.copy_(
                torch.randn(4096)
                .bfloat16()
                .mul_(0.02)
                .repeat(weight.numel() // 4096 + 1)[: weight.numel()]
                .view_as(weight)
            )
        self.image = torch.randn(1, SIDE**2, 64).bfloat16()
        text, pooled = torch.randn(1, TEXT, 4096).bfloat16(), torch.randn(1, 768).bfloat16()
        rotations = rope(config, TEXT, SIDE, SIDE)
        self.conditioning: Conditioning = self.transformer.prepare(
            text, pooled, torch.tensor([0.7]), torch.tensor([3.5]), rotations
        )

    def step(self) -> tuple[tuple[float, float], Tensor]:
        """Run a step; return the processor time of its double and of its single block, and what came out."""
        transformer = self.transformer
        with timed(transformer.double_blocks[0]) as double, timed(transformer.single_blocks[0]) as single:
            out = transformer.step(self.image, self.conditioning, 0)
        return (sum(double), sum(single)), out


@contextmanager
def timed(module: nn.Module) -> Iterator[list[float]]:
    """Note the processor time of every call of a module."""
    started, times = [0.0], list[float]()
    before = module.register_forward_pre_hook(lambda *_: started.append(thread_time()))
    after = module.register_forward_hook(lambda *_: times.append(thread_time() - started[-1]))
    try:
        yield times
    finally:
        before.remove()
        after.remove()


def write_lora(path: Path, transformer: FluxTransformer, config: FluxConfig, seed: int) -> LoraWeight:
    """Write a LoRA for every linear layer of the blocks, named as diffusers names them."""
    places, generator, tensors = FluxNames().places_of(transformer), torch.Generator().manual_seed(seed), {}
    for name in layer_names(config.depth_double, config.depth_single):
        if "blocks" in name:
            place = places[name.replace(".", "_")]
            for part, shape in (("lora_A", (RANK, place.columns)), ("lora_B", (place.rows, RANK))):
                numbers = torch.randn(shape, generator=generator) * 0.01
                tensors[f"transformer.{name}.{part}.weight"] = numbers.bfloat16()
    save_file(tensors, path)
    return LoraWeight(path=str(path), scale=0.8)


def change_times(folder: Path) -> tuple[float, float, int]:
    """Return the processor time of a change to a full LoRA, that of reading its bytes, and their number."""
    with empty_modules():
        transformer = FluxTransformer(FULL)
    adapter = write_lora(folder / "full.safetensors", transformer, FULL, 0)
    path = Path(adapter.path)

    def change() -> None:
        with LoraCache(FluxNames()).beside(
            "transformer", transformer, [adapter], RecordedRun(), dtype=torch.bfloat16, device="cpu"
        ):
            pass

    pairs = [(seconds(change), seconds(path.read_bytes)) for _ in range(CHANGES)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs), path.stat().st_size


def seconds(function: Callable[[], object]) -> float:
    """Return the processor time of a call."""
    started = thread_time()
    function()
    return thread_time() - started


def whole(times: tuple[float, float]) -> float:
    """Return the time of all blocks of FLUX.1, given those of a double and a single one."""
    return FULL.depth_double * times[0] + FULL.depth_single * times[1]


def main() -> None:
    """Measure both costs and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=2)
    pairs = parser.parse_args().pairs
    torch.set_num_threads(1)
    with torch.inference_mode(), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        change_s, bytes_s, size = change_times(folder)
        print(f"change to a LoRA of {size / 1e6:.0f} MB: {1000 * change_s:.1f} ms; its bytes: {1000 * bytes_s:.1f} ms")
        network = Network(PAIR)
        stack = [write_lora(folder / f"{seed}.safetensors", network.transformer, PAIR, seed) for seed in (1, 2)]
        shelf = LoraCache(FluxNames())

        def step(*loras: LoraWeight) -> tuple[tuple[float, float], Tensor]:
            run, dtype = RecordedRun(), torch.bfloat16
            beside = shelf.beside("transformer", network.transformer, loras, run, dtype=dtype, device="cpu")
            with beside if loras else nullcontext():
                return network.step()

        step(*stack)
        measured = []
        for number in range(pairs):
            (stacked, with_loras), (plain, without) = step(*stack), step()
            if torch.equal(with_loras, without):
                raise SystemExit("the LoRAs changed nothing: nothing was measured")
            measured.append((stacked, plain))
            print(f"pair {number}: double block {stacked[0]:.2f} s with two LoRAs, {plain[0]:.2f} s without; "
                  f"single block {stacked[1]:.2f} s and {plain[1]:.2f} s")  # fmt: skip
    step_s = statistics.median(whole(plain) for _, plain in measured)
    ratio = statistics.median(whole(stacked) / whole(plain) for stacked, plain in measured)
    print(f"a step of 19 double and 38 single blocks, extrapolated: {step_s:.0f} s on one thread")
    report("change of a LoRA, reading it included ÷ a step", change_s / step_s, 0.1, "×", better="lower")
    report("a stack of two LoRAs, more time in a step", ratio - 1, 0.1, "×", better="lower")


if __name__ == "__main__":
    main()
