"""LTX-2 through the engine: videos and chains out of files in the official layout."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from ltx2_files import TinyLtx2, write_files
from ltx2_loading import load, spec_of
from PIL import Image
from safetensors.torch import load_file, save_file

from mold_core import (
    ChainRequest,
    CheckpointError,
    Engine,
    GenerateRequest,
    Keyframe,
    LoraWeight,
    ValidationError,
)
from mold_core.media.video import probe_video
from mold_core.testing import FakePlugin, RecordedRun, engine_with
from mold_ltx2.chain import Ltx2ChainRenderer
from mold_ltx2.family import Ltx2Family

CLIP = GenerateRequest(prompt="a red ball flies", model="ltx-2-tiny", seed=3)
RENDER = attrs.evolve(CLIP, width=64, height=32, frames=17, fps=25, steps=4, guidance=3.0, enable_audio=True)


def png(color: str) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (64, 32), color).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def engine(files: dict[str, Path]) -> Iterator[Engine]:
    plugin = FakePlugin(
        families=[Ltx2Family()],
        models=[spec_of(files), attrs.evolve(spec_of(files, distilled=False), name="ltx-2-tiny-dev:fp32")],
        chain_renderers=[Ltx2ChainRenderer()],
    )
    with engine_with(plugin) as engine:
        yield engine


def test_a_request_becomes_a_video_with_sound(engine: Engine) -> None:
    response = engine.generate(CLIP)
    assert response.video is not None
    info = probe_video(BytesIO(response.video.data))
    assert (info.frames, info.fps, info.width, info.height, info.sample_rate) == (17, 25.0, 64, 32, 8000)


def test_the_same_seed_gives_the_same_video(engine: Engine) -> None:
    first, again, other = (engine.generate(attrs.evolve(CLIP, seed=seed)).video for seed in (3, 3, 4))
    assert first is not None and again is not None and other is not None
    assert first.data == again.data != other.data


def test_a_chain_is_as_long_as_asked_and_has_sound(engine: Engine) -> None:
    chain = ChainRequest(model="ltx-2-tiny", prompt="a boat on the sea", total_frames=40, clip_frames=17, seed=1)
    response = engine.chain(chain)
    info = probe_video(BytesIO(response.video.data))
    assert (info.frames, response.stage_count, info.has_audio) == (40, 4, True)


def test_a_model_that_is_not_distilled_makes_no_chains(engine: Engine) -> None:
    with pytest.raises(ValidationError, match="is not distilled"):
        engine.submit(ChainRequest(model="ltx-2-tiny-dev", prompt="a", total_frames=40, clip_frames=17))


def test_two_passes_take_eight_and_three_steps(files: dict[str, Path]) -> None:
    run = RecordedRun()
    video, _audio = load(files).render(RENDER, run)
    assert run.steps == [(number, 11) for number in range(1, 12)]
    assert video.shape == (1, 16, 3, 4, 8)


def test_the_tail_of_a_clip_is_held_exactly(one_stage: Any) -> None:
    renderer = Ltx2ChainRenderer()
    before = renderer.render(one_stage, RENDER, None, 0, RecordedRun())
    after = renderer.render(one_stage, attrs.evolve(RENDER, seed=9), before, 9, RecordedRun())
    assert torch.equal(after["video"][:, :, 1], before["video"][:, :, -1])
    heard = round(9 / 25 * 25)
    assert torch.equal(after["audio"][:, :, :heard], before["audio"][:, :, -heard:])
    video = renderer.decode(one_stage, after, before, 9, None)
    assert len(list(video.images)) == 17 - 9
    assert video.sound is not None and video.sound.samples.shape == (2, round(17 / 25 * 8000) - round(9 / 25 * 8000))


def test_clips_are_decoded_as_if_they_were_one_video(one_stage: Any) -> None:
    renderer = Ltx2ChainRenderer()
    first = renderer.render(one_stage, attrs.evolve(RENDER, frames=33), None, 0, RecordedRun())
    second = renderer.render(one_stage, attrs.evolve(RENDER, frames=49, seed=9), first, 9, RecordedRun())
    joined = torch.cat([first["video"], second["video"][:, :, 2:]], dim=2)
    whole = pixels(one_stage.autoencoders.frames(joined))
    begin, alone = (pixels(renderer.decode(one_stage, first, None, 0, after).images) for after in (second, None))
    end = pixels(renderer.decode(one_stage, second, first, 9, None).images)
    assert (len(begin), len(end), len(whole)) == (33, 40, 73)
    away = np.abs(np.concatenate([begin, end]) - whole).mean(axis=(1, 2, 3))  # levels of 255, by frame
    away_alone = np.abs(alone - whole[:33]).mean(axis=(1, 2, 3))
    assert away.max() < 0.2 * away_alone.max()  # the autoencoder's weights are random: it looks far around


def test_the_end_of_a_clip_sounds_as_if_the_next_followed(one_stage: Any) -> None:
    renderer = Ltx2ChainRenderer()
    first = renderer.render(one_stage, RENDER, None, 0, RecordedRun())
    second = renderer.render(one_stage, attrs.evolve(RENDER, seed=9), first, 9, RecordedRun())
    own = second["audio"][:, :, round(9 / 25 * 25) :]
    joined = torch.cat([first["audio"], own], dim=2)
    whole = one_stage.autoencoders.sound(joined, 17 / 25).samples
    with_next, alone = (renderer.decode(one_stage, first, None, 0, after).sound for after in (second, None))
    assert with_next is not None and alone is not None
    assert np.abs(with_next.samples - whole).max() < 0.1 * np.abs(alone.samples - whole).max()


def pixels(images: Iterable[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image, np.int16) for image in images])


def test_a_source_image_is_where_the_clip_begins(one_stage: Any) -> None:
    held, free = (
        one_stage.render(attrs.evolve(RENDER, source_image=png("red"), strength=strength), RecordedRun())[0]
        for strength in (1.0, 0.0)
    )
    image = one_stage.autoencoders.as_compressed(Image.new("RGB", (64, 32), "red"))
    wanted = one_stage.autoencoders.encode_image(image, 64, 32)
    assert torch.allclose(held[:, :, :1], wanted, atol=1e-5)
    assert not torch.allclose(free[:, :, :1], wanted, atol=1e-1)


def test_keyframes_change_the_clip(one_stage: Any) -> None:
    plain = one_stage.render(RENDER, RecordedRun())[0]
    keyed = one_stage.render(attrs.evolve(RENDER, keyframes=(Keyframe(frame=9, image=png("blue")),)), RecordedRun())[0]
    assert keyed.shape == plain.shape
    assert not torch.allclose(keyed, plain, atol=1e-4)


def test_networks_may_lie_in_files_of_their_own(tiny: TinyLtx2, one_stage: Any, tmp_path: Path) -> None:
    files = write_files(tiny, tmp_path, split=True)
    files.pop("spatial_upscaler")
    video = load(files).render(RENDER, RecordedRun())[0]
    assert torch.equal(video, one_stage.render(RENDER, RecordedRun())[0])


def test_scaled_fp8_weights_mean_what_they_meant(files: dict[str, Path], one_stage: Any, tmp_path: Path) -> None:
    tensors = load_file(files["transformer"])
    for name, tensor in list(tensors.items()):
        if "transformer_blocks" in name and name.endswith(".weight") and tensor.ndim == 2:
            scale = tensor.abs().max() / 448
            tensors[name] = (tensor / scale).to(torch.float8_e4m3fn)
            tensors[name.replace(".weight", ".weight_scale")] = scale
            tensors[name.replace(".weight", ".input_scale")] = torch.tensor(1.0)
    save_file(tensors, tmp_path / "fp8.safetensors")
    packed = {**files, "transformer": tmp_path / "fp8.safetensors"}
    packed.pop("spatial_upscaler")
    video, plain = (pipeline.render(RENDER, RecordedRun())[0] for pipeline in (load(packed), one_stage))
    assert float((video - plain).square().mean().sqrt() / plain.std()) < 0.1


def test_a_file_of_another_model_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"other\.safetensors: this file holds no connectors of LTX-2"):
        load({**files, "transformer": tmp_path / "other.safetensors"})


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"frames": 16}, "frames", "8n\\+1, not 16; the nearest are 9 and 17"),
        ({"loras": (LoraWeight(path="a.safetensors"),)}, "loras[0].path", "is not a LoRA in"),
    ],
)
def test_what_cannot_be_is_refused(engine: Engine, fields: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words) as caught:
        engine.submit(attrs.evolve(CLIP, **fields))
    assert caught.value.field == field


def test_a_cancelled_clip_stops_at_the_next_step(one_stage: Any) -> None:
    from mold_core import CancelledError

    run = RecordedRun(cancel_after=2)
    with pytest.raises(CancelledError):
        one_stage.generate([RENDER], run)
    assert len(run.steps) == 2
