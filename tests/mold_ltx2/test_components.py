"""Networks are found in whichever of a model's files has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from ltx2_files import TinyLtx2
from ltx2_loading import load
from ltx2_reference import REQUEST
from safetensors.torch import load_file, save_file

from mold_core.testing import RecordedRun
from mold_ltx2.checkpoints import component_of, official_names


def same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Say whether results are equal but for rounding: mapped files are aligned differently, and so kernels differ."""
    return torch.allclose(ours, theirs, rtol=0, atol=0.01 * float(theirs.abs().max()))


def test_a_bare_file_may_hold_transformer_and_connectors() -> None:
    names = ["adaln_single.linear.weight", "transformer_blocks.0.attn1.to_q.weight", "scale_shift_table"]
    tensors = dict.fromkeys([*names, "video_embeddings_connector.learnable_registers"], 0)
    assert list(official_names("transformer", tensors, separate=True)) == [
        "time_embed.linear.weight",
        "transformer_blocks.0.attn1.to_q.weight",
        "scale_shift_table",
    ]
    assert list(official_names("connectors", tensors)) == ["video_connector.learnable_registers"]


def test_files_as_they_are_split_for_gguf_transformers_make_the_same_clip(
    files: dict[str, Path], one_stage: Any, tmp_path: Path
) -> None:
    """The autoencoder without a prefix, the vocoder beside the audio autoencoder, the connectors by themselves."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in load_file(files["transformer"]).items():
        component = {"vocoder": "audio_vae"}.get(component_of(name), component_of(name))
        bare = name.removeprefix("vae.") if component == "vae" else name
        parts.setdefault(component, {})[bare.removeprefix("model.diffusion_model.")] = tensor
    split = {name: path for name, path in files.items() if name in ("text_encoder", "tokenizer")}
    for component, tensors in parts.items():
        split[component] = tmp_path / f"{component}.safetensors"
        save_file(tensors, split[component])
    video, audio = load(split).render(REQUEST, RecordedRun())
    whole = one_stage.render(REQUEST, RecordedRun())
    assert same(video, whole[0]) and same(audio, whole[1])


def test_files_in_diffusers_layout_make_the_same_clip(
    tiny: TinyLtx2, files: dict[str, Path], one_stage: Any, tmp_path: Path
) -> None:
    split = {name: path for name, path in files.items() if name in ("text_encoder", "tokenizer")}
    for component in ("transformer", "connectors", "vae", "audio_vae", "vocoder"):
        split[component] = tmp_path / f"{component}.safetensors"
        state = getattr(tiny, component).state_dict()
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, split[component])
    assert same(load(split).render(REQUEST, RecordedRun())[0], one_stage.render(REQUEST, RecordedRun())[0])
