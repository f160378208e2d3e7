"""Quantised weights: speed of dequantization, and the time of FLUX blocks in each format. One thread, processor time.

Dequantization is compared with copying the memory of the result (the lower bound of any method) and with diffusers on
a GGUF file. FLUX.1 blocks have the real width, 3072: one double and one single block, in each format and in bf16.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import thread_time
from typing import Any

import numpy as np
import torch
from common import Comparison, compare, report
from torch import Tensor, nn

from mold_core.home import mold_home
from mold_core.weights import (
    Kernel,
    PackedLinear,
    PackedTensor,
    Scratch,
    kernel_for,
    load_weights,
    type_named,
    with_loras_applied,
)
from mold_core.weights.compile_problems import compile_problems
from mold_core.weights.dequantization import dequantize_into
from mold_core.weights.grouped import Groups
from mold_core.weights.lora_linear import LoraDelta, LoraUp
from mold_core.weights.packed import LowRank
from mold_flux.transformer import DoubleBlock, FluxConfig, SingleBlock, rope

TYPES = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")
ROWS, COLUMNS = 12288, 3072
TOKENS = {96: 1.35, 512: 1.15}  # text and image together; the aims
CACHE = mold_home() / "cache"
BF16 = torch.bfloat16
# How ComfyUI's formats are packed: type, columns with a scale of their own, columns that are rotated together.
COMFY: dict[str, tuple[str, int | None, int]] = {
    "int8": ("INT8", None, 0),
    "int8_convrot": ("INT8", None, 256),
    "fp8": ("F8_E4M3", None, 0),
    "mxfp8": ("F8_E4M3", 32, 0),
    "w6a8": ("CODES6", 16, 256),
    "w4a8": ("CODES4", 16, 256),
    "convrot_w4a4": ("CODES4", None, 256),
    "nvfp4": ("CODES4_HIGH", 16, 0),
    "awq_w4a16": ("CODES4", 64, 0),
    "svdquant": ("CODES4", 64, 0),
    "nf4": ("CODES4_HIGH", 64, 0),
}
# What a step takes in each, and in GGUF's types: /int8 stands for MOLD_COMPUTE=int8.
AIMS = {"int8_convrot": 0.75, "int8": 0.75, "fp8/int8": 0.75, "Q8_0/int8": 0.75}
FORMATS = (*COMFY, "fp8/int8", "int8_convrot/exact", "Q8_0", "Q8_0/int8", "Q6_K", "Q5_K", "Q4_K", "Q4_0")


def main() -> None:
    """Print dequantization per type, then FLUX's blocks in every format. Fails where code did not compile."""
    torch.set_num_threads(1)
    with torch.inference_mode():
        slowest = min(of_type(kind) for kind in TYPES)
        results = [of_blocks(tokens) for tokens in TOKENS]
        ratios = {kind: of_format(kind) for kind in FORMATS}
        with_loras = of_format("int8_convrot", loras=2) / ratios["int8_convrot"]
    report("gguf-expansion", slowest, 15, "times as fast as diffusers, slowest type", better="higher")
    for (tokens, aim), value in zip(TOKENS.items(), results, strict=True):
        report(f"gguf-blocks-{tokens}", value, aim, f"Q4_0 ÷ bf16, FLUX blocks, {tokens} tokens", better="lower")
    for kind, value in ratios.items():
        report(f"blocks-{kind}", value, AIMS.get(kind, 2.0), f"{kind} ÷ bf16, FLUX blocks, 512 tokens", better="lower")
    report("int8-loras", with_loras, 1.1, "int8_convrot with two LoRAs ÷ without", better="lower")
    problems = compile_problems(CACHE)
    if problems:
        raise SystemExit("\n".join(problems))


# --- expansion ----------------------------------------------------------------------------------------------------


def of_type(kind: str) -> float:
    """Print how fast a type is expanded; return how many times as fast as by diffusers."""
    weight = random_weight(kind, ROWS, COLUMNS)
    kernel = kernel_for(weight.type, BF16, work=0, compile="on", cache_dir=CACHE)
    if kernel is None:
        raise SystemExit(f"the kernel for {kind} does not compile: {'; '.join(compile_problems(CACHE))}")
    scratch, source, copy = Scratch(2**24), torch.ones(ROWS, COLUMNS, dtype=BF16), torch.ones(ROWS, COLUMNS, dtype=BF16)

    def ours(kernel: Kernel | None) -> Callable[[], None]:
        return lambda: expand_as_a_layer_does(weight, scratch, kernel)

    memcpy = compare(ours(kernel), lambda: copy.copy_(source), pairs=9, clock=thread_time)
    diffusers = compare(ours(kernel), lambda: by_diffusers(weight, kind), pairs=5, clock=thread_time)
    eager = compare(ours(None), lambda: by_diffusers(weight, kind), pairs=3, clock=thread_time)
    seconds, copied = median(memcpy.ours), 2 * source.numel() * 2
    moved = weight.size_bytes + copied // 2
    print(
        f"{kind:7} {'compiled' if kernel else 'eager'} {1000 * seconds:5.1f} ms, {moved / seconds / 1e9:4.1f} GB/s,"
        f" {moved / copied / memcpy.ratio:.2f} of memcpy, {1 / diffusers.ratio:4.1f} times as fast as diffusers"
        f" (without a compiler {1 / eager.ratio:.1f} times)",
        flush=True,
    )
    return 1 / diffusers.ratio


def random_weight(kind: str, rows: int, columns: int) -> PackedTensor:
    """Return random blocks whose scales are small numbers."""
    type_ = type_named(kind)
    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (rows * columns // type_.block_size, type_.block_bytes), dtype=np.uint8)
    halves = blocks.view(np.float16)
    places = {"Q4_1": (0, 1), "Q5_1": (0, 1), "Q2_K": (40, 41), "Q3_K": (54,), "Q4_K": (0, 1), "Q5_K": (0, 1)}
    for place in places.get(kind, (104,) if kind == "Q6_K" else (0,)):
        halves[:, place] = 1e-3
    return PackedTensor(data=torch.from_numpy(blocks).view(rows, -1), type=type_, shape=(rows, columns))


def expand_as_a_layer_does(weight: PackedTensor, scratch: Scratch, kernel: Kernel | None) -> None:
    """Expand a weight into memory that is used again, as much at a time as there is."""
    like, first = torch.empty(0, dtype=BF16), 0
    while first < len(weight.data):
        memory = scratch.rows(len(weight.data) - first, weight.columns, like)
        dequantize_into(memory, weight.data[first : first + len(memory)], weight.type, None, kernel)
        first += len(memory)


def by_diffusers(weight: PackedTensor, kind: str) -> Tensor:
    """Expand a weight as diffusers' GGUFLinear does at every step."""
    from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor

    return dequantize_gguf_tensor(gguf_parameter(weight, kind)).to(BF16)


def gguf_parameter(weight: PackedTensor, kind: str) -> Any:
    """Return a weight as diffusers holds it."""
    import gguf
    from diffusers.quantizers.gguf.utils import GGUFParameter

    return GGUFParameter(weight.data, requires_grad=False, quant_type=gguf.GGMLQuantizationType[kind])


# --- blocks -------------------------------------------------------------------------------------------------------


def of_blocks(tokens: int) -> float:
    """Print times of FLUX's blocks, ours and diffusers', packed and dense; return ours, packed ÷ dense."""
    pairs = 7 if tokens < 256 else 3
    packed, dense = our_blocks("Q4_0", tokens), our_blocks("Q4_0", tokens, dense=True)
    difference = (packed() - dense()).abs().max() / dense().abs().max()
    ours = compare(packed, dense, pairs=pairs, clock=thread_time)
    print(
        f"{tokens} tokens, mold       {ours.describe('Q4_0', 'bf16')}, outputs differ by {difference:.1e}", flush=True
    )
    del packed, dense
    theirs = diffusers_blocks(tokens, pairs=max(2, pairs // 2))
    print(f"{tokens} tokens, diffusers  {theirs.describe('Q4_0', 'bf16')}", flush=True)
    return ours.ratio


def of_format(kind: str, *, tokens: int = 512, pairs: int = 3, loras: int = 0) -> float:
    """Return the time of FLUX's blocks in a format, with so many LoRAs of rank 16, divided by that of bf16 without."""
    name, _, compute = kind.partition("/")
    packed = our_blocks(name, tokens, compute=compute or "auto", loras=loras)
    dense = our_blocks("Q4_0", tokens, dense=True)
    result = compare(packed, dense, pairs=pairs, clock=thread_time)
    print(f"{tokens} tokens, {loras} LoRAs  {result.describe(kind, 'bf16')}", flush=True)
    return result.ratio


def our_blocks(
    kind: str, tokens: int, *, dense: bool = False, compute: str = "auto", loras: int = 0
) -> Callable[[], Tensor]:
    """Return a function that runs one double and one single block, as a denoising step does."""
    config = FluxConfig(depth_double=1, depth_single=1)
    with torch.device("meta"):
        blocks = nn.ModuleDict({"two": DoubleBlock(config), "one": SingleBlock(config)})
    for block in blocks.values():  # computed once per image, not in a step
        for name in [name for name, _ in block.named_children() if "mod" in name]:
            setattr(block, name, None)
    tensors: dict[str, Tensor | PackedTensor] = {}
    for name, tensor in blocks.state_dict().items():
        if tensor.ndim == 2:
            weight = random_packed(kind, *tensor.shape)
            tensors[name] = weight.expand(BF16) if dense else weight
        else:
            tensors[name] = torch.ones(tensor.shape) * 0.01
    # As in a whole model: the work of 57 blocks is worth compiling, and its scratch is large.
    load_weights(blocks, tensors, "random", dtype=BF16, compile="on", compute=compute, cache_dir=CACHE)  # type: ignore[arg-type]
    for module in blocks.modules():
        if hasattr(module, "scratch"):
            module.scratch.numbers = 2**24
    generator, text = torch.Generator().manual_seed(0), tokens // 3
    img = torch.randn(1, tokens - text, 3072, generator=generator).to(BF16)
    txt = torch.randn(1, text, 3072, generator=generator).to(BF16)
    modulation = [torch.full((3072,), 0.5, dtype=BF16)] * 6
    turns = rope(config, text, 1, tokens - text)
    stack = [(random_lora(blocks), 0.5) for _ in range(loras)]

    def run() -> Tensor:
        with with_loras_applied(blocks, stack):
            image, words = blocks["two"](img, txt, (modulation, modulation), turns)
            return blocks["one"](torch.cat([words, image], 1), modulation[:3], turns)

    return run


def random_lora(blocks: nn.Module) -> dict[str, LoraDelta]:
    """Return a LoRA of rank 16 for every linear layer."""
    layers = {name: layer for name, layer in blocks.named_modules() if isinstance(layer, nn.Linear | PackedLinear)}
    return {
        name: LoraDelta(
            down=torch.randn(16, layer.in_features).to(BF16) * 0.01,
            ups=(LoraUp(weight=torch.randn(layer.out_features, 16).to(BF16) * 0.01, first=0, ranks=slice(0, 16)),),
        )
        for name, layer in layers.items()
    }


def random_packed(kind: str, rows: int, columns: int) -> PackedTensor:
    """Return random numbers in any format: a type of GGUF, or one of `COMFY`."""
    if kind not in COMFY:
        return random_weight(kind, rows, columns)
    name, size, rotation = COMFY[kind]
    type_ = type_named(name)
    data = torch.randint(0, 120, (rows, type_.size_bytes(columns)), dtype=torch.uint8)
    levels = None if name.startswith("F8") else torch.linspace(-1, 1, 64 if name == "CODES6" else 16)[None]
    scales = None if size is None else torch.full((rows, columns // size), 0.01)
    groups = None if name == "INT8" or (size is None and levels is None) else Groups(
        scales=scales,
        levels=levels,
        offsets=torch.zeros(rows, columns // size) if kind == "awq_w4a16" and size else None,
        rounded=kind in ("w4a8", "w6a8"),
    )  # fmt: skip
    low_rank = LowRank(down=torch.randn(32, columns) * 0.01, up=torch.randn(rows, 32) * 0.01)
    return PackedTensor(
        data=data,
        type=type_,
        shape=(rows, columns),
        scale=torch.full((rows, 1), 1e-3),
        groups=groups,
        rotation=rotation,
        column_scale=torch.ones(columns) if kind == "svdquant" else None,
        low_rank=low_rank if kind == "svdquant" else None,
    )


def diffusers_blocks(tokens: int, pairs: int) -> Comparison:
    """Time diffusers' two blocks, from GGUF against bf16."""
    from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock, FluxTransformerBlock
    from diffusers.quantizers.gguf.utils import GGUFLinear

    text = tokens // 3
    img, txt = torch.randn(1, tokens - text, 3072).to(BF16), torch.randn(1, text, 3072).to(BF16)
    vector, turns = torch.randn(1, 3072).to(BF16), (torch.ones(tokens, 128), torch.zeros(tokens, 128))

    def build(packed: bool) -> Callable[[], Any]:
        with torch.device("meta"):
            double, single = FluxTransformerBlock(3072, 24, 128), FluxSingleTransformerBlock(3072, 24, 128)
        for block in (double, single):
            for name, layer in list(block.named_modules()):
                if isinstance(layer, nn.Linear):
                    block.set_submodule(name, linear(layer, packed))
                elif getattr(layer, "weight", None) is not None:
                    layer.weight = nn.Parameter(torch.ones(layer.weight.shape, dtype=BF16))

        def run() -> None:
            words, image = double(img, txt, vector, turns)
            single(image, words, vector, turns)

        return run

    def linear(layer: nn.Linear, packed: bool) -> nn.Linear:
        weight = random_weight("Q4_0", layer.out_features, layer.in_features)
        with torch.device("meta"):
            kind, more = (GGUFLinear, {"compute_dtype": BF16}) if packed else (nn.Linear, {})
            new = kind(layer.in_features, layer.out_features, bias=True, **more)
        new.bias = nn.Parameter(torch.full((layer.out_features,), 0.01, dtype=BF16))
        new.weight = gguf_parameter(weight, "Q4_0") if packed else nn.Parameter(weight.expand(BF16))
        return new

    return compare(build(packed=True), build(packed=False), pairs=pairs, clock=thread_time)


if __name__ == "__main__":
    main()
