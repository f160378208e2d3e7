"""Full-size FLUX.1 on a GPU, with random weights: step time, first step, memory, arithmetic; beside diffusers.

    python benchmarks/gpu_flux.py                        bf16, Q8_0, Q4_K and fp8 at 1024x1024, and diffusers
    python benchmarks/gpu_flux.py --formats q4_k         one of them
    python benchmarks/gpu_flux.py --tiny                 the same code on the CPU, at a size that proves it only

Nothing is downloaded. Weights are random, so images are noise, and times are those of real weights. Every row is of
one batch of one image; "step" is the median step of `--runs` denoising loops after the first, "first" the first
step of the first loop, with all compiling in it. Utilisation is the arithmetic of the matrix products ÷ what the
maker states for bf16 without sparsity. Without a GPU it says so and ends.
"""

from __future__ import annotations

import argparse
import gc
import statistics
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import attrs
import torch
from common import report
from torch import Tensor, nn

from mold_core.weights import PackedTensor, load_weights, type_named
from mold_flux.compile import compile_blocks, fast_attention
from mold_flux.sampling import denoise, pack
from mold_flux.schedule import DEV
from mold_flux.transformer import FLUX_DEV, FluxConfig, FluxTransformer, rope

TINY = FluxConfig(
    hidden_size=256, heads=2, depth_double=1, depth_single=1, context_dim=256, pooled_dim=256, axes_dim=(16, 56, 56)
)
FORMATS = {"bf16": None, "q8_0": "Q8_0", "q4_k": "Q4_K", "fp8": "F8_E4M3"}
# Where the fp16 scales of a block stand.
SCALES = {"Q8_0": (0,), "Q4_K": (0, 2)}
# Dense bf16 operations a second that makers state, by words in the device's name.
PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40": 362e12, "4090": 165e12, "5090": 209e12, "B200": 2250e12}


@attrs.frozen(kw_only=True)
class Case:
    """What is drawn, and where."""

    config: FluxConfig
    device: str
    side_px: int
    steps: int
    runs: int
    text_tokens: int = 512

    @property
    def grid(self) -> int:
        return self.side_px // 16

    @property
    def tokens(self) -> int:
        return self.grid**2 + self.text_tokens

    def operations(self) -> float:
        """Return the multiplications and additions of one step's matrix products."""
        config, tokens, image = self.config, self.tokens, self.grid**2
        hidden, mlp = config.hidden_size, config.mlp_size
        double = 2 * tokens * (4 * hidden * hidden + 2 * hidden * mlp)
        single = 2 * tokens * (hidden * (3 * hidden + mlp) + (hidden + mlp) * hidden)
        attention = 4 * tokens * tokens * hidden
        ends = 2 * image * hidden * (config.in_channels + config.out_channels)
        return config.depth_double * (double + attention) + config.depth_single * (single + attention) + ends


@attrs.frozen(kw_only=True)
class Row:
    """What was measured of one way to draw."""

    name: str
    step_s: float
    first_s: float
    peak_bytes: int


def random_transformer(case: Case, kind: str | None) -> FluxTransformer:
    """Return a transformer with random weights on the device: bf16, or its matrices in a quantised type."""
    with torch.device("meta"):
        transformer = FluxTransformer(case.config)
    generator = torch.Generator(case.device).manual_seed(1)
    tensors: dict[str, Tensor | PackedTensor] = {}
    for name, wanted in transformer.state_dict().items():
        if name.endswith(".scale"):
            tensors[name] = torch.ones(wanted.shape, dtype=torch.bfloat16, device=case.device)
        elif kind is None or wanted.ndim < 2 or wanted.shape[1] % 256:
            spread = 0.5 / wanted.shape[-1] ** 0.5
            tensors[name] = spread * torch.randn(
                wanted.shape, dtype=torch.bfloat16, device=case.device, generator=generator
            )
        else:
            tensors[name] = random_blocks(tuple(wanted.shape), kind, case.device, generator)
    load_weights(transformer, tensors, "random weights", dtype=torch.bfloat16, device=case.device)
    return transformer.eval().requires_grad_(False)


def random_blocks(shape: tuple[int, ...], kind: str, device: str, generator: torch.Generator) -> PackedTensor:
    """Return random blocks of a type that stand for small numbers."""
    type_ = type_named(kind)
    rows, columns = shape
    if kind.startswith("F8"):
        numbers = torch.randn(shape, device=device, generator=generator).to(torch.float8_e4m3fn)
        scale = torch.tensor(0.5 / columns**0.5, device=device)
        return PackedTensor(data=numbers.view(torch.uint8), type=type_, shape=shape, scale=scale)
    blocks = torch.randint(
        0, 256, (rows * columns // type_.block_size, type_.block_bytes), dtype=torch.uint8, device=device,
        generator=generator,
    )  # fmt: skip
    small = torch.tensor([1e-4], dtype=torch.float16, device=device).view(torch.uint8)
    for place in SCALES[kind]:
        blocks[:, place : place + 2] = small
    return PackedTensor(data=blocks.view(rows, -1), type=type_, shape=shape)


def our_loop(transformer: FluxTransformer, case: Case) -> Callable[[Callable[[], object]], object]:
    """Return a function that makes one image's steps, calling its argument after each."""
    inputs = Inputs.random(case)

    def run(on_step: Callable[[], object]) -> Tensor:
        sigmas = DEV.sigmas(case.steps, case.grid**2)
        with torch.inference_mode(), fast_attention(case.device, "auto"):
            conditioning = transformer.prepare(
                inputs.txt,
                inputs.pooled,
                torch.tensor(sigmas[:-1], device=case.device),
                torch.tensor([3.5], device=case.device),
                rope(case.config, case.text_tokens, case.grid, case.grid, case.device),
            )
            return denoise(transformer, pack(inputs.noise), conditioning, sigmas, on_step=lambda *about: on_step())

    return run


@attrs.frozen(kw_only=True)
class Inputs:
    """A prompt and noise, random."""

    txt: Tensor
    pooled: Tensor
    noise: Tensor

    @classmethod
    def random(cls, case: Case) -> Inputs:
        def draw(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
            generator = torch.Generator().manual_seed(2)
            return torch.randn(shape, generator=generator).to(case.device, dtype)

        return cls(
            txt=draw(1, case.text_tokens, case.config.context_dim),
            pooled=draw(1, case.config.pooled_dim),
            noise=draw(1, 16, 2 * case.grid, 2 * case.grid, dtype=torch.float32),
        )


def their_loop(case: Case, compiled: bool, backend: str) -> Callable[[Callable[[], object]], object]:
    """Return the same for diffusers' FluxPipeline, bf16, eager or with its blocks compiled."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    config = case.config
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(
            in_channels=config.in_channels,
            num_layers=config.depth_double,
            num_single_layers=config.depth_single,
            attention_head_dim=config.head_dim,
            num_attention_heads=config.heads,
            joint_attention_dim=config.context_dim,
            pooled_projection_dim=config.pooled_dim,
            guidance_embeds=True,
            axes_dims_rope=config.axes_dim,
        )
    transformer = transformer.to(torch.bfloat16).to_empty(device=case.device).eval().requires_grad_(False)
    for parameter in transformer.parameters():
        nn.init.normal_(parameter, std=0.5 / parameter.shape[-1] ** 0.5)
    if compiled:
        transformer.compile_repeated_blocks(fullgraph=True, backend=backend)
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=None,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=transformer,
    )
    pipeline.set_progress_bar_config(disable=True)
    inputs = Inputs.random(case)

    def run(on_step: Callable[[], object]) -> object:
        def after(pipe: Any, step: int, time: Any, kept: dict[str, Any]) -> dict[str, Any]:
            on_step()
            return kept

        return pipeline(
            prompt_embeds=inputs.txt,
            pooled_prompt_embeds=inputs.pooled,
            latents=pack(inputs.noise).to(torch.bfloat16),
            height=case.side_px,
            width=case.side_px,
            num_inference_steps=case.steps,
            guidance_scale=3.5,
            output_type="latent",
            callback_on_step_end=after,
        )

    return run


def measure(name: str, loop: Callable[[Callable[[], object]], object], case: Case) -> Row:
    """Run a loop once and then `runs` times, and return its figures."""
    steps: list[float] = []
    last = 0.0

    def on_step() -> None:
        nonlocal last
        if case.device.startswith("cuda"):
            torch.cuda.synchronize()
        now = perf_counter()
        steps.append(now - last)
        last = now

    if case.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    for _ in range(1 + case.runs):
        last = perf_counter()
        loop(on_step)
    peak = torch.cuda.max_memory_allocated() if case.device.startswith("cuda") else 0
    # The first step of every loop prepares the prompt as well; the others are what a step costs.
    later = [time for number, time in enumerate(steps[case.steps :]) if number % case.steps]
    return Row(name=name, step_s=statistics.median(later), first_s=steps[0], peak_bytes=peak)


def rows(case: Case, formats: list[str], backend: str, graphs: bool) -> Iterator[Row]:
    """Yield a row for each way to draw, one after the other, so that each has the memory for itself."""
    for name in formats:
        for compiled in (False, True):
            transformer = random_transformer(case, FORMATS[name])
            if compiled:
                compile_blocks(transformer, backend=backend, graphs=graphs)
            yield measure(f"mold {name}{', compiled' if compiled else ''}", our_loop(transformer, case), case)
            del transformer
            _forget(case)
    for compiled in (False, True):
        yield measure(f"diffusers bf16{', compiled' if compiled else ''}", their_loop(case, compiled, backend), case)
        _forget(case)


def _forget(case: Case) -> None:
    torch._dynamo.reset()
    gc.collect()
    if case.device.startswith("cuda"):
        torch.cuda.empty_cache()


def show(row: Row, case: Case) -> None:
    """Print a row."""
    rate = case.operations() / row.step_s
    name = torch.cuda.get_device_name() if case.device.startswith("cuda") else ""
    peak = next((peak for word, peak in PEAK.items() if word in name), None)
    share = f"{rate / peak:6.1%} of peak" if peak else ""
    memory = f"{row.peak_bytes / 1e9:6.1f} GB" if row.peak_bytes else ""
    print(
        f"{row.name:<24} step {1000 * row.step_s:9.1f} ms   first {row.first_s:7.2f} s   "
        f"{rate / 1e12:7.2f} TFLOP/s {share} {memory}",
        flush=True,
    )


def main() -> None:
    """Measure and print; the last line is of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="on the CPU, tiny: proves the code, not the speed")
    parser.add_argument("--formats", default=",".join(FORMATS), help=f"out of {', '.join(FORMATS)}")
    parser.add_argument("--side", type=int, help="width and height of the image in pixels")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--cuda-graphs", action="store_true")
    wanted = parser.parse_args()
    if not wanted.tiny and not torch.cuda.is_available():
        print("skipped: this machine has no CUDA device (--tiny runs the code on the CPU)")
        return
    case = Case(
        config=TINY if wanted.tiny else FLUX_DEV,
        device="cpu" if wanted.tiny else "cuda",
        side_px=wanted.side or (64 if wanted.tiny else 1024),
        steps=wanted.steps,
        runs=wanted.runs,
        text_tokens=16 if wanted.tiny else 512,
    )
    measured: dict[str, Row] = {}
    for row in rows(case, wanted.formats.split(","), wanted.backend, wanted.cuda_graphs):
        measured[row.name] = row
        show(row, case)
    if "mold bf16, compiled" in measured:
        ratio = measured["mold bf16, compiled"].step_s / measured["diffusers bf16, compiled"].step_s
        what = "tiny, on the CPU" if wanted.tiny else "full size"
        report("gpu_flux", ratio, 1.0, f"step of mold ÷ diffusers, both compiled, bf16, {what}", better="lower")


if __name__ == "__main__":
    main()
