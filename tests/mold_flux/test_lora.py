"""LoRA: every naming means the same numbers as merged weights, over weights of every kind, and leaves no trace."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from gguf_files import random_blocks, write_gguf
from safetensors.torch import save_file
from torch import Tensor, nn

from mold_core import CheckpointError, Info, LoraWeight
from mold_core.testing import RecordedRun
from mold_core.weights import LoraCache, PackedLinear, load_weights, read_lora, read_weights, with_loras_applied
from mold_flux.checkpoints import transformer_tensors
from mold_flux.compile import compile_blocks
from mold_flux.lora_names import FluxNames
from mold_flux.text_encoders import ClipConfig, ClipTextEncoder
from mold_flux.transformer import FluxConfig, FluxTransformer, rope

SMALL = FluxConfig(
    in_channels=64, out_channels=64, hidden_size=128, heads=2, depth_double=2, depth_single=2, context_dim=64,
    pooled_dim=32, axes_dim=(16, 24, 24),
)  # fmt: skip
HIDDEN, MLP, RANK = 128, 512, 4

Names = Callable[[str, str], str]


def transformer(dtype: torch.dtype = torch.float32) -> FluxTransformer:
    torch.manual_seed(0)
    return FluxTransformer(SMALL).eval().requires_grad_(False).to(dtype)


def step(network: nn.Module) -> Tensor:
    dtype, generator = torch.float32, torch.Generator().manual_seed(1)
    for tensor in network.state_dict().values():
        dtype = tensor.dtype if tensor.is_floating_point() else dtype
    img, txt, pooled = (
        torch.randn(shape, generator=generator).to(dtype) for shape in ((2, 6, 64), (2, 4, 64), (2, 32))
    )
    with torch.inference_mode():
        return network(img, txt, pooled, torch.tensor([0.7, 0.2]), torch.tensor([3.5, 1.0]), rope(SMALL, 4, 2, 3))


def pair(rows: int, columns: int, rank: int = RANK, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed + rows + columns)
    return torch.randn(rank, columns, generator=generator) / 8, torch.randn(rows, rank, generator=generator) / 8


def write(path: Path, pairs: dict[str, tuple[Tensor, Tensor]], names: Names, alpha: float | None = None) -> Path:
    tensors = {}
    for layer, (down, up) in pairs.items():
        tensors[names(layer, "down")], tensors[names(layer, "up")] = down, up
        if alpha is not None:
            tensors[names(layer, "alpha")] = torch.tensor(alpha)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def peft(layer: str, part: str) -> str:
    return f"transformer.{layer}." + {"down": "lora_A.weight", "up": "lora_B.weight", "alpha": "alpha"}[part]


def peft_model(layer: str, part: str) -> str:
    return f"base_model.model.{layer}." + {"down": "lora_A.default.weight", "up": "lora_B.default.weight"}[part]


def old_diffusers(layer: str, part: str) -> str:
    return f"{layer}." + {"down": "lora.down.weight", "up": "lora.up.weight", "alpha": "alpha"}[part]


def kohya(layer: str, part: str) -> str:
    flat = layer.replace(".", "_")
    return f"lora_unet_{flat}." + {"down": "lora_down.weight", "up": "lora_up.weight", "alpha": "alpha"}[part]


def onetrainer(layer: str, part: str) -> str:
    return kohya(layer, part).replace("lora_unet_", "lora_transformer_")


def bfl(layer: str, part: str) -> str:
    return f"{layer}." + {"down": "lora_A.weight", "up": "lora_B.weight", "alpha": "alpha"}[part]


def comfy(layer: str, part: str) -> str:
    return f"diffusion_model.{layer}." + {"down": "lora_down.weight", "up": "lora_up.weight", "alpha": "alpha"}[part]


def merged(pairs: dict[str, tuple[Tensor, Tensor]], scale: float) -> FluxTransformer:
    """Return the transformer with scale * up @ down added to whole layers."""
    network = transformer()
    for layer, (down, up) in pairs.items():
        network.get_submodule(layer).weight.data += scale * up @ down  # type: ignore[union-attr, operator]
    return network


def with_adapter(
    network: nn.Module, *files: Path, scales: tuple[float, ...] = (1.0,), shelf: LoraCache | None = None
) -> Tensor:
    loras = [LoraWeight(path=str(file), scale=scale) for file, scale in zip(files, scales, strict=True)]
    dtype = torch.bfloat16 if any(t.dtype == torch.bfloat16 for t in network.state_dict().values()) else torch.float32
    beside = (shelf or LoraCache(FluxNames())).attached(
        "transformer", network, loras, RecordedRun(), dtype=dtype, device="cpu"
    )
    with beside:
        return step(network)


def assert_close(made: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert (made - expected).abs().max() < tolerance * (expected.max() - expected.min())


# Every linear layer of a block, and some beside the blocks.
OFFICIAL = {
    layer: pair(module.out_features, module.in_features, seed=number)
    for number, (layer, module) in enumerate(transformer().named_modules())
    if isinstance(module, nn.Linear)
}


@pytest.mark.parametrize("names", [kohya, bfl, comfy])
@pytest.mark.parametrize("alpha", [None, 8.0])
def test_official_names_equal_merged_weights(tmp_path: Path, names: Names, alpha: float | None) -> None:
    path = write(tmp_path / "x.safetensors", OFFICIAL, names, alpha)
    expected = step(merged(OFFICIAL, 0.7 * (alpha / RANK if alpha else 1)))
    assert (expected - step(transformer())).abs().max() > 0.1
    assert_close(with_adapter(transformer(), path, scales=(0.7,)), expected)


# --- diffusers' layers, which are parts of ours ----------------------------------------------------------------------

PARTS = {
    "transformer_blocks.1.attn.to_q": ("double_blocks.1.img_attn.qkv", 0, HIDDEN, HIDDEN),
    "transformer_blocks.1.attn.to_k": ("double_blocks.1.img_attn.qkv", HIDDEN, HIDDEN, HIDDEN),
    "transformer_blocks.1.attn.to_v": ("double_blocks.1.img_attn.qkv", 2 * HIDDEN, HIDDEN, HIDDEN),
    "transformer_blocks.0.attn.add_k_proj": ("double_blocks.0.txt_attn.qkv", HIDDEN, HIDDEN, HIDDEN),
    "transformer_blocks.0.attn.to_out.0": ("double_blocks.0.img_attn.proj", 0, HIDDEN, HIDDEN),
    "transformer_blocks.0.attn.to_add_out": ("double_blocks.0.txt_attn.proj", 0, HIDDEN, HIDDEN),
    "transformer_blocks.0.ff.net.0.proj": ("double_blocks.0.img_mlp.0", 0, MLP, HIDDEN),
    "transformer_blocks.0.ff.net.2": ("double_blocks.0.img_mlp.2", 0, HIDDEN, MLP),
    "transformer_blocks.0.ff_context.net.0.proj": ("double_blocks.0.txt_mlp.0", 0, MLP, HIDDEN),
    "transformer_blocks.0.norm1.linear": ("double_blocks.0.img_mod.lin", 0, 6 * HIDDEN, HIDDEN),
    "transformer_blocks.0.norm1_context.linear": ("double_blocks.0.txt_mod.lin", 0, 6 * HIDDEN, HIDDEN),
    "single_transformer_blocks.0.attn.to_v": ("single_blocks.0.linear1", 2 * HIDDEN, HIDDEN, HIDDEN),
    "single_transformer_blocks.0.proj_mlp": ("single_blocks.0.linear1", 3 * HIDDEN, MLP, HIDDEN),
    "single_transformer_blocks.0.proj_out": ("single_blocks.0.linear2", 0, HIDDEN, HIDDEN + MLP),
    "single_transformer_blocks.1.norm.linear": ("single_blocks.1.modulation.lin", 0, 3 * HIDDEN, HIDDEN),
    "x_embedder": ("img_in", 0, HIDDEN, 64),
    "time_text_embed.guidance_embedder.linear_1": ("guidance_in.in_layer", 0, HIDDEN, 256),
    "proj_out": ("final_layer.linear", 0, 64, HIDDEN),
}


def in_parts(names: list[str]) -> tuple[dict[str, tuple[Tensor, Tensor]], FluxTransformer]:
    """Return pairs by diffusers' names, and the transformer with them merged."""
    pairs, network = {}, transformer()
    for number, name in enumerate(names):
        layer, first, rows, columns = PARTS[name]
        pairs[name] = down, up = pair(rows, columns, seed=number)
        network.get_submodule(layer).weight.data[first : first + rows] += up @ down  # type: ignore[union-attr, index, operator]
    return pairs, network


@pytest.mark.parametrize("names", [peft, peft_model, old_diffusers, kohya, onetrainer])
def test_diffusers_names_equal_merged_rows(tmp_path: Path, names: Names) -> None:
    pairs, network = in_parts(list(PARTS))
    assert_close(with_adapter(transformer(), write(tmp_path / "x", pairs, names)), step(network))


@pytest.mark.parametrize("name", list(PARTS))
def test_each_layer_by_itself_equals_merged_rows(tmp_path: Path, name: str) -> None:
    pairs, network = in_parts([name])
    made = with_adapter(transformer(), write(tmp_path / "x", pairs, peft))
    assert not torch.equal(made, step(transformer()))
    assert_close(made, step(network))


def test_shift_and_scale_of_the_last_norm_stand_the_other_way_round_in_diffusers(tmp_path: Path) -> None:
    down, up = pair(2 * HIDDEN, HIDDEN)
    network = transformer()
    network.final_layer.adaLN_modulation[1].weight.data += torch.cat(up.chunk(2)[::-1]) @ down
    assert_close(
        with_adapter(transformer(), write(tmp_path / "x", {"norm_out.linear": (down, up)}, peft)), step(network)
    )


def test_it_is_what_diffusers_computes_with_merged_weights(tmp_path: Path) -> None:
    torch.manual_seed(3)
    reference = FluxTransformer2DModel(
        in_channels=64, num_layers=2, num_single_layers=2, attention_head_dim=64, num_attention_heads=2,
        joint_attention_dim=64, pooled_projection_dim=32, guidance_embeds=True, axes_dims_rope=(16, 24, 24),
    ).eval().requires_grad_(False)  # fmt: skip
    ours = FluxTransformer(SMALL).eval()
    load_weights(ours, transformer_tensors(reference.state_dict()), "the reference")
    ours = copy.deepcopy(ours)  # fill shares memory, and the reference is changed below
    layers = {name: layer for name, layer in reference.named_modules() if isinstance(layer, nn.Linear)}
    pairs = {name: pair(layer.out_features, layer.in_features, seed=7) for name, layer in layers.items()}
    path = write(tmp_path / "x.safetensors", pairs, peft, alpha=2.0)
    for name, (down, up) in pairs.items():
        layers[name].weight += 2.0 / RANK * up @ down
    generator = torch.Generator().manual_seed(1)
    img, txt, pooled = (torch.randn(shape, generator=generator) for shape in ((2, 6, 64), (2, 4, 64), (2, 32)))
    ids = torch.zeros(6, 3)
    ids[:, 1], ids[:, 2] = torch.arange(6) // 3, torch.arange(6) % 3
    with torch.inference_mode():
        expected = reference(
            img, txt, pooled, torch.tensor([0.7, 0.2]), ids, torch.zeros(4, 3), torch.tensor([3.5, 1.0]),
            return_dict=False,
        )[0]  # fmt: skip
    assert_close(with_adapter(ours, path), expected)


# --- stacks, scales, traces ------------------------------------------------------------------------------------------


def test_a_stack_adds_up_whatever_the_names(tmp_path: Path) -> None:
    first = write(tmp_path / "first", OFFICIAL, kohya)
    pairs, _ = in_parts(list(PARTS))
    second = write(tmp_path / "second", pairs, peft)
    network = merged(OFFICIAL, 0.5)
    for name, (down, up) in pairs.items():
        layer, start, rows, _ = PARTS[name]
        network.get_submodule(layer).weight.data[start : start + rows] += 1.5 * up @ down  # type: ignore[union-attr, index, operator]
    assert_close(with_adapter(transformer(), first, second, scales=(0.5, 1.5)), step(network))


def test_nothing_of_an_adapter_stays(tmp_path: Path) -> None:
    path, network, shelf = write(tmp_path / "x", OFFICIAL, kohya), transformer(), LoraCache(FluxNames())
    before, modules = step(network), dict(network.named_modules())
    with_adapter(network, path, shelf=shelf)
    assert torch.equal(step(network), before)
    assert dict(network.named_modules()) == modules
    assert torch.equal(with_adapter(network, path, scales=(0.0,), shelf=shelf), before)


def test_nothing_stays_either_when_something_goes_wrong() -> None:
    network = transformer()
    modules = dict(network.named_modules())
    adapter = {"img_in": "no branch", "nowhere": "no layer"}
    with pytest.raises(AttributeError), with_loras_applied(network, [(adapter, 1.0)]):  # type: ignore[list-item]
        pass
    assert dict(network.named_modules()) == modules
    with pytest.raises(ZeroDivisionError), with_loras_applied(network, [({"img_in": "no branch"}, 1.0)]):  # type: ignore[dict-item]
        raise ZeroDivisionError
    assert dict(network.named_modules()) == modules


# --- quantised weights -----------------------------------------------------------------------------------------------

WIDE = FluxConfig(
    in_channels=256, out_channels=64, hidden_size=256, heads=2, depth_double=1, depth_single=1, context_dim=256,
    pooled_dim=256, mlp_ratio=1.0,
)  # fmt: skip


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_K", "fp8"])
def test_over_quantised_weights_it_equals_that_over_the_dequantised_ones(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    state = FluxTransformer(WIDE).state_dict()
    matrices = {name for name, tensor in state.items() if tensor.ndim == 2}
    if kind == "fp8":
        tensors = {
            name: tensor.to(torch.float8_e4m3fn) if name in matrices else tensor for name, tensor in state.items()
        }
        save_file(tensors, tmp_path / "x")
    else:
        blocks = {
            name: random_blocks(kind, *state[name].shape, seed=seed) for seed, name in enumerate(sorted(matrices))
        }
        write_gguf(tmp_path / "x", {**state, **blocks}, dict.fromkeys(blocks, kind))
    with torch.device("meta"):
        packed, dense = FluxTransformer(WIDE), FluxTransformer(WIDE)
    for network, expand in ((packed, False), (dense, True)):
        load_weights(network, read_weights(tmp_path / "x"), "x", dtype=torch.bfloat16, expand=expand)
        network.eval().requires_grad_(False)
    assert isinstance(packed.double_blocks[0].img_attn.qkv, PackedLinear)
    assert isinstance(dense.double_blocks[0].img_attn.qkv, nn.Linear)
    pairs = {
        layer: pair(module.out_features, module.in_features)
        for layer, module in dense.named_modules()
        if isinstance(module, nn.Linear)
    }
    path = write(tmp_path / "lora", pairs, kohya)
    made, expected, without = (
        velocity(network, files) for network, files in ((packed, (path,)), (dense, (path,)), (dense, ()))
    )
    assert torch.equal(made, expected)
    assert not torch.equal(made, without)


def velocity(network: FluxTransformer, files: tuple[Path, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    img, txt, pooled = (
        torch.randn(shape, generator=generator).bfloat16() for shape in ((1, 6, 256), (1, 4, 256), (1, 256))
    )
    loras = [LoraWeight(path=str(file)) for file in files]
    shelf = LoraCache(FluxNames())
    beside = shelf.attached("transformer", network, loras, RecordedRun(), dtype=torch.bfloat16, device="cpu")
    with torch.inference_mode(), beside:
        return network(img, txt, pooled, torch.tensor([0.7]), torch.tensor([3.5]), rope(WIDE, 4, 2, 3))


# --- text encoders ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["lora_te1_", "lora_te_", "text_encoder."])
def test_a_text_encoder_has_places_too(tmp_path: Path, prefix: str) -> None:
    torch.manual_seed(0)
    config = ClipConfig(hidden_size=64, mlp_size=128, heads=2, depth=1, vocabulary=20, positions=8, eos_id=19)
    clip = ClipTextEncoder(config).eval().requires_grad_(False)
    layer, ids = "text_model.encoder.layers.0.mlp.fc1", torch.tensor([[3, 4, 19]])
    down, up = pair(128, 64)
    stem = prefix + (layer.replace(".", "_") if prefix.endswith("_") else layer)
    save_file({f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}, tmp_path / "x")
    run = RecordedRun()
    loras = [LoraWeight(path=str(tmp_path / "x"))]
    with LoraCache(FluxNames()).attached("clip_encoder", clip, loras, run, dtype=torch.float32, device="cpu"):
        made = clip(ids)
    clip.get_submodule(layer).weight.data += up @ down  # type: ignore[union-attr, operator]
    assert_close(made, clip(ids))
    with LoraCache(FluxNames()).attached("transformer", transformer(), loras, run, dtype=torch.float32, device="cpu"):
        pass
    assert run.events == []  # a transformer has nothing to say about a text encoder's layers


# --- files that are not as they should be ----------------------------------------------------------------------------


def read(path: Path) -> object:
    return read_lora(path, "transformer", transformer(), FluxNames(), dtype=torch.float32, device="cpu")


def test_keys_that_are_not_understood_are_told_once_per_use(tmp_path: Path) -> None:
    down, up = pair(HIDDEN, 64)
    extra = {f"transformer.unknown.{number}.lora_A.weight": down.clone() for number in range(5)}
    path = tmp_path / "style.safetensors"
    save_file({"img_in.lora_A.weight": down, "img_in.lora_B.weight": up, **extra}, path)
    run, shelf = RecordedRun(), LoraCache(FluxNames())
    for _ in range(2):
        loras = [LoraWeight(path=str(path))]
        with shelf.attached("transformer", transformer(), loras, run, dtype=torch.float32, device="cpu"):
            pass
    assert len(run.events) == 2
    assert run.events[0] == run.events[1]
    assert isinstance(run.events[0], Info)
    assert run.events[0].message.startswith(
        "style.safetensors: the model has no place for transformer.unknown.0.lora_A"
    )
    assert run.events[0].message.endswith(" and 2 more; ignored")


A, B = "img_in.lora_A.weight", "img_in.lora_B.weight"
OTHER = "layers.0.to_q"


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({A: (4, 64)}, r"img_in\.lora_A\.weight has no counterpart"),
        ({B: (128, 4)}, r"img_in\.lora_B\.weight has no counterpart"),
        ({A: (4, 65), B: (128, 4)}, r"lora_A\.weight has the shape \[4, 65\] where \[4, 64\]"),
        ({A: (4, 64), B: (129, 4)}, r"lora_B\.weight has the shape \[129, 4\] where \[128, 4\]"),
        ({A: (4, 64), B: (128, 5)}, r"lora_B\.weight has the shape \[128, 5\] where \[128, 4\]"),
        ({A: (0, 64), B: (128, 0)}, r"has the shape \[0, 64\]"),
        ({A: (4,), B: (128, 4)}, r"has the shape \[4\]"),
        ({A: (4, 64), B: (128, 4), "img_in.alpha": (2,)}, r"img_in\.alpha must be one finite number"),
        ({"img_in.weight": (128, 64)}, r"no LoRA weights; it contains img_in\.weight"),
        (
            {f"{OTHER}.lora_A.weight": (4, 64), f"{OTHER}.lora_B.weight": (64, 4)},
            r"another model: no layer matches .*layers\.0\.to_q",
        ),
        ({A: (4, 192), B: (128, 4)}, r"lora_A\.weight has the shape \[4, 192\] .*control images"),
        (
            {"final_layer.linear.lora_A.weight": (4, 256), "final_layer.linear.lora_B.weight": (64, 4)},
            r"lora_A\.weight has the shape \[4, 256\] .*control images",
        ),
        ({A: (4, 64), B: (128, 4), "img_in.dora_scale": (127,)}, r"img_in\.dora_scale .*fits neither"),
        ({"lora_unet_img_in.hada_w1_a": (4, 4)}, r"img_in\.hada_w1_a has no counterpart"),
        ({"lora_unet_img_in.oft_diag": (4, 4)}, r"img_in\.oft_diag is not understood"),
        (
            {A: (4, 64), B: (128, 4), "img_in.vera_lambda": (4,)},
            r"img_in\.vera_lambda .*the model has the layer img_in",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_an_error_that_names_the_key(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], message: str
) -> None:
    path = tmp_path / "x.safetensors"
    save_file({name: torch.ones(shape) for name, shape in shapes.items()}, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"junk" * 10, b"\x80\x04pickle"])
def test_a_file_that_is_none_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        read(tmp_path / "x.safetensors")


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_adapters_are_kept_up_to_so_many_bytes(tmp_path: Path) -> None:
    files = [write(tmp_path / str(number), OFFICIAL, kohya) for number in range(4)]
    network, one = transformer(), read(files[0]).size_bytes  # type: ignore[attr-defined]
    shelf = LoraCache(FluxNames(), limit_bytes=2 * one + 1)
    for file in files:
        with_adapter(network, file, shelf=shelf)
    assert shelf.size_bytes == 2 * one
    small = LoraCache(FluxNames(), limit_bytes=one - 1)
    expected = with_adapter(network, files[0])
    assert torch.equal(with_adapter(network, files[0], shelf=small), expected)
    assert small.size_bytes == 0


def test_a_file_that_was_changed_is_read_again(tmp_path: Path) -> None:
    network, shelf, path = transformer(), LoraCache(FluxNames()), tmp_path / "x"
    first = with_adapter(network, write(path, OFFICIAL, kohya), shelf=shelf)
    os.utime(write(path, {"img_in": OFFICIAL["img_in"]}, kohya), ns=(1, 1))
    second = with_adapter(network, path, shelf=shelf)
    assert not torch.equal(first, second)
    assert torch.equal(second, with_adapter(network, path))


def test_what_is_kept_does_not_hang_on_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "x", {name: (d.bfloat16(), u.bfloat16()) for name, (d, u) in OFFICIAL.items()}, kohya)
    adapter = read_lora(path, "transformer", transformer(), FluxNames(), dtype=torch.bfloat16, device="cpu")
    before = [tensor.clone() for tensor in adapter.tensors()]
    with path.open("r+b") as file:
        file.truncate(100)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(adapter.tensors(), before, strict=True))


def test_compiled_blocks_compute_with_each_stack_and_without(tmp_path: Path) -> None:
    first = write(tmp_path / "first", OFFICIAL, kohya)
    second = write(tmp_path / "second", {"double_blocks.0.img_attn.qkv": pair(3 * HIDDEN, HIDDEN, seed=9)}, bfl)
    stacks = [(), (first,), (), (second,), (first, second), ()]
    expected = [with_adapter(transformer(), *files, scales=(0.5,) * len(files)) for files in stacks]
    network = transformer()
    compile_blocks(network, backend="eager")
    for files, wanted in zip(stacks, expected, strict=True):
        assert_close(with_adapter(network, *files, scales=(0.5,) * len(files)), wanted)
