"""In-context LoRAs: the model sees the source video beside its own, as diffusers' pipeline for them has it."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from diffusers.pipelines.ltx2.pipeline_ltx2_ic_lora import LTX2InContextPipeline, LTX2ReferenceCondition
from ltx2_loading import load
from ltx2_media import frames, mp4
from ltx2_reference import REQUEST, close, theirs
from safetensors.torch import save_file

from mold_core import CheckpointError, GenerateRequest, LoraWeight
from mold_core.media.video import decode_frames
from mold_core.testing import RecordedRun

VIDEO = mp4(frames(18))


def adapter(path: Path, smaller: str | None, scale: float = 0.0) -> LoraWeight:
    """Write a LoRA for one layer that says how large the videos are that it is shown."""
    name = "diffusion_model.transformer_blocks.0.attn1.to_q"
    generator = torch.Generator().manual_seed(5)
    tensors = {
        f"{name}.lora_A.weight": torch.randn(2, 32, generator=generator),
        f"{name}.lora_B.weight": torch.randn(32, 2, generator=generator),
    }
    save_file(tensors, path, metadata=None if smaller is None else {"reference_downscale_factor": smaller})
    return LoraWeight(path=str(path), scale=scale)


def asked(*loras: LoraWeight, **fields: Any) -> GenerateRequest:
    return attrs.evolve(REQUEST, pipeline="ic-lora", source_video=VIDEO, loras=loras, **fields)


@pytest.mark.parametrize("smaller", [None, "2"])
def test_a_clip_is_diffusers_own(tiny: Any, one_stage: Any, tmp_path: Path, smaller: str | None) -> None:
    from mold_ltx2.sampling import DISTILLED

    shown = list(decode_frames(BytesIO(VIDEO)))[:17]
    plain, _ = one_stage.render(REQUEST, RecordedRun())
    video, _ = one_stage.render(asked(adapter(tmp_path / "a.safetensors", smaller)), RecordedRun())
    their_video, _ = theirs(
        tiny,
        list(DISTILLED),
        LTX2InContextPipeline,
        reference_conditions=[LTX2ReferenceCondition(frames=shown)],
        reference_downscale_factor=int(smaller or 1),
    )
    ours = one_stage.autoencoders.plain(video)
    close(ours, their_video)
    moved = float((ours - one_stage.autoencoders.plain(plain)).abs().max())
    assert float((ours - their_video).abs().max()) < moved / 20


def test_video_and_adapter_are_for_the_first_pass_only(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = load(files)
    seen: list[tuple[int, int]] = []
    beside = pipeline.loras.attached

    def watched(component: str, network: Any, loras: Any, *rest: Any, **options: Any) -> Any:
        seen.append((len(loras), 0))
        return beside(component, network, loras, *rest, **options)

    monkeypatch.setattr(pipeline.loras, "attached", watched)
    made, _ = pipeline.render(asked(adapter(tmp_path / "a.safetensors", "2", 1.0)), RecordedRun())
    assert [count for count, _ in seen] == [1, 0] and made.shape == (1, 16, 3, 4, 8)


def test_adapters_must_agree(one_stage: Any, tmp_path: Path) -> None:
    one, two = adapter(tmp_path / "one.safetensors", "2"), adapter(tmp_path / "two.safetensors", "4")
    with pytest.raises(CheckpointError, match=r"two\.safetensors: this LoRA takes a reference video 4 times smaller"):
        one_stage.render(asked(one, two), RecordedRun())
    wrong = adapter(tmp_path / "wrong.safetensors", "half")
    with pytest.raises(CheckpointError, match="reference_downscale_factor must be a whole number from 1, not 'half'"):
        one_stage.render(asked(wrong), RecordedRun())
