"""Files of ncnn give the network that they were made of; other networks and damaged files are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ncnn_models import Graph, compact, rrdb
from torch import nn

from mold_core import CheckpointError, Engine, FileUpscaleRequest, Settings
from mold_core.hookspecs import LoadContext
from mold_core.upscaling.loading import load_network
from mold_esrgan.architectures import RRDB, Compact
from mold_esrgan.configs import CompactConfig, RRDBConfig
from mold_esrgan.ncnn_files import NcnnLoader
from mold_esrgan.networks import RRDBNet, SRVGGNetCompact


@pytest.fixture(scope="module")
def networks() -> dict[str, tuple[nn.Module, Graph]]:
    torch.manual_seed(4)
    large = RRDBNet(RRDBConfig(blocks=2, features=8, growth=4))
    small = SRVGGNetCompact(CompactConfig(features=8, convs=3, scale=4))
    return {
        "RRDBNet": (large, rrdb(large, fp16=False)),
        "RRDBNet in fp16": (large, rrdb(large, fp16=True)),
        "RRDBNet of pnnx": (large, rrdb(large, fp16=True, separate=True)),
        "SRVGGNetCompact": (small, compact(small, fp16=False)),
        "SRVGGNetCompact in fp16": (small, compact(small, fp16=True)),
    }


@pytest.mark.parametrize(
    "name", ["RRDBNet", "RRDBNet in fp16", "RRDBNet of pnnx", "SRVGGNetCompact", "SRVGGNetCompact in fp16"]
)
@pytest.mark.parametrize("suffix", [".param", ".bin"])
def test_a_network_of_ncnn_enlarges_as_the_one_it_was_made_of(
    name: str, suffix: str, networks: dict[str, tuple[nn.Module, Graph]], tmp_path: Path
) -> None:
    network, graph = networks[name]
    path = graph.write(tmp_path).with_suffix(suffix)
    context = LoadContext(
        device="cpu", threads=1, cache_dir=tmp_path, report=lambda event: None, loaders=(NcnnLoader(),)
    )
    loaded = load_network(path, [RRDB(), Compact()], context)
    pixels = torch.rand(1, 3, 20, 16)
    with torch.inference_mode():
        expected = network(pixels)
    assert loaded.scale == 4
    assert (loaded.module(pixels) - expected).abs().max() < 0.02


def test_a_model_with_such_a_file_upscales_an_image(
    networks: dict[str, tuple[nn.Module, Graph]], home: Path, tmp_path: Path
) -> None:
    from PIL import Image

    path = networks["SRVGGNetCompact"][1].write(tmp_path)
    home.mkdir()
    (home / "config.toml").write_text(
        f'[models."upscayl:x4"]\nlike = "real-esrgan-x4plus:fp16"\nfiles = {{ upscaler = "{path.as_posix()}" }}\n'
    )
    Image.new("RGB", (20, 16), "red").save(tmp_path / "a.png")
    with Engine(Settings.load({"device": "cpu"})) as engine:
        engine.upscale(FileUpscaleRequest(source=tmp_path / "a.png", target=tmp_path / "b.png", model="upscayl"))
    with Image.open(tmp_path / "b.png") as image:
        assert image.size == (80, 64)


def test_mold_info_says_what_the_files_are(
    networks: dict[str, tuple[nn.Module, Graph]], mold: Any, tmp_path: Path
) -> None:
    path = networks["RRDBNet in fp16"][1].write(tmp_path)
    answer = mold("info", path).stdout
    assert "RRDBNet upscaler" in answer and "mold upscale runs it" in answer


def without(lines: list[str], kind: str) -> list[str]:
    index = next(index for index, line in enumerate(lines) if line.startswith(kind))
    return lines[:index] + lines[index + 1 :]


DAMAGES = {
    "another layer": (lambda g: g.lines.append("Sigmoid s 1 1 a b"), "layers of type Sigmoid"),
    "a residual less": (lambda g: setattr(g, "lines", without(g.lines, "Eltwise")), "residuals are others"),
    "a convolution less": (lambda g: setattr(g, "lines", without(g.lines, "Convolution")), "blocks with 15 each"),
    "weights cut off": (lambda g: setattr(g, "weights", g.weights[:-40]), "ends too early"),
    "weights of another": (lambda g: setattr(g, "weights", g.weights + bytes(400)), "not the size"),
    "int8": (lambda g: setattr(g, "weights", b"\x38\x4b\x0d\0" + g.weights[4:]), "int8 weights"),
    "infinite numbers": (
        lambda g: setattr(g, "lines", [line.replace(" 0=8", " 0=inf") for line in g.lines]),
        "damaged",
    ),
    "no numbers": (lambda g: g.lines.append("Concat x one two"), "damaged"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_no_such_network_is_refused(name: str, tmp_path: Path) -> None:
    damage, words = DAMAGES[name]
    graph = rrdb(RRDBNet(RRDBConfig(blocks=1, features=8, growth=4)), fp16=True)
    damage(graph)
    with pytest.raises(CheckpointError, match=words):
        NcnnLoader().open(graph.write(tmp_path))


def test_a_network_that_shrinks_its_result_is_refused_with_the_way_out(tmp_path: Path) -> None:
    graph = compact(SRVGGNetCompact(CompactConfig(features=8, convs=1, scale=4)), fp16=True)
    graph.layer("Interp", 1, "0=3 1=5.0e-01 2=5.0e-01")
    with pytest.raises(CheckpointError, match="enlarges 4 times and then shrinks the result to 2 times; use the file"):
        NcnnLoader().open(graph.write(tmp_path))


def test_a_graph_without_its_weights_is_refused(tmp_path: Path) -> None:
    path = compact(SRVGGNetCompact(CompactConfig(features=8, convs=1, scale=4)), fp16=True).write(tmp_path)
    path.with_suffix(".bin").unlink()
    with pytest.raises(CheckpointError):
        NcnnLoader().open(path)
