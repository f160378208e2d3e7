"""What must hold on a device before its speed counts: each function is a stage, and raises where it does not hold."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from random_flux import SMALL, Case, Inputs, our_loop, random_blocks, random_transformer
from stage_setup import Figures, Setup, Skipped, agree, attribute
from torch import Tensor, nn

from mold_core.weights import BlockStream, kernel_for, type_named, with_loras_applied
from mold_core.weights.layers import PackedLinear
from mold_core.weights.lora_linear import LoraDelta, LoraUp

__all__ = ["batches", "cancelling", "nano_image", "nano_video", "out_of_memory", "products", "steps", "streaming"]

KINDS = (
    "F8_E4M3", "F8_E5M2", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL",
    "IQ4_XS",
)  # fmt: skip

# Relative errors: sums of bf16 products in another order; and of numbers that were rounded to e4m3, 3 mantissa bits.
_BF16, _INT8, _FP8, _LOOP = 0.01, 0.03, 0.06, 0.04


def products(setup: Setup) -> Figures:
    """Compare a product with weights of each kind, expanded as it is and by a compiled kernel, with fp32 on the CPU."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(70, 512, generator=generator).bfloat16()
    off: Figures = {}
    with attribute(PackedLinear, "multiply_fp8", False):
        for kind in KINDS:
            weight = random_blocks((256, 512), kind, "cpu", generator)
            expected = x.float() @ weight.expand(torch.float32).T
            kernel = None
            if setup.cuda:
                kernel = kernel_for(type_named(kind), torch.bfloat16, setup.device, work=0, compile="on")
            for suffix, chosen in (("", None), (" compiled", kernel)):
                if suffix and chosen is None:
                    continue
                layer = PackedLinear(weight.to(setup.device), kernel=chosen)
                off[kind + suffix] = agree(f"a product with {kind}{suffix}", layer(x.to(setup.device)), expected, _BF16)
    return {"kinds": len(KINDS), "compiled": sum(name.endswith("compiled") for name in off), "off": max(off.values())}


def products_fp8(setup: Setup) -> Figures:
    """Compare products of e4m3 numbers, one scale in all and one a row, eager and compiled, with fp32 on the CPU."""
    from mold_core.weights.fp8 import multiplies_fp8

    device = torch.device(setup.device)
    if setup.cuda and not multiplies_fp8(device):
        raise Skipped("this device does not multiply fp8")
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(64, 512, generator=generator).bfloat16()
    plain = random_blocks((256, 512), "F8_E4M3", "cpu", generator)
    rows = attrs.evolve(plain, scale=torch.rand(256, 1, generator=generator) / 50 + 0.01)
    figures: Figures = {}
    for name, weight in (("one scale", plain), ("a scale a row", rows)):
        expected = x.float() @ weight.expand(torch.float32).T
        layer: Any = PackedLinear(weight.to(device))
        layer.multiply_fp8 = True
        figures[name] = agree(f"fp8, {name}", layer(x.to(device)), expected, _FP8)
        compiled = torch.compile(layer, backend=setup.backend)
        figures[f"{name}, compiled"] = agree(f"fp8, {name}, compiled", compiled(x.to(device)), expected, _FP8)
    return figures


def products_int8(setup: Setup) -> Figures:
    """Compare products of rotated int8 weights (ConvRot), for few and many inputs, eager and compiled, with fp32."""
    from mold_core.weights.int8_linear import fits_int8, int8_product

    device, generator = torch.device(setup.device), torch.Generator().manual_seed(6)
    product = int8_product(device)
    if product is None:
        raise Skipped("this device does not multiply int8")
    weight = random_blocks((256, 512), "INT8", "cpu", generator)
    assert fits_int8(weight, device.type)
    layer = PackedLinear(weight.to(device))
    layer.int8_product = product
    figures: Figures = {}
    for rows in (1, 200):
        x = torch.randn(rows, 512, generator=generator).bfloat16()
        expected = x.float() @ weight.expand(torch.float32).T
        figures[f"{rows} inputs"] = agree(f"int8, {rows} inputs", layer(x.to(device)), expected, _INT8)
    if setup.cuda:
        compiled = torch.compile(layer, backend=setup.backend)
        figures["compiled"] = agree("int8, compiled", compiled(x.to(device)), expected, _INT8)
    return figures


def steps(setup: Setup) -> Figures:
    """Compare all steps of a small FLUX.1 with each kind of weights, eager and compiled, with the CPU's in fp32."""
    from mold_flux.compile import compile_blocks, problem_of

    figures: Figures = {}
    for kind in (None, "F8_E4M3", "Q8_0", "Q4_K"):
        name = kind or "bf16"
        expected = _latents(_on_cpu_fp32(kind), _small("cpu", torch.float32))
        case = _small(setup.device)
        transformer = _moved(kind, case)
        with attribute(PackedLinear, "multiply_fp8", None if setup.cuda else False):
            figures[name] = agree(name, _latents(transformer, case), expected, _LOOP)
            if setup.tiny and kind is not None:
                continue  # the stages that time these kinds trace them as well
            compile_blocks(transformer, backend=setup.backend)
            figures[f"{name} compiled"] = agree(f"{name}, compiled", _latents(transformer, case), expected, _LOOP)
        problem = problem_of(transformer)
        if problem is not None:
            raise AssertionError(f"{name}: {problem}")
    return figures


def streaming(setup: Setup) -> Figures:
    """Compare a transformer whose blocks are streamed to the device with the same held there, twice in a row."""
    case = _small(setup.device)
    whole = _latents(_moved(None, case), case)
    there = random_transformer(_small("cpu"), None)
    stream = BlockStream(there, there.stream_units(), device=setup.device, dtype=torch.bfloat16, pin=True)
    try:
        for number in ("first", "second"):
            agree(f"the {number} streamed image", _latents(there, case), whole, 0)
        return {"pinned bytes": stream.pinned_bytes}
    finally:
        stream.close()


def loras(setup: Setup) -> Figures:
    """Compare two LoRAs at once with the CPU, and the plain model after them with itself before."""
    case, on_cpu = _small(setup.device), _small("cpu", torch.float32)
    ours, theirs = _moved(None, case), _on_cpu_fp32(None)
    before = _latents(ours, case)
    with with_loras_applied(theirs, [_lora(theirs, rank, on_cpu) for rank in (4, 9)]):
        expected = _latents(theirs, on_cpu)
    with with_loras_applied(ours, [_lora(ours, rank, case) for rank in (4, 9)]):
        made = _latents(ours, case)
    off = agree("two LoRAs", made, expected, _LOOP)
    agree("the model after LoRAs", _latents(ours, case), before, 0)
    changed = float((made - before).norm() / before.norm())
    if changed <= off:
        raise AssertionError("the LoRAs changed nothing")
    return {"off": off, "changed by": changed}


def batches(setup: Setup) -> Figures:
    """Compare a batch of three prompts with each of them alone."""
    case = _small(setup.device)
    transformer = _moved(None, case)
    inputs = Inputs.random(case, batch=3)
    together = our_loop(transformer, case, inputs)(_nothing)
    off = [
        agree(
            f"image {index} of a batch",
            together[index : index + 1],
            _latents(transformer, case, inputs.one(index)),
            _LOOP,
        )
        for index in range(3)
    ]
    return {"off": max(off)}


def nano_image(setup: Setup) -> Figures:
    """Compare an image of flux-nano with the CPU's, pixel by pixel."""
    from mold_core import Engine, GenerateRequest, Settings

    request = GenerateRequest(prompt="a red house", model="flux-nano", seed=3, steps=4, width=96, height=96)
    images = []
    for device in (setup.device, "cpu"):
        with Engine(Settings(home=setup.folder, device=device)) as engine:
            images.append(_levels(engine.generate(request).images[0].data))
    off = float((images[0] - images[1]).abs().mean())
    if off > 4:
        raise AssertionError(f"pixels are {off:.1f} of 255 levels off in the mean")
    return {"levels off": off}


def nano_video(setup: Setup) -> Figures:
    """Make a clip with ltx2-nano."""
    from mold_core import Engine, GenerateRequest, Settings

    with Engine(Settings(home=setup.folder, device=setup.device)) as engine:
        made = engine.generate(GenerateRequest(prompt="a red ball flies", model="ltx2-nano", seed=3, steps=2, frames=9))
    if made.video is None:
        raise AssertionError("there is no video")
    return {"bytes": len(made.video.data)}


def cancelling(setup: Setup) -> Figures:
    """Cancel an image at its first step; the next job must work."""
    from mold_core import CancelledError, DenoiseStep, Engine, GenerateRequest, Settings

    seen: list[int] = []
    with Engine(Settings(home=setup.folder, device=setup.device)) as engine:
        long = GenerateRequest(prompt="a red house", model="flux-nano", seed=1, steps=50)

        def on_event(event: object) -> None:
            if isinstance(event, DenoiseStep):
                seen.append(event.step)
                for job in engine.jobs():
                    job.cancel()

        try:
            engine.run(long, on_event)
        except CancelledError:
            pass
        else:
            raise AssertionError("a cancelled job went on to its end")
        engine.generate(attrs.evolve(long, steps=2))
    return {"steps before the end": max(seen)}


def out_of_memory(setup: Setup) -> Figures:
    """Take the device's memory away while a job computes; afterwards the next job must work."""
    from mold_core import Engine, GenerateRequest, InsufficientMemoryError, Settings, StageStart

    if not setup.cuda:
        raise Skipped("a CPU does not run out of memory, its system does")
    ballast: list[Tensor] = []
    request = GenerateRequest(prompt="a red house", model="flux-nano", seed=1, steps=2, width=96, height=96)
    outcome = "fitted all the same"
    with Engine(Settings(home=setup.folder, device=setup.device)) as engine:
        engine.generate(request)

        def on_event(event: object) -> None:
            if isinstance(event, StageStart) and not ballast:
                torch.cuda.empty_cache()
                free, _ = torch.cuda.mem_get_info(setup.device)
                ballast.append(torch.empty(max(0, free - 2**25), dtype=torch.uint8, device=setup.device))

        try:
            engine.run(attrs.evolve(request, width=1024, height=1024, batch_size=4), on_event)
        except InsufficientMemoryError as error:
            outcome = f"refused: {error.hint}"
        ballast.clear()
        torch.cuda.empty_cache()
        engine.generate(attrs.evolve(request, seed=2))
    return {"outcome": outcome}


def _small(device: str, dtype: torch.dtype = torch.bfloat16) -> Case:
    return Case(config=SMALL, device=device, side_px=128, steps=3, text_tokens=24, dtype=dtype)


def _on_cpu_fp32(kind: str | None) -> Any:
    """Return the small transformer on the CPU with the numbers that `_moved` has, in fp32 and dense."""
    transformer = random_transformer(_small("cpu"), kind)
    for name, layer in list(transformer.named_modules()):
        if isinstance(layer, PackedLinear):
            transformer.set_submodule(name, layer.expand(torch.float32))
    return transformer.float()


def _moved(kind: str | None, case: Case) -> Any:
    """Return the small transformer, drawn on the CPU so that its numbers are the same everywhere, on a device."""
    return random_transformer(_small("cpu"), kind).to(case.device)


def _latents(transformer: Any, case: Case, inputs: Inputs | None = None) -> Tensor:
    return our_loop(transformer, case, inputs)(_nothing)


def _nothing() -> None:
    """Count no step."""


def _lora(network: nn.Module, rank: int, case: Case) -> tuple[dict[str, LoraDelta], float]:
    generator = torch.Generator().manual_seed(rank)

    def draw(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=generator) / shape[-1] ** 0.5).bfloat16().to(case.device, case.dtype)

    layers = {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear) and "_blocks" in name and "mod" not in name
    }
    return {
        name: LoraDelta(
            down=draw(rank, layer.in_features),
            ups=(LoraUp(weight=draw(layer.out_features, rank), first=0, ranks=slice(0, rank)),),
        )
        for name, layer in layers.items()
    }, 0.5


def _levels(data: bytes) -> Tensor:
    import io

    from PIL import Image

    image = Image.open(io.BytesIO(data)).convert("RGB")
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).float()
