"""FLUX.1 from GGUF and fp8 files: the dense model's numbers, its image, and the size of the file in memory."""

from __future__ import annotations

import io
import tomllib
from collections.abc import Mapping
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
from gguf_files import QUANTISED, expanded, random_blocks, write_gguf
from nano_formats import replace_model
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from mold_core import CheckpointError, Engine, GenerateRequest, LoadContext, ModelSpec, Settings
from mold_core.catalog import ModelStore
from mold_core.weights import PackedEmbedding, PackedLinear, PackedTensor, load_weights, read_weights, type_named
from mold_flux import loading
from mold_flux.checkpoints import t5_config, t5_tensors, transformer_config, transformer_tensors
from mold_flux.family import FluxFamily
from mold_flux.pipeline import FluxPipeline
from mold_flux.plugin import CATALOG
from mold_flux.text_encoders import T5Config, T5Encoder
from mold_flux.transformer import FluxConfig, FluxTransformer, rope

NANO = "flux-nano:bf16"

# As small as K-quants' rows of 256 numbers and FLUX's heads of 128 channels allow.
SMALL = FluxConfig(
    in_channels=256, out_channels=64, hidden_size=256, heads=2, depth_double=1, depth_single=1, context_dim=256,
    pooled_dim=256, mlp_ratio=1.0,
)  # fmt: skip
T5 = T5Config(hidden_size=256, mlp_size=512, heads=4, head_dim=64, depth=2, vocabulary=40, buckets=32)

GGUF_T5_NAMES = {
    "SelfAttention.q": "attn_q", "SelfAttention.k": "attn_k", "SelfAttention.v": "attn_v", "SelfAttention.o": "attn_o",
    "SelfAttention.relative_attention_bias": "attn_rel_b", "layer.0.layer_norm": "attn_norm",
    "DenseReluDense.wi_0": "ffn_gate", "DenseReluDense.wi_1": "ffn_up", "DenseReluDense.wo": "ffn_down",
    "layer.1.layer_norm": "ffn_norm",
}  # fmt: skip


def gguf_t5_name(name: str) -> str:
    """Return llama.cpp's name of a tensor of T5."""
    top = {"shared.weight": "token_embd.weight", "encoder.final_layer_norm.weight": "enc.output_norm.weight"}
    if name in top:
        return top[name]
    number = name.split(".")[2]
    inner = next(theirs for ours, theirs in GGUF_T5_NAMES.items() if f"{ours}." in name)
    return f"enc.blk.{number}.{inner}.weight"


def is_matrix(name: str, tensor: Tensor) -> bool:
    return name.endswith(".weight") and tensor.ndim == 2 and "rel" not in name


def write_random(path: Path, state: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Write a state with random blocks for its matrices; return the state with gguf-py's numbers for them."""
    blocks = {
        name: random_blocks(kind, *tensor.shape, seed=seed)
        for seed, (name, tensor) in enumerate(state.items())
        if is_matrix(name, tensor)
    }
    write_gguf(path, {**state, **blocks}, dict.fromkeys(blocks, kind))
    return {**state, **{name: expanded(rows, kind) for name, rows in blocks.items()}}


def step(transformer: FluxTransformer, dtype: torch.dtype) -> Tensor:
    """Return a step's velocity for fixed inputs."""
    generator = torch.Generator().manual_seed(1)
    img, txt, pooled = (
        torch.randn(shape, generator=generator).to(dtype) for shape in ((1, 6, 256), (1, 4, 256), (1, 256))
    )
    with torch.inference_mode():
        return transformer(img, txt, pooled, torch.tensor([0.7]), torch.tensor([3.5]), rope(SMALL, 4, 2, 3))


@pytest.mark.parametrize("kind", QUANTISED)
def test_a_gguf_transformer_equals_the_dense_one(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    state = FluxTransformer(SMALL).state_dict()
    dense_state = write_random(tmp_path / "x.gguf", state, kind)
    tensors = transformer_tensors(read_weights(tmp_path / "x.gguf"))
    config = transformer_config({name: tensor.shape for name, tensor in tensors.items()})
    assert config == SMALL
    with torch.device("meta"):
        packed, dense = FluxTransformer(config), FluxTransformer(config)
    load_weights(packed, tensors, "x", dtype=torch.bfloat16)
    load_weights(dense, dense_state, "x", dtype=torch.bfloat16)
    assert isinstance(packed.double_blocks[0].img_attn.qkv, PackedLinear)
    assert torch.equal(step(packed, torch.bfloat16), step(dense, torch.bfloat16))


@pytest.mark.parametrize("kind", ["Q8_0", "Q5_K"])
def test_a_gguf_t5_equals_the_dense_one(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    network = T5Encoder(T5)
    names = {gguf_t5_name(name): name for name in network.state_dict()}
    state = {theirs: network.state_dict()[ours] for theirs, ours in names.items()}
    dense_state = write_random(tmp_path / "x", state, kind)
    tensors = t5_tensors(read_weights(tmp_path / "x"))
    assert t5_config({name: tensor.shape for name, tensor in tensors.items()}) == T5
    with torch.device("meta"):
        packed, dense = T5Encoder(T5), T5Encoder(T5)
    load_weights(packed, tensors, "x", dtype=torch.bfloat16)
    load_weights(dense, {names[name]: tensor for name, tensor in dense_state.items()}, "x", dtype=torch.bfloat16)
    assert isinstance(packed.shared, PackedEmbedding)
    ids = torch.tensor([[3, 39, 1, 0, 0, 7]])
    with torch.inference_mode():
        assert torch.equal(packed(ids), dense(ids))


# --- whole images ---------------------------------------------------------------------------------------------------


@pytest.fixture
def nano() -> ModelSpec:
    with Engine(Settings(device="cpu")) as engine:
        return engine.resolve(NANO)


def file_of(spec: ModelSpec, component: str) -> Path:
    return ModelStore(Path()).files_of(spec).one(component)


def with_file(spec: ModelSpec, component: str, path: Path, **options: object) -> ModelSpec:
    """Return the model with another file, and with options added."""
    files = tuple(attrs.evolve(file, path=str(path)) if file.component == component else file for file in spec.files)
    return attrs.evolve(spec, files=files, options={**spec.options, **options})


def image(spec: ModelSpec, **settings: object) -> np.ndarray:
    with Engine(Settings(device="cpu", **settings)) as engine:
        replace_model(engine, spec)
        request = GenerateRequest(prompt="a red house under a yellow moon", model=NANO, seed=7)
        data = engine.generate(request).images[0].data
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def load(spec: ModelSpec) -> FluxPipeline:
    context = LoadContext(device="cpu", threads=1, cache_dir=Path(), report=lambda event: None)
    pipeline = FluxFamily().load(spec, ModelStore(Path()).files_of(spec), context)
    assert isinstance(pipeline, FluxPipeline)
    return pipeline


def as_gguf(spec: ModelSpec, component: str, path: Path, kind: str, *, without: tuple[str, ...] = ()) -> Path:
    state = load_file(file_of(spec, component))
    if component == "t5_encoder":
        state = {gguf_t5_name(name): tensor for name, tensor in state.items()}
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(without or ("-",))}
    write_gguf(path, kept, {name: kind for name, tensor in kept.items() if is_matrix(name, tensor)})
    return path


def assert_nearly_same(left: np.ndarray, right: np.ndarray, mean: float) -> None:
    """Assert that images differ by so many of 255 levels in the mean, and nowhere by much."""
    difference = np.abs(left - right)
    assert difference.mean() < mean
    assert np.quantile(difference, 0.99) < 20 * mean


def test_nano_as_q8_gguf_draws_the_same_image(nano: ModelSpec, tmp_path: Path) -> None:
    spec = with_file(nano, "transformer", as_gguf(nano, "transformer", tmp_path / "nano.gguf", "Q8_0"))
    spec = with_file(spec, "t5_encoder", as_gguf(nano, "t5_encoder", tmp_path / "t5.gguf", "Q8_0"))
    drawn = image(spec)
    assert_nearly_same(drawn, image(nano), mean=1.5)
    assert (image(with_file(spec, "vae", file_of(nano, "vae"), expand=True)) == drawn).all()


def test_nano_as_q4_gguf_draws_nearly_the_same_image(nano: ModelSpec, tmp_path: Path) -> None:
    spec = with_file(nano, "transformer", as_gguf(nano, "transformer", tmp_path / "nano.gguf", "Q4_0"))
    assert_nearly_same(image(spec), image(nano), mean=8)


def test_memory_is_what_the_file_takes(nano: ModelSpec, tmp_path: Path) -> None:
    path = as_gguf(nano, "transformer", tmp_path / "nano.gguf", "Q4_0")
    packed = load(with_file(nano, "transformer", path))
    with packed.components.use("transformer", print) as transformer:
        size_bytes = sum(tensor.numel() * tensor.element_size() for tensor in transformer.state_dict().values())
    assert size_bytes == pytest.approx(path.stat().st_size, rel=0.1)
    dense = load(with_file(nano, "transformer", path, expand=True))
    assert dense.size_bytes - packed.size_bytes > 1.5 * size_bytes


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_quantised_blocks_are_streamed_as_they_are(nano: ModelSpec, tmp_path: Path, kind: str) -> None:
    spec = with_file(nano, "transformer", as_gguf(nano, "transformer", tmp_path / "nano.gguf", kind))
    spec = with_file(spec, "t5_encoder", as_gguf(nano, "t5_encoder", tmp_path / "t5.gguf", kind))
    assert (image(spec, memory_strategy="offload") == image(spec)).all()


def to_fp8(path: Path, state: Mapping[str, Tensor], scale_name: str | None) -> Path:
    """Write a state with its matrices in fp8: with scales as the published files have them, or without."""
    written: dict[str, Tensor] = {} if scale_name is None else {"scaled_fp8": torch.empty(2).to(torch.float8_e4m3fn)}
    for name, tensor in state.items():
        if not is_matrix(name, tensor):
            written[name] = tensor
        elif scale_name is None:
            written[name] = tensor.to(torch.float8_e4m3fn)
        else:
            scale = tensor.float().abs().max() / 448
            written[name] = (tensor.float() / scale).to(torch.float8_e4m3fn)
            written[f"{name.removesuffix('weight')}{scale_name}"] = scale
            written[f"{name.removesuffix('weight')}input_scale"] = torch.ones(())
    save_file(written, path)
    return path


@pytest.mark.parametrize("scale_name", [None, "scale_weight", "weight_scale"])
def test_nano_in_fp8_draws_nearly_the_same_image(nano: ModelSpec, tmp_path: Path, scale_name: str | None) -> None:
    spec = nano
    for component in ("transformer", "t5_encoder"):
        path = to_fp8(tmp_path / component, load_file(file_of(nano, component)), scale_name)
        spec = with_file(spec, component, path)
    with load(spec).components.use("transformer", print) as transformer:
        assert isinstance(transformer.img_in, PackedLinear)
    assert_nearly_same(image(spec), image(nano), mean=6)


# --- embedding layers of another model --------------------------------------------------------------------------------

EMBEDDINGS = ("img_in.", "time_in.", "vector_in.", "txt_in.")


def test_a_gguf_file_without_embeddings_takes_them_from_a_donor(nano: ModelSpec, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = as_gguf(nano, "transformer", tmp_path / "whole" / "nano.gguf", "Q8_0")
    (tmp_path / "bare").mkdir()
    as_gguf(nano, "transformer", tmp_path / "bare" / "nano.gguf", "Q8_0", without=EMBEDDINGS)
    others = tuple(
        attrs.evolve(
            file, path="bare/nano.gguf" if file.component == "transformer" else str(file_of(nano, file.component))
        )
        for file in nano.files
    )
    donors = {"donors": ["absent/nano.gguf", "whole/nano.gguf"]}
    bare = attrs.evolve(nano, files=others, root=tmp_path, options={**nano.options, **donors})
    assert (image(bare) == image(with_file(nano, "transformer", whole))).all()


@pytest.mark.parametrize("variant", ["dev", "schnell"])
def test_without_a_donor_the_error_says_what_to_pull(nano: ModelSpec, tmp_path: Path, variant: str) -> None:
    path = as_gguf(nano, "transformer", tmp_path / "bare.gguf", "Q8_0", without=EMBEDDINGS)
    with pytest.raises(CheckpointError, match=rf"bare\.gguf: this file lacks .*; mold pull flux-{variant}:q8 fetches"):
        load(with_file(nano, "transformer", path, variant=variant))


def test_the_donors_are_transformers_of_the_catalog() -> None:
    models = tomllib.loads(CATALOG.read_text("utf-8"))["model"]
    places = {file["path"] for model in models for file in model["files"] if file["component"] == "transformer"}
    for variant, donors in loading._DONORS.items():
        assert places.issuperset(donors)
        assert all(variant in donor for donor in donors)


def test_a_quantised_layer_of_another_shape_is_named(nano: ModelSpec, tmp_path: Path) -> None:
    state = load_file(file_of(nano, "transformer"))
    name = "single_blocks.0.linear2.weight"
    state[name] = state[name][:, :64].contiguous()
    write_gguf(tmp_path / "x.gguf", state, {name: "Q8_0"})
    with pytest.raises(
        CheckpointError, match=r"x\.gguf does not match the model: it has single_blocks\.0\.linear2\.weight"
    ):
        load(with_file(nano, "transformer", tmp_path / "x.gguf"))


def test_a_diffusers_layout_in_fp8_is_joined_as_it_is() -> None:
    def part(rows: int, scale: float) -> PackedTensor:
        data = torch.randn(rows, 32).to(torch.float8_e4m3fn).view(torch.uint8)
        return PackedTensor(data=data, type=type_named("F8_E4M3"), shape=(rows, 32), scale=torch.tensor(scale))

    parts = {
        f"transformer_blocks.0.attn.to_{one}.weight": part(32, scale)
        for one, scale in zip("qkv", (1, 2, 3), strict=True)
    }
    joined = transformer_tensors(parts)["double_blocks.0.img_attn.qkv.weight"]
    assert isinstance(joined, PackedTensor)
    assert torch.equal(joined.expand(), torch.cat([tensor.expand() for tensor in parts.values()]))
