"""Adapters on LTX-2: every naming means the same as merged weights, over weights of every kind."""

from __future__ import annotations

import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from gguf_files import write_gguf
from ltx2_loading import load, spec_of
from ltx2_reference import REQUEST
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from mold_core import ChainRequest, CheckpointError, LoraWeight
from mold_core.testing import FakePlugin, RecordedRun, engine_with

# Layers by diffusers' names, and the official ones.
LAYERS = {
    "transformer_blocks.0.attn1.to_q": "transformer_blocks.0.attn1.to_q",
    "transformer_blocks.1.audio_attn2.to_out.0": "transformer_blocks.1.audio_attn2.to_out.0",
    "transformer_blocks.1.video_to_audio_attn.to_k": "transformer_blocks.1.video_to_audio_attn.to_k",
    "transformer_blocks.0.ff.net.0.proj": "transformer_blocks.0.ff.net.0.proj",
    "proj_in": "patchify_proj",
    "audio_proj_in": "audio_patchify_proj",
    "time_embed.linear": "adaln_single.linear",
    "av_cross_attn_video_a2v_gate.linear": "av_ca_a2v_gate_adaln_single.linear",
}
RANK = 3

Names = Callable[[str, str], str]


def pairs(pipeline: Any, seed: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
    """Return a pair for each of the layers, by diffusers' names."""
    generator = torch.Generator().manual_seed(seed)
    with pipeline.components.use("transformer", lambda event: None) as network:
        sizes = {name: network.get_submodule(name).weight.shape for name in LAYERS}
    return {
        name: (torch.randn(RANK, columns, generator=generator) / 4, torch.randn(rows, RANK, generator=generator) / 4)
        for name, (rows, columns) in sizes.items()
    }


def peft(layer: str, part: str) -> str:
    return f"transformer.{layer}." + {"down": "lora_A.weight", "up": "lora_B.weight", "alpha": "alpha"}[part]


def official(layer: str, part: str) -> str:
    return (
        f"diffusion_model.{LAYERS[layer]}." + {"down": "lora_A.weight", "up": "lora_B.weight", "alpha": "alpha"}[part]
    )


def comfy(layer: str, part: str) -> str:
    return f"diffusion_model.{LAYERS[layer]}." + {
        "down": "lora_down.weight", "up": "lora_up.weight", "alpha": "alpha"
    }[part]  # fmt: skip


def kohya(layer: str, part: str) -> str:
    flat = LAYERS[layer].replace(".", "_")
    return f"lora_unet_{flat}." + {"down": "lora_down.weight", "up": "lora_up.weight", "alpha": "alpha"}[part]


def write(path: Path, made: dict[str, tuple[Tensor, Tensor]], names: Names, alpha: float | None = None) -> Path:
    tensors = {}
    for layer, (down, up) in made.items():
        tensors[names(layer, "down")], tensors[names(layer, "up")] = down, up
        if alpha is not None:
            tensors[names(layer, "alpha")] = torch.tensor(alpha)
    save_file(tensors, path)
    return path


def made_with(pipeline: Any, *loras: tuple[Path, float]) -> Tensor:
    weights = tuple(LoraWeight(path=str(path), scale=scale) for path, scale in loras) or None
    video: Tensor = pipeline.render(attrs.evolve(REQUEST, loras=weights), RecordedRun())[0]
    return video


def merged(files: dict[str, Path], *stacks: tuple[dict[str, tuple[Tensor, Tensor]], float]) -> Any:
    """Return the model with scale * up @ down added to its weights."""
    pipeline = load({name: path for name, path in files.items() if name != "spatial_upscaler"})
    with pipeline.components.use("transformer", lambda event: None) as network:
        for made, scale in stacks:
            for layer, (down, up) in made.items():
                linear = network.get_submodule(layer)
                linear.weight = torch.nn.Parameter(linear.weight + scale * up @ down, requires_grad=False)
    return pipeline


def off(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / (other.max() - other.min()))


@pytest.mark.parametrize("names", [peft, official, comfy, kohya])
def test_every_naming_means_the_same(names: Names, files: dict[str, Path], one_stage: Any, tmp_path: Path) -> None:
    made = pairs(one_stage)
    path = write(tmp_path / "a.safetensors", made, names, alpha=None if names is official else 1.5)
    scale = 0.8 if names is official else 0.8 * 1.5 / RANK
    video = made_with(one_stage, (path, 0.8))
    assert off(video, made_with(merged(files, (made, scale)))) < 1e-4
    assert off(video, made_with(one_stage)) > 1e-2


def test_adapters_are_stacked_each_with_its_scale(files: dict[str, Path], one_stage: Any, tmp_path: Path) -> None:
    first, second = pairs(one_stage), pairs(one_stage, seed=1)
    paths = write(tmp_path / "a.safetensors", first, peft), write(tmp_path / "b.safetensors", second, comfy)
    video = made_with(one_stage, (paths[0], 0.5), (paths[1], 1.2))
    assert off(video, made_with(merged(files, (first, 0.5), (second, 1.2)))) < 1e-4


@pytest.mark.parametrize("kind", ["fp8", "Q8_0"])
def test_over_packed_weights_they_are_what_they_are_over_the_expanded_ones(
    kind: str, files: dict[str, Path], one_stage: Any, tmp_path: Path
) -> None:
    from mold_core.weights import PackedLinear, PackedTensor, read_weights

    tensors = load_file(files["transformer"])
    packed = tmp_path / f"packed-{kind}"
    if kind == "fp8":
        for name, tensor in list(tensors.items()):
            if ".transformer_blocks." in name and name.endswith(".weight") and tensor.ndim == 2:
                scale = tensor.abs().max() / 448
                tensors[name] = (tensor / scale).to(torch.float8_e4m3fn)
                tensors[name.replace(".weight", ".weight_scale")] = scale
        save_file(tensors, packed)
    else:
        bare = transformer_of(tensors)
        matrices = [
            name
            for name, tensor in bare.items()
            if name.startswith("transformer_blocks.") and tensor.ndim == 2 and not tensor.shape[1] % 32
        ]
        write_gguf(packed, bare, dict.fromkeys(matrices, kind), "ltxv")
    dense = {
        name: tensor.expand() if isinstance(tensor, PackedTensor) else tensor
        for name, tensor in read_weights(packed).items()
    }
    save_file({name: tensor.contiguous() for name, tensor in dense.items()}, tmp_path / "dense.safetensors")
    others = {name: path for name, path in files.items() if name not in ("transformer", "spatial_upscaler")}
    if kind != "fp8":  # the transformer alone
        others |= dict.fromkeys(("connectors", "vae", "audio_vae", "vocoder"), files["transformer"])
    made = pairs(one_stage)
    path = write(tmp_path / "a.safetensors", made, official)
    pipeline = load({**others, "transformer": packed})
    with pipeline.components.use("transformer", lambda event: None) as network:
        assert any(isinstance(module, PackedLinear) for module in network.modules())
    video = made_with(pipeline, (path, 1.0))
    expanded = made_with(load({**others, "transformer": tmp_path / "dense.safetensors"}), (path, 1.0))
    assert off(video, expanded) < 1e-5


def transformer_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the transformer's tensors as GGUF files have them, without a prefix."""
    prefix = "model.diffusion_model."
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix) and not re.match(r"(video|audio)_embeddings_connector", name.removeprefix(prefix))
    }


def test_the_second_pass_of_a_guided_model_takes_its_distilled_adapter(
    files: dict[str, Path], one_stage: Any, tmp_path: Path
) -> None:
    quiet = {layer: (down, up * 0) for layer, (down, up) in pairs(one_stage).items()}
    without = load({**files, "distilled_lora": write(tmp_path / "a.safetensors", quiet, official)}, distilled=False)
    beside = load(
        {**files, "distilled_lora": write(tmp_path / "b.safetensors", pairs(one_stage), official)}, distilled=False
    )
    run = RecordedRun()
    video = beside.render(REQUEST, run)[0]
    assert run.steps[-1] == (4 + 3, 4 + 3)
    assert off(video, without.render(REQUEST, RecordedRun())[0]) > 1e-2
    one = attrs.evolve(REQUEST, pipeline="one-stage")
    assert torch.equal(beside.render(one, RecordedRun())[0], without.render(one, RecordedRun())[0])


@pytest.mark.soak
def test_both_passes_of_the_best_way_take_part_of_the_distilled_adapter(
    files: dict[str, Path], one_stage: Any, tmp_path: Path
) -> None:
    pipeline = load(
        {**files, "distilled_lora": write(tmp_path / "a.safetensors", pairs(one_stage), official)}, distilled=False
    )
    plan = pipeline._plan(attrs.evolve(REQUEST, pipeline="two-stage-hq", loras=(LoraWeight(path="own"),)))
    assert [[(Path(lora.path).name, lora.scale) for lora in one.loras] for one in plan.passes] == [
        [("own", 1.0), ("a.safetensors", 0.25)],
        [("own", 1.0), ("a.safetensors", 0.5)],
    ]
    run = RecordedRun()
    best = pipeline.render(attrs.evolve(REQUEST, pipeline="two-stage-hq"), run)
    assert run.steps[-1] == (4 + 3, 4 + 3)
    assert all(torch.isfinite(made).all() for made in best)
    again = pipeline.render(attrs.evolve(REQUEST, pipeline="two-stage-hq"), RecordedRun())
    assert all(torch.equal(*pair) for pair in zip(best, again, strict=True))
    assert off(best[0], pipeline.render(REQUEST, RecordedRun())[0]) > 1e-2

    buffer = BytesIO()
    Image.new("RGB", (64, 64), (200, 40, 30)).save(buffer, "PNG")
    shown = attrs.evolve(REQUEST, pipeline="two-stage-hq", source_image=buffer.getvalue())
    held, free = (pipeline.render(attrs.evolve(shown, strength=strength), RecordedRun())[0] for strength in (1.0, 0.25))
    assert torch.isfinite(held).all() and torch.isfinite(free).all()
    assert off(held[:, :, :1], free[:, :, :1]) > 1e-2


def test_a_chain_takes_adapters(
    files: dict[str, Path], one_stage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mold_ltx2.chain import Ltx2ChainRenderer
    from mold_ltx2.family import Ltx2Family

    path = write(tmp_path / "a.safetensors", pairs(one_stage), official)
    plugin = FakePlugin(families=[Ltx2Family()], models=[spec_of(files)], chain_renderers=[Ltx2ChainRenderer()])
    chain = ChainRequest(model="ltx-2-tiny", prompt="a boat on the sea", total_frames=25, clip_frames=17, seed=1)
    with engine_with(plugin) as engine:
        plain, other = (
            engine.chain(attrs.evolve(chain, loras=loras)).video.data for loras in (None, (LoraWeight(path=str(path)),))
        )
    assert plain != other


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"diffusion_model.transformer_blocks.0.attn1.to_q.lora_A.weight": torch.ones(2, 32)}, "has no counterpart"),
        (
            {
                "diffusion_model.transformer_blocks.0.attn1.to_q.lora_A.weight": torch.ones(2, 31),
                "diffusion_model.transformer_blocks.0.attn1.to_q.lora_B.weight": torch.ones(32, 2),
            },
            r"has the shape \[2, 31\] where \[2, 32\] is needed",
        ),
        (
            {
                "double_blocks.0.img_attn.qkv.lora_A.weight": torch.ones(2, 32),
                "double_blocks.0.img_attn.qkv.lora_B.weight": torch.ones(32, 2),
            },
            "it is for another model",
        ),
        ({"a": torch.ones(1)}, "it contains no LoRA weights"),
    ],
)
def test_other_files_are_refused_by_name(
    one_stage: Any, tmp_path: Path, tensors: dict[str, Tensor], words: str
) -> None:
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=rf"other\.safetensors: .*{words}"):
        made_with(one_stage, (tmp_path / "other.safetensors", 1.0))
