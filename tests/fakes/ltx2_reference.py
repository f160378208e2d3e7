"""What diffusers' own pipeline makes of the tiny LTX-2."""

from __future__ import annotations

from typing import Any

import torch
from ltx2_files import TEXT_TOKENS, TinyLtx2, tokenizer
from torch import Tensor

from mold_core import GenerateRequest

__all__ = ["REQUEST", "close", "reference", "theirs"]

REQUEST = GenerateRequest(
    prompt="a red ball flies", width=64, height=32, frames=17, fps=25, seed=3, steps=4, guidance=3.0, enable_audio=True
)


def reference(tiny: TinyLtx2, kind: Any = None) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.ltx2 import LTX2ConditionPipeline
    from transformers import PreTrainedTokenizerFast

    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=False, shift_terminal=None)
    words = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer(),
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        padding_side="left",
        model_max_length=TEXT_TOKENS,
    )
    pipeline = (kind or LTX2ConditionPipeline)(
        scheduler=scheduler,
        vae=tiny.vae,
        audio_vae=tiny.audio_vae,
        text_encoder=tiny.gemma,
        tokenizer=words,
        connectors=tiny.connectors,
        transformer=tiny.transformer,
        vocoder=tiny.vocoder,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def theirs(tiny: TinyLtx2, sigmas: list[float], kind: Any = None, **options: Any) -> tuple[Tensor, Tensor]:
    off: dict[str, Any] = {
        "guidance_scale": 1.0,
        "stg_scale": 0.0,
        "modality_scale": 1.0,
        "guidance_rescale": 0.0,
        "audio_guidance_scale": 1.0,
        "audio_stg_scale": 0.0,
        "audio_modality_scale": 1.0,
        "audio_guidance_rescale": 0.0,
        "spatio_temporal_guidance_blocks": None,
    }
    fields: dict[str, Any] = {
        "prompt": REQUEST.prompt,
        "width": 64,
        "height": 32,
        "num_frames": 17,
        "frame_rate": 25.0,
        "sigmas": sigmas,
        "generator": torch.Generator().manual_seed(3),
        "use_cross_timestep": False,
        "output_type": "latent",
        "return_dict": False,
        "max_sequence_length": TEXT_TOKENS,
    }
    made: tuple[Tensor, Tensor] = reference(tiny, kind)(**{**fields, **off, **options})
    return made


def close(ours: Tensor, other: Tensor) -> None:
    assert ours.shape == other.shape
    span = float(other.max() - other.min())
    assert float((ours - other).abs().max()) <= 1e-4 * span
