"""The check of upscalers passes a good one and says what is wrong with each kind of bad one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mold_core import CheckpointError, LoadContext, UpscalerNetwork
from mold_core.testing import check_upscaler

torch = pytest.importorskip("torch")

Pixels = Any


class Blur:
    """Blurs three pixels far and doubles; what is wrong with it is said when it is made."""

    name = "Blur"

    def __init__(
        self,
        change: Callable[[Pixels, Pixels], Pixels] = lambda made, pixels: made,
        greedy: bool = False,
        **traits: Any,
    ) -> None:
        self._change = change
        self._greedy = greedy
        self._traits = {"scale": 2, "overlap": 8, "feather": 2, "multiple": 2, "min_side": 4, **traits}

    def recognises(self, tensors: Mapping[str, Any]) -> bool:
        return self._greedy or "kernel" in tensors

    def load(self, tensors: Mapping[str, Any], context: LoadContext) -> UpscalerNetwork:
        if "bias" not in tensors and not self._greedy:
            raise CheckpointError("bias is missing")
        kernel = tensors["kernel"].read().expand(3, 1, 7, 7)

        def run(pixels: Pixels) -> Pixels:
            blurred = torch.nn.functional.conv2d(pixels, kernel, padding=3, groups=3)
            return self._change(torch.nn.functional.interpolate(blurred, scale_factor=2, mode="nearest"), pixels)

        return UpscalerNetwork(module=run, size_bytes=kernel.numel() * 4, **self._traits)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    from safetensors.torch import save_file

    path = tmp_path / "blur.safetensors"
    save_file({"kernel": torch.full((1, 1, 7, 7), 1 / 49), "bias": torch.zeros(1)}, path)
    return path


def check(architecture: Blur, weights: Path) -> None:
    check_upscaler(architecture, weights, module="mold_core.testing.sketch")


def test_a_good_upscaler_passes(weights: Path) -> None:
    check(Blur(), weights)


def changed(made: Pixels, pixels: Pixels) -> Pixels:
    pixels.clamp_(0.2, 0.8)
    return made


BAD = {
    "takes what is not its own": (Blur(greedy=True), "recognises tensors with names of others"),
    "lies about its scale": (Blur(scale=4), r"became \(2, 3, 8, 8\), not \(2, 3, 16, 16\)"),
    "shares too little": (Blur(overlap=2, feather=2), "in tiles the image differs by .* widen overlap"),
    "fades beyond what it shares": (Blur(overlap=4, feather=8), "feather lies within overlap"),
    "changes its input": (Blur(changed), "the network changed its input"),
    "is random": (Blur(lambda made, pixels: made + torch.rand(1)), "gave others the second time"),
    "depends on the batch": (Blur(lambda made, pixels: made * len(made)), "in a batch an image differs"),
    "makes bytes": (Blur(lambda made, pixels: (made * 255).to(torch.uint8)), "floats, not torch.uint8"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_upscaler_is_told_what_is_wrong(fault: str, weights: Path) -> None:
    architecture, words = BAD[fault]
    with pytest.raises(AssertionError, match=words):
        check(architecture, weights)


def test_a_plugin_that_imports_torch_at_once_is_told(weights: Path) -> None:
    with pytest.raises(AssertionError, match="imports torch"):
        check_upscaler(Blur(), weights, module="mold_core.upscaling.enlarge")
