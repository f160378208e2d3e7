"""The check that an upscaler keeps the promises of `mold_core.hookspecs`. It imports torch when it is called."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mold_core.errors import CheckpointError
from mold_core.hookspecs import LoadContext, UpscalerArchitecture, UpscalerNetwork
from mold_core.testing.conformance import check_import
from mold_core.weights import open_weights

if TYPE_CHECKING:
    from torch import Tensor

    from mold_core.weights import TensorSource

__all__ = ["check_upscaler"]


def check_upscaler(
    architecture: UpscalerArchitecture,
    weights: Path,
    *,
    tolerance: float = 1.5 / 255,
    tile: int = 64,
    device: str = "cpu",
    module: str | None = None,
) -> None:
    """Raise AssertionError, saying what is wrong, unless the architecture keeps its promises with this weight file.

    Checked are: its module is cheap to import; it recognises the file's tensors and no others, and says by a
    CheckpointError that one is missing; the network makes images of every size it is asked for `scale` times as
    large, leaves its input as it is, gives the same pixels again, in a batch and loaded again; images made in tiles of
    `tile` pixels differ from whole ones by at most `tolerance` (of a range of 1).
    """
    check_import(module or type(architecture).__module__)
    tensors = open_weights(weights)
    _check_recognising(architecture, tensors)
    with tempfile.TemporaryDirectory(prefix="mold-check-") as folder:
        context = LoadContext(device=device, threads=None, cache_dir=Path(folder), report=lambda event: None)
        _check_missing(architecture, tensors, context)
        first, second = (architecture.load(tensors, context) for _ in "12")
        try:
            _check_description(first)
            _check_pixels(first, second, device)
            _check_tiles(first, device, tile, tolerance)
        finally:
            first.close()
            second.close()


def _check_recognising(architecture: UpscalerArchitecture, tensors: Mapping[str, TensorSource]) -> None:
    assert architecture.name, "the architecture has no name"
    assert architecture.recognises(tensors), f"{architecture.name} does not recognise its own file"
    strange = {f"of.another.kind.{name}": tensor for name, tensor in tensors.items()}
    for others in ({}, strange):
        assert not architecture.recognises(others), f"{architecture.name} recognises tensors with names of others"


def _check_missing(
    architecture: UpscalerArchitecture, tensors: Mapping[str, TensorSource], context: LoadContext
) -> None:
    name = list(tensors)[-1]
    fewer = {other: tensor for other, tensor in tensors.items() if other != name}
    if not architecture.recognises(fewer):
        return
    try:
        architecture.load(fewer, context).close()
    except CheckpointError:
        return
    raise AssertionError(f"it loaded a file without {name}; raise CheckpointError")


def _check_description(network: UpscalerNetwork) -> None:
    assert network.scale >= 1 and network.multiple >= 1 and network.min_side >= 1, "scale, multiple, min_side: from 1"
    assert 0 <= network.feather <= network.overlap, "feather lies within overlap"
    assert network.tile > 2 * network.overlap, f"tiles of {network.tile} pixels are all overlap"
    assert isinstance(network.size_bytes, int) and network.size_bytes > 0, "size_bytes is the weights' size in memory"
    assert network.bytes_per_pixel > 0, "bytes_per_pixel is the memory at work for a pixel"


def _check_pixels(first: UpscalerNetwork, second: UpscalerNetwork, device: str) -> None:
    import torch

    unit = first.multiple
    smallest = -(-first.min_side // unit) * unit
    for height, width in ((smallest, smallest), (smallest + 3 * unit, smallest + 8 * unit)):
        pixels = _noise(2, height, width).to(device)
        before = pixels.clone()
        with torch.inference_mode():
            made, again, again = first.module(pixels), first.module(pixels), second.module(pixels)
            alone = first.module(pixels[:1])
        size = (2, 3, height * first.scale, width * first.scale)
        assert tuple(made.shape) == size, f"{tuple(pixels.shape)} became {tuple(made.shape)}, not {size}"
        assert made.is_floating_point(), f"pixels are floats, not {made.dtype}"
        assert torch.equal(pixels, before), "the network changed its input"
        assert torch.equal(made, again), "the same pixels gave others the second time"
        assert torch.equal(made, again), "the same pixels gave others when loaded again"
        off = float((made[:1].float() - alone.float()).abs().max())
        assert off <= 1 / 255, f"in a batch an image differs by {off:.4f}"


def _check_tiles(network: UpscalerNetwork, device: str, tile: int, tolerance: float) -> None:
    from mold_core.upscaling.enlarge import Enlarger

    side = max(tile, 2 * network.overlap + network.multiple) + 33
    image = _noise(1, side, side + 10)[0]
    whole = Enlarger(network, device, tile=0).whole(image)
    tiled = Enlarger(network, device, tile=tile)
    assert tiled.tiles(side, side + 10) > 1
    off = float((tiled.whole(image) - whole).abs().max())
    assert off <= tolerance, f"in tiles the image differs by {off:.4f}, more than {tolerance:.4f}; widen overlap"


def _noise(count: int, height: int, width: int) -> Tensor:
    import torch

    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(5))
