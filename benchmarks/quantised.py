"""Quantised weights: speed of dequantization, and its cost in FLUX blocks. One thread, processor time.

Dequantization is compared with copying the memory of the result (the lower bound of any method) and with diffusers on
a GGUF file. FLUX.1 blocks have the real width, 3072: one double and one single block, in Q4_0 and with the same numbers
in bf16.
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
from mold_core.weights import Kernel, PackedTensor, Scratch, kernel_for, load_weights, type_named
from mold_core.weights.dequantization import dequantize_into
from mold_flux.transformer import DoubleBlock, FluxConfig, SingleBlock, rope

TYPES = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")
ROWS, COLUMNS = 12288, 3072
TOKENS = {96: 1.35, 512: 1.15}  # text and image together; the aims
CACHE = mold_home() / "cache"
BF16 = torch.bfloat16


def main() -> None:
    """Print expansion per type, then FLUX's blocks."""
    torch.set_num_threads(1)
    with torch.inference_mode():
        slowest = min(of_type(kind) for kind in TYPES)
        results = [of_blocks(tokens) for tokens in TOKENS]
    report("gguf-expansion", slowest, 15, "times as fast as diffusers, slowest type", better="higher")
    for (tokens, aim), value in zip(TOKENS.items(), results, strict=True):
        report(f"gguf-blocks-{tokens}", value, aim, f"Q4_0 ÷ bf16, FLUX blocks, {tokens} tokens", better="lower")


# --- expansion ----------------------------------------------------------------------------------------------------


def of_type(kind: str) -> float:
    """Print how fast a type is expanded; return how many times as fast as by diffusers."""
    weight = random_weight(kind, ROWS, COLUMNS)
    kernel = kernel_for(weight.type, BF16, work=0, compile="on", cache_dir=CACHE)
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
    packed, dense = our_blocks(packed=True, tokens=tokens), our_blocks(packed=False, tokens=tokens)
    difference = (packed() - dense()).abs().max() / dense().abs().max()
    ours = compare(packed, dense, pairs=pairs, clock=thread_time)
    print(
        f"{tokens} tokens, mold       {ours.describe('Q4_0', 'bf16')}, outputs differ by {difference:.1e}", flush=True
    )
    del packed, dense
    theirs = diffusers_blocks(tokens, pairs=max(2, pairs // 2))
    print(f"{tokens} tokens, diffusers  {theirs.describe('Q4_0', 'bf16')}", flush=True)
    return ours.ratio


def our_blocks(*, packed: bool, tokens: int) -> Callable[[], Tensor]:
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
            weight = random_weight("Q4_0", *tensor.shape)
            tensors[name] = weight if packed else weight.expand(BF16)
        else:
            tensors[name] = torch.ones(tensor.shape) * 0.01
    # As in a whole model: the work of 57 blocks is worth compiling, and its scratch is large.
    load_weights(blocks, tensors, "random", dtype=BF16, compile="on", cache_dir=CACHE)
    for module in blocks.modules():
        if hasattr(module, "scratch"):
            module.scratch.numbers = 2**24
    generator, text = torch.Generator().manual_seed(0), tokens // 3
    img = torch.randn(1, tokens - text, 3072, generator=generator).to(BF16)
    txt = torch.randn(1, text, 3072, generator=generator).to(BF16)
    modulation = [torch.full((3072,), 0.5, dtype=BF16)] * 6
    turns = rope(config, text, 1, tokens - text)

    def run() -> Tensor:
        image, words = blocks["two"](img, txt, (modulation, modulation), turns)
        return blocks["one"](torch.cat([words, image], 1), modulation[:3], turns)

    return run


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
