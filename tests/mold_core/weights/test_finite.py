"""What is not finite is found, and put down to a LoRA, a weight, or computing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mold_core import InferenceError, UpscalerNetwork
from mold_core.upscaling.enlarge import Enlarger
from mold_core.weights import PackedLinear, PackedTensor, all_finite, check_finite, type_named, with_loras_applied
from mold_core.weights.lora_linear import LoraDelta, LoraUp


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_one_bad_number_among_many_is_seen(bad: float, dtype: torch.dtype) -> None:
    numbers = torch.full((3, 500, 700), 3.0e4, dtype=dtype)  # the sum is far beyond float16
    assert all_finite(numbers, torch.ones(2, dtype=torch.int64))
    numbers[2, 499, 699] = bad
    assert not all_finite(torch.ones(1), numbers)


def test_infinities_of_both_signs_are_seen() -> None:
    assert not all_finite(torch.tensor([float("inf"), float("-inf"), 1.0]))


def test_a_weight_is_named() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[1].weight.data[0, 0] = float("inf")
    with pytest.raises(InferenceError, match=r"the weight 1\.weight holds NaN or infinity \(the VAE computed"):
        check_finite("VAE", torch.tensor(float("nan")), network=network)


def test_a_quantised_weight_is_named() -> None:
    packed = PackedTensor(
        data=torch.zeros(16, 16, dtype=torch.uint8),
        type=type_named("F8_E4M3"),
        shape=(16, 16),
        scale=torch.tensor(float("nan")),
    )
    with pytest.raises(InferenceError, match=r"the weight 0\.weight holds"):
        check_finite("transformer", torch.tensor(float("nan")), network=nn.Sequential(PackedLinear(packed)))


def test_a_lora_is_named_rather_than_the_layer_it_is_beside() -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    up = LoraUp(weight=torch.tensor([[float("nan")], [1.0]]), first=0, ranks=slice(0, 1))
    branch = LoraDelta(down=torch.ones(1, 2), ups=(up,), source="bad.safetensors")
    with (
        with_loras_applied(network, [({"0": branch}, 1.0)]),
        pytest.raises(InferenceError, match=r"the LoRA bad\.safetensors holds NaN or infinity for 0 "),
    ):
        check_finite("transformer", torch.tensor(float("nan")), network=network, when="in step 1 of 4")


def test_numbers_that_grew_too_large_are_told_from_damage() -> None:
    with pytest.raises(InferenceError, match=r"the VAE computed NaN or infinity, .*an fp32 VAE"):
        check_finite("VAE", torch.tensor(float("inf")), network=nn.Linear(1, 1))


def test_an_enlarged_image_with_one_bad_pixel_is_an_error() -> None:
    network = nn.Upsample(scale_factor=2)
    upscaler = UpscalerNetwork(module=network, scale=2, size_bytes=0, overlap=8, feather=4)
    image = torch.rand(3, 40, 40)
    image[0, 30, 30] = float("nan")  # stands for what a network makes of good pixels
    with pytest.raises(InferenceError, match="the upscaler computed NaN or infinity"):
        Enlarger(upscaler, "cpu", tile=0).whole(image)
