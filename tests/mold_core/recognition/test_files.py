"""Files: formats of their weights, shards, what cannot be read, and what mold makes of them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from real_files import layout, shapes_of, write_real
from safetensors.torch import save_file
from torch import zeros

from mold_core import Plugins
from mold_core.catalog import ModelStore
from mold_core.recognition import Knowledge, recognise, recognise_shards
from mold_core.recognition.cache import RecognitionCache
from mold_core.recognition.formats import tag_of
from mold_core.recognition.naming import free_name, model_name
from mold_core.recognition.verdict import verdict_on
from mold_core.recognition.walk import name_of, walk

SMALL = {"img_in.weight": (160, 64), "txt_in.weight": (160, 128), "vector_in.in_layer.bias": (160,)}


@pytest.mark.parametrize(
    ("stored", "format", "tag"),
    [
        ("bf16", "bf16", "bf16"),
        ("fp16", "fp16", "fp16"),
        ("fp32", "fp32", "fp32"),
        ("fp8", "fp8 e4m3", "fp8"),
        ("fp8_scaled", "fp8 scaled", "fp8"),
        ("int8_convrot", "int8 convrot", "int8"),
        ("nvfp4", "nvfp4", "nvfp4"),
        ("Q4_K", "Q4_K", "q4"),
        ("Q8_0", "Q8_0", "q8"),
    ],
)
def test_the_format_of_weights_is_named(
    stored: str, format: str, tag: str, tmp_path: Path, knowledge: Knowledge
) -> None:
    file = write_real(tmp_path / "weights", layout("z-image"), stored)
    found = recognise(file, knowledge)
    assert found.title == f"Z-Image transformer, {format}"
    assert tag_of(format) == tag
    assert found.problem is None


def test_other_quantisations_are_named_by_their_tensors(tmp_path: Path, knowledge: Knowledge) -> None:
    for name, format in (
        ("weight.quant_state.bitsandbytes__nf4", "nf4"),
        ("qzeros", "awq int4"),
        ("weight._data", "quanto"),
        ("smooth_factor", "svdquant int4"),
    ):
        save_file({"img_in.weight": zeros(2, 2), f"layer.{name}": zeros(2)}, tmp_path / "file.safetensors")
        (network,) = recognise(tmp_path / "file.safetensors", knowledge).networks
        assert network.format == format


@pytest.mark.parametrize(
    ("stem", "tag", "name"),
    [
        ("z-image-turbo-int8-convrot", "int8", "z-image-turbo:int8"),
        ("qwen_image_2.1_turbo_int8_convrot", "int8", "qwen-image-2.1-turbo:int8"),
        ("flux1-dev-Q4_K_S", "q4", "flux1-dev:q4"),
        ("flux1-dev-kontext_fp8_scaled", "fp8", "flux1-dev-kontext:fp8"),
        ("t5xxl_fp8_e4m3fn_scaled", "fp8", "t5xxl:fp8"),
        ("juggernautXL_v9Rdphoto2Lightning", "fp16", "juggernautxl-v9rdphoto2lightning:fp16"),
        ("wan2.2_ti2v_5B_fp16", "fp16", "wan2.2-ti2v-5b:fp16"),
        ("fp16", "fp16", "fp16:fp16"),
        ("模型", "bf16", "model:bf16"),
    ],
)
def test_a_name_is_that_of_the_file_without_its_format(stem: str, tag: str, name: str) -> None:
    assert model_name(stem, tag) == name


def test_a_name_that_is_taken_gets_a_number() -> None:
    assert free_name("a:q4", {"a:q4", "a-2:q4"}) == "a-3:q4"
    assert free_name("a:q8", {"a:q4"}) == "a:q8"


def test_a_file_that_says_nothing_is_named_by_its_folder() -> None:
    snapshot = Path("/hub/models--Tongyi-MAI--Z-Image-Turbo/snapshots") / ("0" * 40)
    assert name_of(snapshot / "transformer" / "diffusion_pytorch_model-00001-of-00003.safetensors") == "Z-Image-Turbo"
    assert name_of(snapshot / "vae" / "diffusion_pytorch_model.fp16.safetensors") == "Z-Image-Turbo-fp16"
    assert name_of(Path("/models/my-lora/pytorch_lora_weights.safetensors")) == "my-lora"
    assert name_of(Path("/models/loras/detail.safetensors")) == "detail"


def test_shards_are_one_set_of_weights(tmp_path: Path, knowledge: Knowledge) -> None:
    shapes = list(layout("z-image").items())
    for number, part in enumerate((shapes[:200], shapes[200:]), start=1):
        write_real(tmp_path / f"model-0000{number}-of-00002.safetensors", dict(part), "bf16")
    (weights,) = walk(tmp_path)
    assert recognise_shards(weights.paths, knowledge).title == "Z-Image transformer, bf16"
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    (weights,) = walk(tmp_path)
    assert recognise_shards(weights.paths, knowledge).problem == "1 of its 2 shards are missing"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "the file is empty"),
        (b"PK\x03\x04" + bytes(80), "a pickle file"),
        (b"\x80\x02}q\x00." + bytes(80), "a pickle file"),
        (b"SQLite format 3\0" + bytes(80), "Draw Things"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"<!doctype html><title>401</title>" + bytes(60), "a web page"),
        (b"7767517\n3 3\nInput data 0 1 data\n", "ncnn"),
        (struct.pack("<Q", 40) + b"{" + bytes(80), "not a JSON object"),
    ],
)
def test_what_is_no_weight_file_is_named(content: bytes, problem: str, tmp_path: Path, knowledge: Knowledge) -> None:
    (tmp_path / "file.param").write_bytes(content)
    found = recognise(tmp_path / "file.param", knowledge)
    assert problem in str(found.problem)
    assert found.networks == ()


@pytest.mark.parametrize(
    "entry",
    [
        '"dtype": "U8", "shape": [Infinity], "data_offsets": [0, 4]',
        '"dtype": "U8", "shape": [4], "data_offsets": [0.0, 4.0]',
        '"dtype": "U8", "shape": [4], "data_offsets": [-8, -4]',
        f'"dtype": "U8", "shape": [4], "data_offsets": [{2**70}, {2**70 + 4}]',
    ],
)
def test_numbers_of_a_header_that_fit_no_file_are_a_problem(entry: str, tmp_path: Path, knowledge: Knowledge) -> None:
    text = f'{{"layer.comfy_quant": {{{entry}}}}}'.encode()
    (tmp_path / "file.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))
    assert "lacks dtype, shape or offsets" in str(recognise(tmp_path / "file.safetensors", knowledge).problem)


def test_a_note_on_quantisation_that_is_none_is_ignored(tmp_path: Path, knowledge: Knowledge) -> None:
    tensors = {name: zeros(shape) for name, shape in SMALL.items()}
    save_file(tensors, tmp_path / "file.safetensors", {"_quantization_metadata": '{"layers": {"a": 5, "b": [1]}}'})
    assert recognise(tmp_path / "file.safetensors", knowledge).title == "flux-nano transformer, fp32"


def test_a_problem_is_not_remembered(tmp_path: Path, knowledge: Knowledge) -> None:
    graph = tmp_path / "models" / "x.param"
    graph.parent.mkdir()
    graph.write_bytes(b"7767517\n3 3\nInput data 0 1 data\n")
    (weights,) = walk(graph.parent)
    cache = RecognitionCache(tmp_path / "cache.json", knowledge)
    assert "are missing" in str(cache.recognise(weights).problem)
    cache.save()
    graph.with_suffix(".bin").write_bytes(b"GG")
    (weights,) = walk(graph.parent)
    again = RecognitionCache(tmp_path / "cache.json", knowledge).recognise(weights)
    assert "are missing" not in str(again.problem)


def test_the_weights_of_an_ncnn_network_are_part_of_its_stamp(tmp_path: Path) -> None:
    (tmp_path / "x.param").write_bytes(b"7767517\n")
    (tmp_path / "x.bin").write_bytes(b"1234")
    (before,) = walk(tmp_path)
    (tmp_path / "x.bin").unlink()
    (after,) = walk(tmp_path)
    assert before.stamp != after.stamp


def test_a_type_that_mold_cannot_load_does_not_hide_what_the_file_is(
    tmp_path: Path, knowledge: Knowledge, plugins: Plugins
) -> None:
    header = {name: {"dtype": "F4_NEW", "shape": list(shape), "data_offsets": [0, 0]} for name, shape in SMALL.items()}
    text = json.dumps(header).encode()
    (tmp_path / "file.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    found = recognise(tmp_path / "file.safetensors", knowledge)
    assert found.title == "flux-nano transformer, f4_new"
    verdict = verdict_on(found, knowledge, plugins, ModelStore(tmp_path))
    assert verdict.runs is False
    assert "F4_NEW" in verdict.reason


def test_a_file_that_is_cut_short_says_so(tmp_path: Path, knowledge: Knowledge) -> None:
    file = write_real(tmp_path / "file.safetensors", layout("clip-l"), "bf16")
    with file.open("r+b") as opened:
        opened.truncate(100_000_000)
    assert "bytes are missing" in str(recognise(file, knowledge).problem)


def test_a_verdict_says_what_runs_a_file_and_what_is_missing(
    tmp_path: Path, knowledge: Knowledge, plugins: Plugins
) -> None:
    store = ModelStore(tmp_path / "models")
    dev = recognise(write_real(tmp_path / "flux.gguf", layout("flux-dev"), "Q8_0"), knowledge)
    verdict = verdict_on(dev, knowledge, plugins, store)
    assert verdict.runs
    assert {need.component for need in verdict.needs if need.path is None} == {
        "vae", "t5_encoder", "clip_encoder", "t5_tokenizer", "clip_tokenizer",
    }  # fmt: skip
    whole = recognise(write_real(tmp_path / "all.safetensors", shapes_of("flux-whole"), "fp8"), knowledge)
    verdict = verdict_on(whole, knowledge, plugins, store)
    assert {need.component for need in verdict.needs if need.path is None} == {"t5_tokenizer", "clip_tokenizer"}
    chroma = recognise(write_real(tmp_path / "chroma.safetensors", layout("chroma"), "bf16"), knowledge)
    assert verdict_on(chroma, knowledge, plugins, store).reason == "no installed plugin runs Chroma (transformer)"
