"""Clips made for a sound, from a video, or a part of one again: what is given stays, all else is made."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from camera_videos import hdr_video, hlg, turned, video
from ltx2_loading import load, spec_of
from ltx2_media import frames, mp4, png, wav
from torch import Tensor

from mold_core import Engine, GenerateRequest, Keyframe, Sound, TimeRange, ValidationError
from mold_core.media.sound import decode_sound
from mold_core.media.video import decode_frames, probe_video
from mold_core.testing import FakePlugin, RecordedRun, engine_with
from mold_ltx2.family import Ltx2Family

CLIP = GenerateRequest(prompt="a red ball flies", model="ltx-2-tiny", seed=3)
RENDER = attrs.evolve(CLIP, width=64, height=32, frames=17, fps=25, steps=4, guidance=3.0, enable_audio=True)

HUM = 0.4 * np.sin(np.arange(16_000, dtype=np.float32) * 0.2)
SOUND = wav(np.stack([HUM, -HUM]))
VIDEO = mp4(frames(18), sound=np.stack([HUM, HUM])[:, : 18 * 640])


def render(model: Any, /, **fields: Any) -> tuple[Tensor, Tensor]:
    made: tuple[Tensor, Tensor] = model.render(attrs.evolve(RENDER, **fields), RecordedRun())
    return made


def encoded_source(pipeline: Any, count: int) -> Tensor:
    shown = list(decode_frames(BytesIO(VIDEO)))[:count]
    latents: Tensor = pipeline.autoencoders.encode_video(shown, 64, 32)
    return latents


# --- a sound ------------------------------------------------------------------------------------------------------


def test_the_sound_is_held_and_the_video_follows_it(one_stage: Any) -> None:
    _, free = render(one_stage)
    video, held = render(one_stage, audio_file=SOUND)
    other, _ = render(one_stage, audio_file=wav(np.zeros((2, 16_000), np.float32)))
    sound = decode_sound(SOUND, max_seconds=17 / 25)
    assert sound is not None
    assert torch.equal(held, one_stage.autoencoders.encode_sound(sound, 17))
    assert held.shape == free.shape and not torch.allclose(held, free, atol=0.1)
    assert not torch.equal(video, other)


def test_a_sound_becomes_latents_that_are_the_sound_again(one_stage: Any, tiny: Any) -> None:
    from mold_ltx2.spectrum import log_mel

    sound = Sound(samples=HUM[None], sample_rate=16_000)
    ours = one_stage.autoencoders.encode_sound(sound, 17)
    spectra = log_mel(torch.from_numpy(HUM[: 17 * 640]).expand(1, 2, -1), sample_rate=16_000, hop=160, bands=16)
    theirs = tiny.audio_vae.encode(spectra[:, :, :65]).latent_dist.mode()
    packed = theirs.transpose(1, 2).flatten(2)
    normal = (packed - tiny.audio_vae.latents_mean) / tiny.audio_vae.latents_std
    assert torch.allclose(ours.transpose(1, 2).flatten(2), normal, atol=1e-5)


@pytest.mark.parametrize("seconds", [0.3, 1.0])
def test_the_video_has_the_sound_that_was_given(one_stage: Any, seconds: float) -> None:
    given = HUM[None, : round(seconds * 16_000)]
    (made,) = one_stage.generate([attrs.evolve(RENDER, audio_file=wav(given))], RecordedRun())
    wanted = round(17 / 25 * 16_000)
    assert made.sound.sample_rate == 16_000 and made.sound.samples.shape == (1, wanted)
    heard = min(given.shape[1], wanted)
    assert np.allclose(made.sound.samples[:, :heard], given[:, :heard], atol=1e-4)
    assert not made.sound.samples[:, heard:].any()


# --- a video ------------------------------------------------------------------------------------------------------


def test_a_clip_begins_with_the_video_and_its_sound(one_stage: Any) -> None:
    free_video, free_audio = render(one_stage, frames=33)
    video, audio = render(one_stage, frames=33, source_video=VIDEO)
    assert torch.equal(video[:, :, :3], encoded_source(one_stage, 17))
    assert video.shape == free_video.shape and not torch.allclose(video[:, :, 3:], free_video[:, :, 3:], atol=1e-3)
    heard = decode_sound(VIDEO, max_seconds=33 / 25)
    assert heard is not None
    assert torch.equal(audio[:, :, :17], one_stage.autoencoders.encode_sound(heard, 17))
    assert audio.shape == free_audio.shape


def test_a_retake_leaves_all_but_a_part_as_it_is(one_stage: Any) -> None:
    again = TimeRange(start_seconds=0.2, end_seconds=0.36)  # frames 5 to 8, which are latent 1
    video, audio = render(one_stage, source_video=VIDEO, retake_range=again, pipeline="retake")
    source = encoded_source(one_stage, 17)
    assert torch.equal(video[:, :, [0, 2]], source[:, :, [0, 2]])
    assert not torch.allclose(video[:, :, 1], source[:, :, 1], atol=0.1)
    heard = decode_sound(VIDEO, max_seconds=17 / 25)
    assert heard is not None
    sound = one_stage.autoencoders.encode_sound(heard, 17)
    # Spectra come every 10 ms, and latent i ends with number 4i: 5 ends at 0.21 s, 9 begins at 0.33 and ends at 0.37.
    changed = [index for index in range(17) if not torch.equal(audio[:, :, index], sound[:, :, index])]
    assert changed == [5, 6, 7, 8, 9]


def test_a_retake_goes_over_a_clip_once(files: dict[str, Path]) -> None:
    run = RecordedRun()
    request = attrs.evolve(RENDER, source_video=VIDEO, retake_range=TimeRange(start_seconds=0.4, end_seconds=0.6))
    video, _ = load(files).render(request, run)
    assert run.steps == [(number, 8) for number in range(1, 9)] and video.shape == (1, 16, 3, 4, 8)


def test_images_of_the_keyframe_pipeline_take_no_frames_place(one_stage: Any) -> None:
    shown = tuple(Keyframe(frame=frame, image=png(image)) for frame, image in zip((0, 16), frames(2), strict=True))
    held, _ = render(one_stage, keyframes=shown)
    guided, _ = render(one_stage, keyframes=shown, pipeline="keyframe")
    codec = one_stage.autoencoders
    first = codec.encode_image(codec.as_compressed(frames(1)[0]), 64, 32)
    assert torch.equal(held[:, :, :1], first) and not torch.allclose(guided[:, :, :1], first, atol=0.1)
    assert not torch.allclose(guided, render(one_stage)[0], atol=1e-4)


# --- through the engine -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine(files: dict[str, Path]) -> Iterator[Engine]:
    bare = spec_of({name: path for name, path in files.items() if name != "spatial_upscaler"})
    guided = spec_of(files, distilled=False)
    plugin = FakePlugin(
        families=[Ltx2Family()],
        models=[
            spec_of(files),
            attrs.evolve(guided, name="ltx-2-tiny-dev:fp32"),
            attrs.evolve(bare, name="ltx-2-tiny-bare:fp32"),
        ],
    )
    with engine_with(plugin) as engine:
        yield engine


def test_a_retake_is_as_long_and_as_large_as_the_video(engine: Engine) -> None:
    source = mp4(frames(20, (48, 64)), fps=10)
    again = TimeRange(start_seconds=0.5, end_seconds=1)
    made = engine.generate(attrs.evolve(CLIP, source_video=source, retake_range=again)).video
    assert made is not None
    info = probe_video(BytesIO(made.data))
    assert (info.frames, info.fps, info.width, info.height) == (17, 10.0, 48, 64)


def test_a_retake_of_a_phone_video_is_upright(engine: Engine, tmp_path: Path) -> None:
    times = [100 * index + (-1) ** index * 9 + 9 for index in range(20)]
    source = turned(video(tmp_path / "a.mp4", times), 0, 1, -1, 0).read_bytes()
    again = TimeRange(start_seconds=1.2, end_seconds=1.6)
    made = engine.generate(attrs.evolve(CLIP, source_video=source, retake_range=again, width=None, height=None)).video
    assert made is not None
    info = probe_video(BytesIO(made.data))
    assert (info.frames, info.fps, info.width, info.height) == (17, 10.0, 64, 96)


def test_an_hdr_source_is_used_as_sdr_with_a_warning(engine: Engine, tmp_path: Path) -> None:
    source = hdr_video(tmp_path / "a.mp4", 18, [hlg(50), hlg(20)])
    response = engine.generate(attrs.evolve(CLIP, source_video=source, frames=9, fps=10))
    assert "source_video is HDR (HLG) and is converted to SDR" in response.warnings


def test_a_clip_for_a_sound_is_a_video_with_it(engine: Engine) -> None:
    made = engine.generate(attrs.evolve(CLIP, audio_file=SOUND, pipeline="a2-vid")).video
    assert made is not None
    heard = decode_sound(made.data, max_seconds=9)
    assert heard is not None and heard.sample_rate == 16_000
    wanted = np.stack([HUM, -HUM])[:, : round(17 / 25 * 16_000)]
    assert abs(heard.samples.shape[1] - wanted.shape[1]) <= 16_000 / 25 + 1024
    assert np.corrcoef(heard.samples[0, 2000:10_000], wanted[0, 2000:10_000])[0, 1] > 0.95


WHOLE_MODEL = TimeRange(start_seconds=0, end_seconds=0.5)


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"frames": 16}, "frames", "frames must be of the form 8n+1, not 16; the nearest are 9 and 17"),
        (
            {"keyframes": (Keyframe(frame=17, image=png(frames(1)[0])),)},
            "keyframes[0].frame",
            "keyframes[0].frame is 17, and the video has 17 frames",
        ),
        (
            {"keyframes": (Keyframe(frame=1, image=png(frames(1)[0])),) * 2},
            "keyframes[1].frame",
            "keyframes[1].frame 1 occurs twice",
        ),
        (
            {"audio_file": b"no sound"},
            "audio_file",
            "audio_file is not an audio file, or is damaged; use WAV, MP3, FLAC, Ogg or M4A",
        ),
        (
            {"audio_file": mp4(frames(2))},
            "audio_file",
            "audio_file contains no audio; use WAV, MP3, FLAC, Ogg, M4A or the like",
        ),
        ({"source_video": SOUND}, "source_video", "source_video is not an MP4 file, or is damaged"),
        (
            {"source_video": VIDEO},
            "frames",
            "the source_video has 18 frames and the request 17: nothing is left to generate; request more "
            "frames, or set retake_range to regenerate a part",
        ),
        (
            {"source_video": VIDEO, "frames": 33, "fps": 24},
            "fps",
            "fps is 24, and the source_video has 25; leave fps out",
        ),
        (
            {"source_video": VIDEO, "frames": 33, "source_image": png(frames(1)[0])},
            "source_image",
            "source_image and source_video both define how the clip begins; use one of them",
        ),
        (
            {"retake_range": WHOLE_MODEL},
            "retake_range",
            "retake_range needs a source_video to regenerate a part of; add source_video, or leave retake_range out",
        ),
        (
            {"source_video": VIDEO, "retake_range": TimeRange(start_seconds=0.5, end_seconds=0.5)},
            "retake_range.end_seconds",
            "retake_range.end_seconds is 0.5, which is not after its start at 0.5",
        ),
        (
            {"source_video": VIDEO, "retake_range": TimeRange(start_seconds=0.5, end_seconds=2)},
            "retake_range.end_seconds",
            "retake_range ends at 2 s, and the source_video has 0.72 s",
        ),
        (
            {"source_video": VIDEO, "retake_range": TimeRange(start_seconds=0.7, end_seconds=0.72)},
            "retake_range.start_seconds",
            "retake_range begins at 0.7 s, and the 17 frames of the source_video that are used end at 0.68 s",
        ),
        (
            {"source_video": VIDEO, "retake_range": WHOLE_MODEL, "frames": 25},
            "frames",
            "frames is 25, and the source_video has 18; a retake keeps the length of the video: leave frames out",
        ),
        (
            {"source_video": VIDEO, "retake_range": WHOLE_MODEL, "spatial_upscale": "x2"},
            "spatial_upscale",
            "spatial_upscale cannot be used with a retake, which keeps the size and the rate of the video; leave it "
            "out; mold upscale upscales a finished video",
        ),
        (
            {"source_video": VIDEO, "retake_range": WHOLE_MODEL, "pipeline": "distilled"},
            "pipeline",
            "pipeline 'distilled' generates a whole clip, and retake_range requests a part; use retake, or leave it "
            "out",
        ),
        (
            {"pipeline": "retake"},
            "pipeline",
            "pipeline 'retake' regenerates a part of a video; set source_video and retake_range",
        ),
        ({"pipeline": "a2-vid"}, "pipeline", "pipeline 'a2-vid' generates a video for audio; set audio_file"),
        (
            {"pipeline": "keyframe"},
            "pipeline",
            "pipeline 'keyframe' interpolates between images; add two keyframes or more",
        ),
        (
            {"pipeline": "two-stage-hq", "model": "ltx-2-tiny-dev"},
            "pipeline",
            "pipeline 'two-stage-hq' needs a file distilled_lora, and ltx-2-tiny-dev:fp32 has none; use "
            "ltx-2-19b-dev, which has it",
        ),
        (
            {"pipeline": "ic-lora"},
            "pipeline",
            "pipeline 'ic-lora' needs a reference video; set source_video",
        ),
        (
            {"pipeline": "ic-lora", "source_video": VIDEO},
            "pipeline",
            "pipeline 'ic-lora' needs an in-context LoRA; add it to loras",
        ),
        (
            {"pipeline": "ic-lora", "model": "ltx-2-tiny-dev"},
            "pipeline",
            "pipeline 'ic-lora' is for distilled models, and ltx-2-tiny-dev:fp32 is guided; use a distilled model",
        ),
        (
            {"pipeline": "two-stage"},
            "pipeline",
            "pipeline 'two-stage' is for guided models, and ltx-2-tiny:fp32 is distilled; use distilled, which also "
            "has two passes",
        ),
        (
            {"pipeline": "distilled", "model": "ltx-2-tiny-dev"},
            "pipeline",
            "pipeline 'distilled' is for distilled models, and ltx-2-tiny-dev:fp32 is guided; leave it out, or use a "
            "distilled model",
        ),
        (
            {"pipeline": "two-stage", "model": "ltx-2-tiny-dev"},
            "pipeline",
            "pipeline 'two-stage' needs a file distilled_lora, and ltx-2-tiny-dev:fp32 has none; use "
            "ltx-2-19b-dev, which has it",
        ),
        (
            {"temporal_upscale": "x2", "frames": 25},
            "frames",
            "frames must be of the form 16n+1 with temporal_upscale x2, not 25; the nearest are 17 and 33",
        ),
        (
            {"temporal_upscale": "x2"},
            "temporal_upscale",
            "temporal_upscale x2 needs an upsampler of latents, and ltx-2-tiny:fp32 has none of that kind; leave it "
            "out, or use ltx-2-19b-distilled, which has one",
        ),
        (
            {"spatial_upscale": "x2", "model": "ltx-2-tiny-bare"},
            "spatial_upscale",
            "spatial_upscale x2 needs an upsampler of latents, and ltx-2-tiny-bare:fp32 has none of that kind; leave "
            "it out, or use ltx-2-19b-distilled, which has one",
        ),
    ],
)
def test_what_cannot_be_is_refused(engine: Engine, fields: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        engine.submit(attrs.evolve(CLIP, **fields))
    assert (caught.value.field, str(caught.value)) == (field, message)


def test_an_upsampler_of_another_kind_is_seen_when_the_model_is_loaded(engine: Engine) -> None:
    with pytest.raises(ValidationError) as caught:
        engine.generate(attrs.evolve(CLIP, spatial_upscale="x1-5"))
    assert str(caught.value) == (
        "spatial_upscale x1-5 needs an upsampler of latents, and ltx-2-tiny:fp32 has none of that kind; leave it "
        "out, or use ltx-2.3-22b-distilled, which has one"
    )
