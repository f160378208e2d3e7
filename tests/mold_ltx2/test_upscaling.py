"""Clips whose first pass is smaller, or has half of the frames: what is asked for is what comes out."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from diffusers.pipelines.ltx2 import LTX2LatentUpsamplerModel
from ltx2_loading import load, spec_of
from ltx2_media import frames, png
from safetensors.torch import save_file

from mold_core import GenerateRequest, Keyframe
from mold_core.catalog import ModelFile
from mold_core.media.sound import decode_sound
from mold_core.media.video import probe_video
from mold_core.testing import FakePlugin, RecordedRun, engine_with
from mold_ltx2.family import Ltx2Family

REQUEST = GenerateRequest(
    prompt="a red ball flies", width=96, height=48, frames=17, fps=24, seed=3, steps=4, guidance=3.0, enable_audio=True
)


@pytest.fixture(scope="module")
def larger(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The files of the tiny model with all three upsamplers."""
    folder = tmp_path_factory.mktemp("upsamplers")
    sizes: dict[str, Any] = {"in_channels": 16, "mid_channels": 32, "num_blocks_per_stage": 1}
    kinds = {
        "half": {"use_rational_resampler": True, "rational_spatial_scale": 1.5},
        "smooth": {"spatial_upsample": False, "temporal_upsample": True},
    }
    torch.manual_seed(2)
    for name, options in kinds.items():
        network = LTX2LatentUpsamplerModel(**sizes, **options)
        save_file({key: value.contiguous() for key, value in network.state_dict().items()}, folder / name)
    upscalers = (files["spatial_upscaler"], folder / "half")
    return {**files, "spatial_upscaler": upscalers, "temporal_upscaler": folder / "smooth"}


@pytest.fixture(scope="module")
def model(larger: dict[str, Any]) -> Any:
    return load(larger)


def shapes(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Return a list that gets frames, height, width and the noise levels of every pass."""
    import mold_ltx2.pipeline

    seen: list[tuple[int, ...]] = []
    denoise = mold_ltx2.pipeline.denoise

    def watched(transformer: Any, geometry: Any, *rest: Any, **options: Any) -> Any:
        seen.append((geometry.frames, geometry.height, geometry.width, len(rest[3])))
        return denoise(transformer, geometry, *rest, **options)

    monkeypatch.setattr(mold_ltx2.pipeline, "denoise", watched)
    return seen


@pytest.mark.parametrize(
    ("fields", "passes"),
    [
        ({}, [(3, 3, 6, 8), (3, 6, 12, 3)]),
        ({"spatial_upscale": "x2"}, [(3, 3, 6, 8), (3, 6, 12, 3)]),
        ({"spatial_upscale": "x1-5"}, [(3, 4, 8, 8), (3, 6, 12, 3)]),
        ({"spatial_upscale": "x1-5", "width": 88, "height": 40}, [(3, 4, 8, 8), (3, 5, 11, 3)]),
        ({"width": 88, "height": 40}, [(3, 3, 6, 8), (3, 5, 11, 3)]),
        ({"pipeline": "one-stage"}, [(3, 6, 12, 8)]),
        ({"pipeline": "one-stage", "spatial_upscale": "x2"}, [(3, 3, 6, 8)]),
        ({"temporal_upscale": "x2"}, [(2, 3, 6, 8), (2, 6, 12, 3)]),
        ({"temporal_upscale": "x2", "pipeline": "one-stage"}, [(2, 6, 12, 8)]),
    ],
)
def test_passes_are_as_large_as_they_should_be(
    model: Any, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], passes: list[tuple[int, ...]]
) -> None:
    seen, run = shapes(model, monkeypatch), RecordedRun()
    request = attrs.evolve(REQUEST, **fields)
    video, audio = model.render(request, run)
    assert seen == passes
    assert run.steps[-1] == (sum(one[3] for one in passes),) * 2
    assert video.shape == (1, 16, 3, request.height // 8, request.width // 8)  # type: ignore[operator]
    # With every second frame a clip ends half a frame later.
    assert audio.shape[2] == (round(9 / 12 * 25) if request.temporal_upscale else round(17 / 24 * 25))


def test_latents_are_the_upsamplers_own(model: Any) -> None:
    half = attrs.evolve(REQUEST, pipeline="one-stage", width=48, height=24)
    small, _ = model.render(half, RecordedRun())
    made, _ = model.render(attrs.evolve(REQUEST, pipeline="one-stage", spatial_upscale="x2"), RecordedRun())
    assert torch.equal(made, model.upsamplers.apply("spatial-x2", small))
    few, _ = model.render(attrs.evolve(half, frames=9, fps=12), RecordedRun())
    smooth, _ = model.render(attrs.evolve(half, temporal_upscale="x2"), RecordedRun())
    assert torch.equal(smooth, model.upsamplers.apply("temporal-x2", few))


def test_a_keyframe_keeps_its_time_where_every_second_frame_is_made(model: Any) -> None:
    one = attrs.evolve(REQUEST, pipeline="one-stage", width=48, height=24)
    shown = png(frames(1)[0])
    few = attrs.evolve(one, frames=9, fps=12, keyframes=(Keyframe(frame=4, image=shown),))
    all_ = attrs.evolve(one, temporal_upscale="x2", keyframes=(Keyframe(frame=8, image=shown),))
    made = model.render(all_, RecordedRun())[0]
    assert torch.equal(made, model.upsamplers.apply("temporal-x2", model.render(few, RecordedRun())[0]))


def test_a_file_is_as_long_and_as_large_as_was_asked(files: dict[str, Path], larger: dict[str, Any]) -> None:
    half, smooth = larger["spatial_upscaler"][1], larger["temporal_upscaler"]
    more = (("spatial_upscaler", half), ("temporal_upscaler", smooth))
    plain = spec_of(files)
    extra = (ModelFile(component=name, path=str(path)) for name, path in more)
    spec = attrs.evolve(plain, files=(*plain.files, *extra))
    with engine_with(FakePlugin(families=[Ltx2Family()], models=[spec])) as engine:
        request = attrs.evolve(REQUEST, model="ltx-2-tiny", spatial_upscale="x1-5", temporal_upscale="x2", frames=33)
        made = engine.generate(request).video
    assert made is not None
    info = probe_video(BytesIO(made.data))
    assert (info.frames, info.fps, info.width, info.height) == (33, 24.0, 96, 48)
    heard = decode_sound(made.data, max_seconds=9)
    assert heard is not None and abs(heard.samples.shape[1] / heard.sample_rate - 33 / 24) < 1 / 24 + 0.14


@pytest.mark.parametrize(
    ("fields", "distilled", "forwards"),
    [
        ({}, True, 8 + 3),
        ({"pipeline": "one-stage"}, True, 8),
        ({}, False, 4 * 4 + 3),  # plain, without the prompt, with skipped attention, without the other modality
        ({"pipeline": "two-stage"}, False, 4 * 4 + 3),
        ({"pipeline": "one-stage"}, False, 4 * 4),
        ({"pipeline": "two-stage-hq"}, False, 3 * (2 * 4 + 1) + 2 * 3 + 1),  # nothing is skipped
    ],
)
def test_so_many_times_the_transformer_runs(
    files: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, Any],
    distilled: bool,
    forwards: int,
) -> None:
    from mold_ltx2.sampling import _Model

    name = "diffusion_model.transformer_blocks.0.attn1.to_q"
    pair = {f"{name}.lora_A.weight": torch.zeros(2, 32), f"{name}.lora_B.weight": torch.zeros(32, 2)}
    save_file(pair, tmp_path / "distilled.safetensors")
    pipeline = load({**files, "distilled_lora": tmp_path / "distilled.safetensors"}, distilled=distilled)
    calls: list[Any] = []
    clear = _Model.denoised
    monkeypatch.setattr(_Model, "denoised", lambda *given, **options: calls.append(options) or clear(*given, **options))
    pipeline.render(attrs.evolve(REQUEST, **fields), RecordedRun())
    assert len(calls) == forwards
