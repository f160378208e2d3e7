"""Clips are what diffusers' own pipeline makes of the same weights, noise and prompt."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import attrs
import torch
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition
from ltx2_files import TinyLtx2
from ltx2_media import frames, mp4, png
from ltx2_reference import REQUEST, close, theirs

from mold_core import GenerateRequest, Keyframe
from mold_core.media.video import decode_frames
from mold_core.testing import RecordedRun


def test_a_distilled_clip_is_diffusers_own(tiny: TinyLtx2, one_stage: Any) -> None:
    from mold_ltx2.sampling import DISTILLED

    run = RecordedRun()
    video, audio = one_stage.render(REQUEST, run)
    their_video, their_audio = theirs(tiny, list(DISTILLED))
    close(one_stage.autoencoders.plain(video), their_video)
    assert run.steps == [(number, 8) for number in range(1, 9)]
    mean, std = tiny.audio_vae.latents_mean, tiny.audio_vae.latents_std
    packed = audio.transpose(1, 2).flatten(2) * std + mean
    close(packed, their_audio.transpose(1, 2).flatten(2))


def test_a_clip_from_a_image_is_diffusers_own(tiny: TinyLtx2, one_stage: Any) -> None:
    image = frames(1)[0]
    given = attrs.evolve(REQUEST, source_image=png(image), strength=0.8)
    close_to_theirs(tiny, one_stage, given, [LTX2VideoCondition(frames=image, index=0, strength=0.8)])


def test_a_clip_through_keyframes_is_diffusers_own(tiny: TinyLtx2, one_stage: Any) -> None:
    first, later = frames(2)
    given = attrs.evolve(REQUEST, keyframes=(Keyframe(frame=1, image=png(first)), Keyframe(frame=9, image=png(later))))
    conditions = [LTX2VideoCondition(frames=first, index=1), LTX2VideoCondition(frames=later, index=2)]
    close_to_theirs(tiny, one_stage, given, conditions)


def test_a_clip_that_goes_on_from_a_video_is_diffusers_own(tiny: TinyLtx2, one_stage: Any) -> None:
    video = mp4(frames(10))  # nine frames of them are whole latents
    shown = list(decode_frames(BytesIO(video)))
    given = attrs.evolve(REQUEST, source_video=video)
    close_to_theirs(tiny, one_stage, given, [LTX2VideoCondition(frames=shown, index=0)])


def close_to_theirs(tiny: TinyLtx2, one_stage: Any, given: GenerateRequest, conditions: list[Any]) -> None:
    from mold_ltx2.sampling import DISTILLED

    plain, _ = one_stage.render(REQUEST, RecordedRun())
    video, _audio = one_stage.render(given, RecordedRun())
    their_video, _ = theirs(tiny, list(DISTILLED), conditions=conditions)
    ours = one_stage.autoencoders.plain(video)
    close(ours, their_video)
    moved = float((ours - one_stage.autoencoders.plain(plain)).abs().max())
    assert float((ours - their_video).abs().max()) < moved / 20


def test_a_step_costs_one_forward(one_stage: Any) -> None:
    calls: list[object] = []
    with one_stage.components.use("transformer", lambda event: None) as transformer:
        hook = transformer.register_forward_hook(lambda *arguments: calls.append(None))
    one_stage.render(REQUEST, RecordedRun())
    hook.remove()
    assert len(calls) == 8


def test_a_guided_clip_is_diffusers_own(tiny: TinyLtx2, files: dict[str, Path]) -> None:
    from ltx2_loading import load

    from mold_ltx2.pipeline import _DEFAULT_NEGATIVE
    from mold_ltx2.sampling import schedule

    guided = load({name: path for name, path in files.items() if name != "spatial_upscaler"}, distilled=False)
    guided._version = attrs.evolve(guided._version, stg_blocks=(1,))
    video, _audio = guided.render(REQUEST, RecordedRun())
    their_video, _ = theirs(
        tiny,
        list(schedule(4, 3 * 4 * 8)),
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


def test_a_clip_in_two_passes_is_diffusers_own(tiny: TinyLtx2, files: dict[str, Path]) -> None:
    from diffusers.pipelines.ltx2 import LTX2LatentUpsamplePipeline
    from ltx2_loading import load

    from mold_ltx2.sampling import DISTILLED, REFINING

    generator = torch.Generator().manual_seed(3)
    small, sound = theirs(tiny, list(DISTILLED), generator=generator)
    upsampling = LTX2LatentUpsamplePipeline(vae=tiny.vae, latent_upsampler=tiny.upsampler)
    upsampling.set_progress_bar_config(disable=True)
    (larger,) = upsampling(latents=small, width=64, height=32, num_frames=17, output_type="latent", return_dict=False)
    refined = {"latents": larger, "audio_latents": sound, "noise_scale": REFINING[0]}
    their_video, _ = theirs(tiny, list(REFINING), width=128, height=64, generator=generator, **refined)
    run = RecordedRun()
    pipeline = load(files)
    video, _audio = pipeline.render(attrs.evolve(REQUEST, width=128, height=64), run)
    close(pipeline.autoencoders.plain(video), their_video)
    assert run.steps == [(number, 11) for number in range(1, 12)]
