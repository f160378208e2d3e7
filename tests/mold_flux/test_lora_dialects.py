"""Every dialect of LoRA files means what its own formula makes of the weights: checked against merged weights.

The reference merges are written from the published formulas, in dense float64 matrices.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from attrs import field, frozen
from gguf_files import random_blocks, write_gguf
from safetensors.torch import save_file
from torch import Tensor, nn

from mold_core import CheckpointError, LoraWeight
from mold_core.testing import RecordedRun
from mold_core.weights import LoraCache, load_weights, read_lora, read_weights
from mold_flux.compile import compile_blocks
from mold_flux.diffusers_layout import layer_names, norm_names, target
from mold_flux.lora_names import FluxNames
from mold_flux.text_encoders import ClipConfig, ClipTextEncoder, T5Config, T5Encoder
from mold_flux.transformer import FluxConfig, FluxTransformer, rope

SMALL = FluxConfig(
    in_channels=64, out_channels=64, hidden_size=64, heads=2, depth_double=1, depth_single=1, context_dim=64,
    pooled_dim=32, axes_dim=(8, 12, 12),
)  # fmt: skip
HIDDEN, MLP = 64, 256
RIGHT_DB = 45.0

Merge = Callable[[Tensor], Tensor]


@frozen(kw_only=True, eq=False)
class Layer:
    """A layer that a dialect names: `rows` of our layer `own` from `first` on; `swapped` in halves."""

    name: str
    own: str
    first: int
    rows: int
    columns: int
    swapped: bool = False


@frozen(kw_only=True, eq=False)
class Dialect:
    """The tensors of a file, what they make of weights by layer, and what else the file says."""

    tensors: dict[str, Tensor] = field(factory=dict)
    merges: dict[str, Merge] = field(factory=dict)
    biases: dict[str, Merge] = field(factory=dict)
    header: dict[str, str] = field(factory=dict)
    config: dict[str, object] | None = None


def network(seed: int = 0) -> FluxTransformer:
    torch.manual_seed(seed)
    made = FluxTransformer(SMALL).eval().requires_grad_(False)
    for name, parameter in made.named_parameters():
        if name.endswith("scale"):
            parameter.copy_(1 + torch.randn_like(parameter) / 8)
    return made


@cache
def official() -> tuple[Layer, ...]:
    """Return every linear layer by its official name: query, key and value in one."""
    with torch.device("meta"):
        layers = FluxTransformer(SMALL).named_modules()
    return tuple(
        Layer(name=name, own=name, first=0, rows=module.out_features, columns=module.in_features)
        for name, module in layers
        if isinstance(module, nn.Linear)
    )


def split() -> Iterator[Layer]:
    """Yield every linear layer by diffusers' names: query, key, value and MLP by themselves."""
    ours = {layer.own: layer for layer in official()}
    for name in layer_names(1, 1):
        where = target(f"{name}.weight")
        whole = ours[where.name.removesuffix(".weight")]
        widths = [HIDDEN] * 3 + [MLP] if where.of == 4 else [whole.rows // where.of] * where.of
        yield Layer(
            name=name, own=whole.own, first=sum(widths[: where.place]), rows=widths[where.place],
            columns=whole.columns, swapped=where.swapped,
        )  # fmt: skip


def random(*shape: int, size: float = 1.0) -> Tensor:
    return torch.randn(*shape) * size / math.sqrt(max(1, shape[-1]))


def low_rank(layer: Layer, rank: int = 4) -> tuple[Tensor, Tensor]:
    return random(rank, layer.columns), random(layer.rows, rank)


def plus(delta: Tensor, scale: float = 1.0) -> Merge:
    return lambda weight: weight + scale * delta.double()


# --- the dialects: each writes every layer that it can name ----------------------------------------------------------


def kohya() -> Dialect:
    made = Dialect()
    for layer in official():
        down, up = low_rank(layer)
        stem = f"lora_unet_{layer.name.replace('.', '_')}"
        made.tensors.update(
            {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(2.0)}
        )
        made.merges[layer.name] = plus(up @ down, 2.0 / 4)
    return made


def kohya_of_many_types() -> Dialect:
    """An alpha in 8 bits, matrices in 8 and 16 bits, one pair written as convolutions over single pixels."""
    made, types = Dialect(), (torch.float8_e4m3fn, torch.float16, torch.bfloat16, torch.float64, torch.float8_e5m2)
    alphas = (torch.float8_e4m3fn, torch.int64, torch.bfloat16)
    for number, layer in enumerate(official()):
        down, up = (matrix.to(types[number % len(types)]) for matrix in low_rank(layer))
        stem = f"lora_unet_{layer.name.replace('.', '_')}"
        shaped = (down[:, :, None, None], up[:, :, None, None]) if number % 3 == 1 else (down, up)
        made.tensors.update({f"{stem}.lora_down.weight": shaped[0], f"{stem}.lora_up.weight": shaped[1]})
        made.tensors[f"{stem}.alpha"] = torch.tensor(2.0).to(alphas[number % len(alphas)])
        made.merges[layer.name] = plus(up.double() @ down.double(), 2.0 / 4)
    return made


def peft_pairs(scale: float, *, magnitude: bool = False, rank: int = 4, prefix: str = "transformer") -> Dialect:
    made = Dialect()
    for layer in split():
        down, up = low_rank(layer, rank)
        stem = f"{prefix}.{layer.name}"
        made.tensors.update({f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up})
        made.merges[layer.name] = plus(up @ down, scale)
        if magnitude:
            made.tensors[f"{stem}.lora_magnitude_vector"] = lengths = torch.rand(layer.rows) + 0.5
            made.merges[layer.name] = dora(up @ down, lengths, scale)
    return made


def diffusers_header() -> Dialect:
    """Alpha and rank in the header, with other ones for some layers."""
    made = peft_pairs(2.0 / 4)
    for layer in split():
        if layer.name.endswith("to_q"):
            down, up = low_rank(layer, 8)
            stem = f"transformer.{layer.name}"
            made.tensors.update({f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up})
            made.merges[layer.name] = plus(up @ down, 16 / 8)
    values = {"r": 4, "lora_alpha": 2, "rank_pattern": {"attn.to_q": 8}, "alpha_pattern": {r"(.*)\.attn\.to_q": 16}}
    made.header["lora_adapter_metadata"] = json.dumps({f"transformer.{key}": value for key, value in values.items()})
    return made


def peft_folder() -> Dialect:
    """PEFT's own file with an adapter_config.json, rank-stabilised."""
    made = peft_pairs(4.0 / math.sqrt(4), prefix="base_model.model")
    return Dialect(tensors=made.tensors, merges=made.merges, config={"r": 4, "lora_alpha": 4, "use_rslora": True})


def dora(delta: Tensor, magnitude: Tensor, scale: float = 1.0) -> Merge:
    def merge(weight: Tensor) -> Tensor:
        changed = weight + scale * delta.double()
        across = 0 if magnitude.ndim == 2 and magnitude.shape[0] == 1 else 1
        shaped = magnitude.double() if magnitude.ndim == 2 else magnitude.double()[:, None]
        return changed / changed.norm(dim=across, keepdim=True) * shaped

    return merge


def peft_dora() -> Dialect:
    made = peft_pairs(0.5, magnitude=True)
    header = {"transformer.r": 4, "transformer.lora_alpha": 2, "transformer.use_dora": True}
    return Dialect(
        tensors=made.tensors, merges=made.merges, header={"lora_adapter_metadata": json.dumps(header)}
    )  # fmt: skip


def kohya_dora(on_inputs: bool = False) -> Dialect:
    made = kohya()
    for layer in official():
        stem = f"lora_unet_{layer.name.replace('.', '_')}"
        delta = made.tensors[f"{stem}.lora_up.weight"] @ made.tensors[f"{stem}.lora_down.weight"]
        shape = (1, layer.columns) if on_inputs else (layer.rows, 1)
        made.tensors[f"{stem}.dora_scale"] = lengths = torch.rand(shape) + 0.5
        made.merges[layer.name] = dora(delta, lengths, 2.0 / 4)
    return made


def kohya_dora_of_columns() -> Dialect:
    return kohya_dora(on_inputs=True)


def xlabs() -> Dialect:
    made = Dialect()
    sizes = {
        "double_blocks.0.processor.qkv_lora1": ("double_blocks.0.img_attn.qkv", 3 * HIDDEN, HIDDEN),
        "double_blocks.0.processor.qkv_lora2": ("double_blocks.0.txt_attn.qkv", 3 * HIDDEN, HIDDEN),
        "double_blocks.0.processor.proj_lora1": ("double_blocks.0.img_attn.proj", HIDDEN, HIDDEN),
        "double_blocks.0.processor.proj_lora2": ("double_blocks.0.txt_attn.proj", HIDDEN, HIDDEN),
        "single_blocks.0.processor.qkv_lora": ("single_blocks.0.linear1", 3 * HIDDEN, HIDDEN),
        "single_blocks.0.processor.proj_lora": ("single_blocks.0.linear2", HIDDEN, HIDDEN + MLP),
    }
    for name, (own, rows, columns) in sizes.items():
        down, up = random(4, columns, size=2), random(rows, 4, size=2)
        made.tensors.update({f"{name}.down.weight": down, f"{name}.up.weight": up})
        made.merges[own] = plus(nn.functional.pad(up @ down, (0, 0, 0, MLP if own.endswith("linear1") else 0)))
    return made


def uso() -> Dialect:
    made = xlabs()
    return Dialect(
        tensors={f"diffusion_model.{name}": value for name, value in made.tensors.items()}, merges=made.merges
    )


def lycoris(layers: Iterable[Layer], write: Callable[[Layer], tuple[dict[str, Tensor], Merge]]) -> Dialect:
    made = Dialect()
    for layer in layers:
        entries, made.merges[layer.name] = write(layer)
        stem = f"lycoris_{layer.name.replace('.', '_')}"
        made.tensors.update({f"{stem}.{role}": tensor for role, tensor in entries.items()})
    return made


def loha() -> Dialect:
    def write(layer: Layer) -> tuple[dict[str, Tensor], Merge]:
        (left_down, left_up), (right_down, right_up) = low_rank(layer), low_rank(layer)
        delta = (left_up @ left_down) * (right_up @ right_down) * 8
        return {
            "hada_w1_a": left_up, "hada_w1_b": left_down, "hada_w2_a": right_up, "hada_w2_b": right_down,
            "alpha": torch.tensor(32.0),
        }, plus(delta)  # fmt: skip

    return lycoris(split(), write)


def lokr(left_factored: bool, right_factored: bool, magnitude: bool = False) -> Dialect:
    def write(layer: Layer) -> tuple[dict[str, Tensor], Merge]:
        entries: dict[str, Tensor] = {}
        factors = []
        shapes = ((4, 8), (layer.rows // 4, layer.columns // 8))
        for side, ((rows, columns), factored) in enumerate(zip(shapes, (left_factored, right_factored), strict=True)):
            one, two = random(rows, 2, size=2), random(2, columns, size=2)
            if factored:
                entries.update({f"lokr_w{side + 1}_a": one, f"lokr_w{side + 1}_b": two})
            else:
                entries[f"lokr_w{side + 1}"] = one @ two
            factors.append(one @ two)
        entries["alpha"] = torch.tensor(3.0)
        delta = torch.kron(*factors)
        scale = 3.0 / 2 if left_factored or right_factored else 1.0
        if not magnitude:
            return entries, plus(delta, scale)
        entries["dora_scale"] = lengths = torch.rand(layer.rows, 1) + 0.5
        return entries, dora(delta, lengths, scale)

    return lycoris(split(), write)


def lokr_whole() -> Dialect:
    return lokr(False, False)


def lokr_of_one_factored() -> Dialect:
    return lokr(False, True)


def lokr_of_both_factored() -> Dialect:
    return lokr(True, True)


def lokr_with_magnitudes() -> Dialect:
    return lokr(False, True, magnitude=True)


def cayley(blocks: Tensor, bound: float = math.inf) -> Tensor:
    skew = (blocks - blocks.transpose(-1, -2)).double()
    skew = skew * min(1.0, bound / float(skew.norm()))
    one = torch.eye(blocks.shape[-1], dtype=torch.float64)
    return (one + skew) @ torch.linalg.inv(one - skew)


def oft() -> Dialect:
    """kohya's and LyCORIS' OFT, with a constraint that binds and a rescaling of rows."""

    def write(layer: Layer) -> tuple[dict[str, Tensor], Merge]:
        size = 16
        blocks, rescale = random(layer.rows // size, size, size), torch.rand(layer.rows, 1) + 0.5
        turn = torch.block_diag(*cayley(blocks, 0.02 * layer.rows).transpose(1, 2))
        entries = {"oft_blocks": blocks, "alpha": torch.tensor(0.02), "rescale": rescale}
        return entries, lambda weight: rescale.double() * (turn @ weight)

    return lycoris(split(), write)


def boft() -> Dialect:
    def write(layer: Layer) -> tuple[dict[str, Tensor], Merge]:
        size, stages = 8, 3
        blocks = random(stages, layer.rows // size, size, size)
        turns = cayley(blocks)

        def merge(weight: Tensor) -> Tensor:
            for stage in range(stages):
                half = 2**stage * size // 2
                order = [
                    first + side * half + near
                    for first in range(0, layer.rows, 2 * half)
                    for near in range(half)
                    for side in (0, 1)
                ]
                turned = torch.block_diag(*turns[stage]) @ weight[order]
                weight = torch.empty_like(turned)
                weight[order] = turned
            return weight

        return {"oft_blocks": blocks, "alpha": torch.tensor(0.0)}, merge

    return lycoris(split(), write)


def peft_oft(series: bool = True) -> Dialect:
    """PEFT's OFT, which rotates inputs: five terms of a series, or with a configuration the whole rotation."""
    made, size = Dialect(config=None if series else {"use_cayley_neumann": False}), 16
    for layer in split():
        packed = random(layer.columns // size, size * (size - 1) // 2, size=2)
        turns = []
        for row in packed.double():
            skew = torch.zeros(size, size, dtype=torch.float64)
            skew[tuple(torch.triu_indices(size, size, 1))] = row
            skew = skew - skew.T
            one = torch.eye(size, dtype=torch.float64)
            turns.append(
                one + 2 * skew + 2 * skew @ skew + 2 * skew @ skew @ skew + skew @ skew @ skew @ skew
                if series
                else torch.linalg.inv(one + skew) @ (one - skew)
            )
        turn = torch.block_diag(*turns)
        made.tensors[f"transformer.{layer.name}.oft_R.weight"] = packed
        made.merges[layer.name] = lambda weight, turn=turn: (turn @ weight.T).T  # type: ignore[misc]
    return made


def peft_oft_exact() -> Dialect:
    return peft_oft(series=False)


def peft_boft() -> Dialect:
    """PEFT's BOFT: the transposed weights times three butterflies, the rows of the result times a vector."""
    made, size, stages = Dialect(), 4, 3
    for layer in split():
        count = layer.columns // size
        blocks, gain = random(stages, count, size, size, size=2), torch.rand(layer.rows, 1) + 0.5
        turn = torch.eye(layer.columns, dtype=torch.float64)
        for stage in range(stages):
            within = [half for parity in (0, 1) for half in range(parity, 2 ** (stage + 1), 2)]
            order = [
                (first + half) * size // 2 + near
                for first in range(0, 2 * count, 2 ** (stage + 1))
                for half in within
                for near in range(size // 2)
            ]
            skew = (blocks[stage] - blocks[stage].transpose(1, 2)).double() / 2
            one = torch.eye(size, dtype=torch.float64)
            whole = torch.block_diag(*((one - skew) @ torch.linalg.inv(one + skew)))
            exchange = torch.eye(layer.columns, dtype=torch.float64)[order]
            turn = exchange @ whole @ exchange.T @ turn
        stem = f"base_model.model.{layer.name}"
        made.tensors.update({f"{stem}.boft_R": blocks, f"{stem}.boft_s": gain})
        made.merges[layer.name] = lambda weight, turn=turn, gain=gain: (turn @ weight.T).T * gain  # type: ignore[misc]
    return made


def ia3() -> Dialect:
    """PEFT's IA3: rows, biases with them, or the inputs of the second layer of an MLP."""
    made = Dialect()
    for layer in split():
        on_inputs = layer.columns == MLP
        gain = torch.rand((1, layer.columns) if on_inputs else (layer.rows, 1)) + 0.5
        made.tensors[f"base_model.model.{layer.name}.ia3_l"] = gain
        made.merges[layer.name] = lambda weight, gain=gain: weight * gain  # type: ignore[misc]
        if not on_inputs:
            made.biases[layer.name] = lambda bias, gain=gain: bias * gain[:, 0]  # type: ignore[misc]
    return made


def lycoris_ia3() -> Dialect:
    def write(layer: Layer) -> tuple[dict[str, Tensor], Merge]:
        on_inputs = layer.columns == MLP
        excess = torch.rand(layer.columns if on_inputs else layer.rows) - 0.5
        entries = {"weight": excess, "on_input": torch.tensor(int(on_inputs))}
        return entries, lambda weight: weight * (1 + (excess if on_inputs else excess[:, None]))

    return lycoris(split(), write)


def glora() -> Dialect:
    def write(layer: Layer) -> tuple[dict[str, Tensor], Merge]:
        a1, a2 = random(layer.columns, 4), random(4, layer.columns)
        b1, b2 = random(layer.rows, 4), random(4, layer.columns)
        entries = {"a1.weight": a1, "a2.weight": a2, "b1.weight": b1, "b2.weight": b2, "alpha": torch.tensor(2.0)}
        return entries, lambda weight: weight + 0.5 * (weight @ (a1 @ a2).double() + (b1 @ b2).double())

    return lycoris(split(), write)


def differences() -> Dialect:
    """Differences of whole weights and biases, of norms too, and weights set to others."""
    made = Dialect()
    for number, layer in enumerate(official()):
        stem, values = f"diffusion_model.{layer.name}", random(layer.rows, layer.columns)
        made.tensors[f"{stem}.{'set_weight' if number % 4 == 3 else 'diff'}"] = values
        made.merges[layer.name] = (lambda weight, v=values: v.double()) if number % 4 == 3 else plus(values)  # type: ignore[misc]
        made.tensors[f"{stem}.diff_b"] = shift = torch.randn(layer.rows) / 8
        made.biases[layer.name] = plus(shift)
    for name in norm_names(1, 1):
        own = target(f"{name}.weight").name
        made.tensors[f"lycoris_{name.replace('.', '_')}.w_norm"] = shift = torch.randn(HIDDEN // 2) / 4
        made.merges[own] = plus(shift)
    return made


def control() -> Dialect:
    """Black Forest Labs' control LoRAs on layers of the same width: biases of the second matrix, whole norms."""
    made = Dialect()
    for layer in official():
        down, up = low_rank(layer)
        shift = torch.randn(layer.rows) / 8
        made.tensors.update(
            {f"{layer.name}.lora_A.weight": down, f"{layer.name}.lora_B.weight": up, f"{layer.name}.lora_B.bias": shift}
        )
        made.merges[layer.name], made.biases[layer.name] = plus(up @ down), plus(shift)
    for name in norm_names(1, 1):
        own = target(f"{name}.weight").name
        made.tensors[own] = values = 1 + torch.randn(HIDDEN // 2) / 4
        made.merges[own] = lambda weight, values=values: values.double()  # type: ignore[misc]
    return made


DIALECTS = (
    kohya, kohya_of_many_types, diffusers_header, peft_folder, xlabs, uso, peft_dora, kohya_dora, kohya_dora_of_columns,
    loha, lokr_whole, lokr_of_one_factored, lokr_of_both_factored, lokr_with_magnitudes, oft, boft, peft_boft, peft_oft,
    peft_oft_exact, ia3, lycoris_ia3, glora, differences, control,
)  # fmt: skip


# --- what they make of the network -----------------------------------------------------------------------------------


def places(dialect: Dialect) -> dict[str, Layer]:
    named = {layer.name: layer for layer in (*official(), *split())}
    norms = {name: Layer(name=name, own=name.removesuffix(".scale"), first=0, rows=0, columns=0)
             for name in dialect.merges if name.endswith(".scale")}  # fmt: skip
    return {name: {**named, **norms}[name] for name in (*dialect.merges, *dialect.biases)}


def merged(dialect: Dialect, scale: float = 1.0, of: FluxTransformer | None = None) -> FluxTransformer:
    """Return the network with `scale` times every difference in its weights, computed in float64."""
    made = of or network()
    for name, layer in places(dialect).items():
        module = made.get_submodule(layer.own)
        for kind, merges in (
            ("scale" if name.endswith(".scale") else "weight", dialect.merges),
            ("bias", dialect.biases),
        ):
            if name not in merges:
                continue
            parameter = module.get_parameter(kind)
            rows = parameter[layer.first : layer.first + layer.rows] if layer.rows else parameter
            theirs = torch.cat(rows.chunk(2)[::-1]) if layer.swapped else rows
            changed = torch.lerp(theirs.double(), merges[name](theirs.double()), scale).to(rows.dtype)
            rows.copy_(torch.cat(changed.chunk(2)[::-1]) if layer.swapped else changed)
    return made


def write(folder: Path, dialect: Dialect) -> Path:
    path = folder / "adapter_model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in dialect.tensors.items()}, path, dialect.header)
    if dialect.config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(dialect.config))
    return path


def step(net: FluxTransformer, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    img, txt, pooled = (
        torch.randn(shape, generator=generator).to(dtype) for shape in ((2, 6, 64), (2, 4, 64), (2, 32))
    )
    with torch.inference_mode():
        return net(
            img, txt, pooled, torch.tensor([0.7, 0.2]), torch.tensor([3.5, 1.0]), rope(net.config, 4, 2, 3)
        ).float()


def drawn(net: FluxTransformer, *loras: LoraWeight, dtype: torch.dtype = torch.float32) -> tuple[Tensor, RecordedRun]:
    run = RecordedRun()
    with LoraCache(FluxNames()).attached("transformer", net, loras, run, dtype=dtype, device="cpu"):
        return step(net, dtype), run


def psnr(made: Tensor, expected: Tensor) -> float:
    error = float((made - expected).double().square().mean())
    return math.inf if not error else 10 * math.log10(float(expected.max() - expected.min()) ** 2 / error)


@pytest.mark.parametrize("build", DIALECTS, ids=lambda build: build.__name__)
def test_a_dialect_equals_its_merged_weights(tmp_path: Path, build: Callable[[], Dialect]) -> None:
    torch.manual_seed(5)
    dialect = build()
    expected, plain = step(merged(dialect)), step(network())
    made, run = drawn(network(), LoraWeight(path=str(write(tmp_path, dialect))))
    assert not run.events
    assert psnr(plain, expected) < RIGHT_DB - 5  # a large change
    assert psnr(made, expected) > 2 * RIGHT_DB


@pytest.mark.parametrize("build", [kohya, peft_dora, kohya_dora_of_columns, oft, ia3, differences])
def test_the_scale_of_a_lora_scales_what_it_adds_to_the_weights(tmp_path: Path, build: Callable[[], Dialect]) -> None:
    torch.manual_seed(5)
    dialect = build()
    made, _ = drawn(network(), LoraWeight(path=str(write(tmp_path, dialect)), scale=0.6))
    assert psnr(made, step(merged(dialect, 0.6))) > 2 * RIGHT_DB


@pytest.mark.parametrize(
    "build",
    [kohya_of_many_types, peft_dora, kohya_dora_of_columns, loha, lokr_of_both_factored, oft, glora, ia3, control],
)
def test_over_quantised_weights_a_dialect_equals_the_merged_dequantised_ones(
    tmp_path: Path, build: Callable[[], Dialect], quantised: Path
) -> None:
    torch.manual_seed(5)
    dialect = build()
    packed, dense = loaded(quantised, expand=False), loaded(quantised, expand=True)
    made, _ = drawn(packed, LoraWeight(path=str(write(tmp_path, dialect))))
    assert psnr(made, step(merged(dialect, of=dense))) > 2 * RIGHT_DB


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = network().state_dict()
    blocks = {
        name: random_blocks("Q8_0", *tensor.shape, seed=seed)
        for seed, (name, tensor) in enumerate(state.items())
        if tensor.ndim == 2
    }
    path = tmp_path_factory.mktemp("quantised") / "x.gguf"
    write_gguf(path, {**state, **blocks}, dict.fromkeys(blocks, "Q8_0"))
    return path


def loaded(path: Path, *, expand: bool) -> FluxTransformer:
    with torch.device("meta"):
        made = FluxTransformer(SMALL)
    load_weights(made, read_weights(path), path, dtype=torch.float32, expand=expand)
    for parameter in made.parameters():
        parameter.data = parameter.data.clone()  # not the file's memory, which the next network shares
    return made.eval().requires_grad_(False)


def test_loras_of_other_methods_add_up_in_a_stack(tmp_path: Path) -> None:
    torch.manual_seed(5)
    stack, total = (peft_dora(), oft(), kohya(), lycoris_ia3()), network()
    for dialect in stack:
        alone = merged(dialect)
        for (parameter, plain), changed in zip(
            zip(total.parameters(), network().parameters(), strict=True), alone.parameters(), strict=True
        ):
            parameter += changed - plain
    loras = []
    for number, dialect in enumerate(stack):
        (tmp_path / str(number)).mkdir()
        loras.append(LoraWeight(path=str(write(tmp_path / str(number), dialect))))
    made, _ = drawn(network(), *loras)
    assert psnr(made, step(total)) > 2 * RIGHT_DB


@pytest.mark.parametrize("build", [differences, peft_dora, control])
def test_no_trace_is_left(tmp_path: Path, build: Callable[[], Dialect]) -> None:
    net = network()
    before, modules, parameters = step(net), dict(net.named_modules()), dict(net.named_parameters())
    drawn(net, LoraWeight(path=str(write(tmp_path, build()))))
    assert torch.equal(step(net), before)
    assert dict(net.named_modules()) == modules
    assert all(parameter is parameters[name] for name, parameter in net.named_parameters())


# --- text encoders ---------------------------------------------------------------------------------------------------

CLIP = ClipConfig(hidden_size=32, mlp_size=64, heads=2, depth=1, vocabulary=50, positions=8, eos_id=49)
T5 = T5Config(hidden_size=32, mlp_size=64, heads=2, head_dim=16, depth=1, vocabulary=50)
IDS = torch.tensor([[3, 7, 49]])
FC1, WI_0 = "text_model.encoder.layers.0.mlp.fc1", "encoder.block.0.layer.1.DenseReluDense.wi_0"


def text_network(component: str) -> nn.Module:
    torch.manual_seed(0)
    made = ClipTextEncoder(CLIP) if component == "clip_encoder" else T5Encoder(T5)
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("component", "stem"),
    [
        ("clip_encoder", "lora_te1_text_model_encoder_layers_0_mlp_fc1"),
        ("clip_encoder", "text_encoder.encoder.layers.0.mlp.fc1"),
        ("clip_encoder", "lycoris_text_encoder_text_model_encoder_layers_0_mlp_fc1"),
        ("clip_encoder", "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1"),
        ("t5_encoder", "lora_te3_encoder_block_0_layer_1_DenseReluDense_wi_0"),
        ("t5_encoder", "text_encoder_2.encoder.block.0.layer.1.DenseReluDense.wi_0"),
        ("t5_encoder", "text_encoders.t5xxl.transformer.encoder.block.0.layer.1.DenseReluDense.wi_0"),
    ],
)
def test_text_encoders_take_every_method_by_every_name(tmp_path: Path, component: str, stem: str) -> None:
    own = FC1 if component == "clip_encoder" else WI_0
    torch.manual_seed(5)
    down, up, magnitude = random(4, 32), random(64, 4), torch.rand(64, 1) + 0.5
    path = tmp_path / "x.safetensors"
    save_file({f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up, f"{stem}.dora_scale": magnitude}, path)
    plain, expected = text_network(component), text_network(component)
    weight = expected.get_submodule(own).get_parameter("weight")
    weight.copy_(dora(up @ down, magnitude)(weight.double()))
    attached = LoraCache(FluxNames()).attached(
        component, plain, [LoraWeight(path=str(path))], RecordedRun(), dtype=torch.float32, device="cpu"
    )
    before = plain(IDS)
    with attached:
        made = plain(IDS)
    assert psnr(before, expected(IDS)) < RIGHT_DB
    assert psnr(made, expected(IDS)) > 2 * RIGHT_DB


# --- convolutions ----------------------------------------------------------------------------------------------------


class Names:
    """A network whose layers LoRAs call by their own names."""

    def component_of(self, name: str) -> str:
        return "net"

    def layer_of(self, name: str) -> str:
        return name

    def places_of(self, network: nn.Module) -> dict[str, object]:
        return {}


def convolutions() -> dict[str, tuple[dict[str, Tensor], Callable[[Tensor], Tensor]]]:
    """Return the tensors for a convolution of 3x3 pixels, 8 to 16 channels, and what they make of its weights."""
    down, up, flat_down = random(4, 8, 3, 3), random(16, 4, 1, 1), random(4, 8, 1, 1)
    whole = torch.einsum("or,rihw->oihw", up[:, :, 0, 0], down)
    mid, magnitude = random(4, 4, 3, 3), torch.rand(16, 1, 1, 1) + 0.5
    tucker = torch.einsum("ot,tshw,si->oihw", up[:, :, 0, 0], mid, flat_down[:, :, 0, 0])
    changed = lambda weight: weight + whole  # noqa: E731
    w1, w2 = random(4, 2), random(4, 4, 3, 3)
    core, w2_a, w2_b = random(2, 3, 3, 3), random(2, 4), random(3, 4)
    small = torch.einsum("abhw,ao,bi->oihw", core, w2_a, w2_b)
    kron = lambda right: torch.einsum("ab,cdhw->acbdhw", w1, right).reshape(16, 8, 3, 3)  # noqa: E731
    difference = random(16, 8, 3, 3)
    return {
        "locon": ({"lora_down.weight": down, "lora_up.weight": up}, changed),
        "locon of a small kernel": (
            {"lora_down.weight": flat_down, "lora_mid.weight": mid, "lora_up.weight": up},
            lambda weight: weight + tucker,
        ),
        "dora": (
            {"lora_down.weight": down, "lora_up.weight": up, "dora_scale": magnitude},
            lambda weight: changed(weight) / changed(weight).flatten(1).norm(dim=1)[:, None, None, None] * magnitude,
        ),
        "lokr": ({"lokr_w1": w1, "lokr_w2": w2}, lambda weight: weight + kron(w2)),
        "lokr of a small kernel": (
            {"lokr_w1": w1, "lokr_t2": core, "lokr_w2_a": w2_a, "lokr_w2_b": w2_b}, lambda weight: weight + kron(small),
        ),
        "difference": ({"diff": difference}, lambda weight: weight + difference),
    }  # fmt: skip


@pytest.mark.parametrize("method", list(convolutions()))
def test_convolutions_take_loras_too(tmp_path: Path, method: str) -> None:
    torch.manual_seed(5)
    net, expected = (nn.Sequential(nn.Conv2d(8, 16, 3)).requires_grad_(False) for _ in range(2))
    expected.load_state_dict(net.state_dict())
    entries, merge = convolutions()[method]
    save_file({f"0.{role}": tensor for role, tensor in entries.items()}, tmp_path / "x")
    expected[0].weight.copy_(merge(expected[0].weight))
    image = torch.randn(1, 8, 6, 6)
    attached = LoraCache(Names()).attached(  # type: ignore[arg-type]
        "net", net, [LoraWeight(path=str(tmp_path / "x"))], RecordedRun(), dtype=torch.float32, device="cpu"
    )
    with attached:
        made = net(image)
    assert psnr(made, expected(image)) > 2 * RIGHT_DB
    assert psnr(net(image), expected(image)) < RIGHT_DB


# --- what is refused -------------------------------------------------------------------------------------------------


def wide_tucker(method: str) -> dict[str, Tensor]:
    """Return small tensors that make a matrix of 4 TB."""
    core, side = torch.ones(1, 1), torch.ones(1, 1_000_000)
    if method == "lokr":
        found = {"lokr_w1": core, "lokr_t2": core, "lokr_w2_a": side, "lokr_w2_b": side}
    else:
        found = {f"hada_{name}": core if name.startswith("t") else side for name in ("t1", "t2", *_SIDES)}
    return {f"img_in.{name}": tensor.clone() for name, tensor in found.items()}


def narrow_tucker() -> dict[str, Tensor]:
    """Return tensors of which one side has a row where the layer has 64, which would be repeated."""
    sides = {f"img_in.hada_{name}": torch.ones(1, 1 if name == "w2_a" else 64) for name in _SIDES}
    return {**sides, "img_in.hada_t1": torch.ones(1, 1), "img_in.hada_t2": torch.ones(1, 1)}


_SIDES = ("w1_a", "w1_b", "w2_a", "w2_b")
PAIR = {"img_in.lora_A.weight": torch.ones(4, 64), "img_in.lora_B.weight": torch.ones(64, 4)}


@pytest.mark.parametrize(
    ("tensors", "header", "message"),
    [
        ({**PAIR, "img_in.lora_A.bias": torch.ones(4)}, {}, r"img_in\.lora_A\.bias is not understood"),
        ({**PAIR, "img_in.gate": torch.ones(4)}, {}, r"img_in\.gate is not understood, .*layer img_in"),
        ({**PAIR, "img_in.weight": torch.ones(64, 64)}, {}, r"img_in\.weight is not understood"),
        ({**PAIR, "lora_unet_img_in.lora_down.weight": torch.ones(4, 64)}, {}, r"has no counterpart"),
        ({**PAIR, "img_in.lora_down.weight": torch.ones(4, 64)}, {}, r"mean the same thing"),
        ({**PAIR, "img_in.diff": torch.ones(64, 64)}, {}, r"img_in\.diff is not understood beside"),
        ({"img_in.boft_R": torch.ones(1, 4, 4, 4)}, {}, r"img_in\.boft_R .*does not fit 64 inputs"),
        ({"img_in.oft_blocks": torch.ones(3, 16, 16)}, {}, r"img_in\.oft_blocks .*does not fit 64 rows"),
        ({"img_in.lokr_w1": torch.ones(3, 2), "img_in.lokr_w2": torch.ones(16, 32)}, {}, r"matrix of 48 x 64"),
        ({"img_in.hada_w1_a": torch.ones(64, 4)}, {}, r"lacks hada_w1_b"),
        ({"img_in.ia3_l": torch.ones(63, 1)}, {}, r"img_in\.ia3_l has the shape"),
        ({"img_in.alpha": torch.ones(())}, {}, r"img_in\.alpha stands alone"),
        ({**PAIR, "single_blocks.0.norm.key_norm.lora_A.weight": torch.ones(4, 32)}, {}, r"layer of 32 numbers"),
        ({**PAIR, "single_blocks.0.norm.key_norm.diff": torch.full((32,), torch.nan)}, {}, r"holds NaN .*key_norm"),
        ({**PAIR, "img_in.lora_A.weight": torch.tensor(1.0)}, {}, r"img_in\.lora_A\.weight is one number"),
        (PAIR, {"lora_adapter_metadata": '{"lora_alpha": 1%s}' % ("0" * 400)}, r"lora_alpha .*below"),
        ({"img_in.oft_R.weight": torch.ones(4, 120)},
            {"lora_adapter_metadata": '{"num_cayley_neumann_terms": "x"}'}, r"terms .*must be a whole number"),
        ({"img_in.lokr_w1": torch.tensor(1.0), "img_in.lokr_w2": torch.ones(16, 32)}, {}, r"lokr_w1 is one number"),
        (narrow_tucker(), {}, r"makes a change of the shape \[1, 64\]"),
        (wide_tucker("hada"), {}, r"make a kernel that does not fit img_in"),
        (wide_tucker("lokr"), {}, r"make a kernel that does not fit img_in"),
        (PAIR, {"lora_adapter_metadata": "[]"}, r"lora_adapter_metadata"),
        (PAIR, {"lora_adapter_metadata": '{"lora_alpha": "x"}'}, r"lora_alpha .*must be a number"),
        (PAIR, {"lora_adapter_metadata": '{"r": 0, "lora_alpha": 4}'}, r"the rank 0"),
        (PAIR, {"lora_adapter_metadata": '{"alpha_pattern": {"(a+)+b": 4}}'}, r"too intricate"),
    ],
)  # fmt: skip
def test_what_is_not_understood_on_a_layer_of_the_model_is_an_error(
    tmp_path: Path, tensors: dict[str, Tensor], header: dict[str, str], message: str
) -> None:
    path = tmp_path / "x.safetensors"
    save_file(tensors, path, header)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_lora(path, "transformer", network(), FluxNames(), dtype=torch.float32, device="cpu")
    assert str(path) in str(caught.value)


def test_the_configuration_of_a_folder_is_not_that_of_every_lora_in_it(tmp_path: Path) -> None:
    torch.manual_seed(5)
    (tmp_path / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 400}')
    path = tmp_path / "style.safetensors"
    save_file({"img_in.lora_A.weight": random(4, 64), "img_in.lora_B.weight": random(64, 4)}, path)
    alone, _ = drawn(network(), LoraWeight(path=str(path), scale=0.01))
    save_file(
        {"img_in.lora_A.weight": random(4, 64), "img_in.lora_B.weight": random(64, 4)}, tmp_path / "b.safetensors"
    )
    among_others, _ = drawn(network(), LoraWeight(path=str(path)))
    assert psnr(alone, among_others) > 2 * RIGHT_DB


@pytest.mark.soak
def test_compiled_blocks_compute_with_every_method(tmp_path: Path) -> None:
    torch.manual_seed(5)
    stack = []
    for build in (peft_dora, loha, lokr_of_one_factored, boft, ia3, differences):
        (tmp_path / build.__name__).mkdir()
        stack.append(LoraWeight(path=str(write(tmp_path / build.__name__, build())), scale=0.5))
    expected, _ = drawn(network(), *stack)
    compiled = network()
    compile_blocks(compiled, backend="eager")
    made, _ = drawn(compiled, *stack)
    assert psnr(made, expected) > 2 * RIGHT_DB
