"""LTX-2.3: its files give the modules they came from, and its clips are diffusers' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from ltx2_files import CONFIGS_23, TinyLtx2, tiny_ltx2, write_files
from ltx2_loading import load
from ltx2_reference import REQUEST, close, theirs
from safetensors.torch import load_file, save_file

from mold_core import CheckpointError
from mold_core.testing import RecordedRun


@pytest.fixture(scope="module")
def tiny() -> TinyLtx2:
    return tiny_ltx2(1, CONFIGS_23)


@pytest.fixture(scope="module")
def files(tiny: TinyLtx2, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = write_files(tiny, tmp_path_factory.mktemp("ltx23"))
    made.pop("spatial_upscaler")
    return made


@pytest.fixture(scope="module")
def pipeline(files: dict[str, Path]) -> Any:
    return load(files, **CONFIGS_23)


@pytest.mark.parametrize("part", ["transformer", "connectors", "vae", "audio_vae", "vocoder"])
def test_every_tensor_is_that_of_the_module_it_came_from(part: str, tiny: TinyLtx2, pipeline: Any) -> None:
    with pipeline.components.use(part, lambda event: None) as network:
        loaded, written = network.state_dict(), getattr(tiny, part).state_dict()
    assert loaded.keys() == written.keys()
    assert all(torch.equal(loaded[name], written[name]) for name in written)


def test_the_sound_is_the_vocoders(tiny: TinyLtx2, pipeline: Any) -> None:
    latents = torch.randn(1, 4, 17, 4)
    made = pipeline.autoencoders.sound(latents, 0.5).samples
    with torch.inference_mode():
        mean, std = (value.unflatten(0, (4, -1))[None, :, None] for value in (
            tiny.audio_vae.latents_mean, tiny.audio_vae.latents_std
        ))  # fmt: skip
        wanted = tiny.vocoder(tiny.audio_vae.decode(latents * std + mean, return_dict=False)[0])[0]
    assert made.shape == (2, 4000)
    assert torch.allclose(torch.from_numpy(made), wanted[:, :4000], atol=1e-5)
    assert float(wanted.std()) > 1e-3


def test_a_distilled_clip_is_diffusers_own(tiny: TinyLtx2, pipeline: Any) -> None:
    from mold_ltx2.sampling import DISTILLED

    video, _audio = pipeline.render(REQUEST, RecordedRun())
    their_video, _ = theirs(tiny, list(DISTILLED), use_cross_timestep=True)
    close(pipeline.autoencoders.plain(video), their_video)


def test_a_guided_clip_is_diffusers_own(tiny: TinyLtx2, files: dict[str, Path]) -> None:
    from mold_ltx2.pipeline import _DEFAULT_NEGATIVE
    from mold_ltx2.sampling import schedule

    guided = load(files, **CONFIGS_23, distilled=False)
    assert guided._version.stg_blocks == (28,)
    guided._version = attrs.evolve(guided._version, stg_blocks=(1,))
    video, _audio = guided.render(REQUEST, RecordedRun())
    their_video, _ = theirs(
        tiny,
        list(schedule(4, 3 * 4 * 8)),
        use_cross_timestep=True,
        negative_prompt=_DEFAULT_NEGATIVE,
        guidance_scale=3.0,
        audio_guidance_scale=7.0,
        stg_scale=1.0,
        audio_stg_scale=1.0,
        modality_scale=3.0,
        audio_modality_scale=3.0,
        guidance_rescale=0.7,
        audio_guidance_rescale=0.7,
        spatio_temporal_guidance_blocks=[1],
    )
    close(guided.autoencoders.plain(video), their_video)


def test_scaled_fp8_weights_mean_what_they_meant(files: dict[str, Path], pipeline: Any, tmp_path: Path) -> None:
    tensors = load_file(files["transformer"])
    for name, tensor in list(tensors.items()):
        if ".transformer_blocks." in name and name.endswith(".weight") and tensor.ndim == 2 and "gate" not in name:
            scale = tensor.abs().max() / 448
            tensors[name] = (tensor / scale).to(torch.float8_e4m3fn)
            tensors[name.replace(".weight", ".weight_scale")] = scale
            tensors[name.replace(".weight", ".input_scale")] = torch.tensor(0.01)
    save_file(tensors, tmp_path / "fp8.safetensors")
    packed = load({**files, "transformer": tmp_path / "fp8.safetensors"}, **CONFIGS_23)
    video, plain = (one.render(REQUEST, RecordedRun())[0] for one in (packed, pipeline))
    assert float((video - plain).square().mean().sqrt() / plain.std()) < 0.1


def test_ltx_25_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in load_file(files["transformer"]).items() if "prompt_adaln" not in name}
    save_file(tensors, tmp_path / "ltx-2.5.safetensors")
    with pytest.raises(CheckpointError, match=r"ltx-2\.5\.safetensors: this is an LTX-2\.5 model"):
        load({**files, "transformer": tmp_path / "ltx-2.5.safetensors"}, **CONFIGS_23)


@pytest.mark.parametrize("version", ["2.0", "2.3"])
def test_the_published_sizes_can_be_built(version: Any) -> None:
    """The tables fit diffusers' classes, and how many numbers they make is what the releases have."""
    from mold_core.weights import empty_modules
    from mold_ltx2.configs import OFFICIAL
    from mold_ltx2.loading import _networks

    classes = _networks() | ({"vocoder": _networks()["extended_vocoder"]} if version == "2.3" else {})
    count = 0
    for name, config in OFFICIAL[version].items():
        with empty_modules():
            network = classes[name](**config)
        count += sum(tensor.numel() for tensor in network.state_dict().values())
    assert count == pytest.approx({"2.0": 21.64e9, "2.3": 23.07e9}[version], rel=1e-3)
