"""The reference: diffusers' FluxPipeline with the weights of a mold FLUX model, written as a folder that it can load.

The official files and diffusers name and slice the same tensors differently; the tables here map them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import compare
from safetensors.torch import load_file
from torch import Tensor

__all__ = ["diffusers_pipeline", "faster_dtype"]

_DOUBLE = {
    "img_mod.lin": "norm1.linear",
    "txt_mod.lin": "norm1_context.linear",
    "img_attn.norm.query_norm.scale": "attn.norm_q.weight",
    "img_attn.norm.key_norm.scale": "attn.norm_k.weight",
    "txt_attn.norm.query_norm.scale": "attn.norm_added_q.weight",
    "txt_attn.norm.key_norm.scale": "attn.norm_added_k.weight",
    "img_attn.proj": "attn.to_out.0",
    "txt_attn.proj": "attn.to_add_out",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
}
_SINGLE = {
    "modulation.lin": "norm.linear",
    "norm.query_norm.scale": "attn.norm_q.weight",
    "norm.key_norm.scale": "attn.norm_k.weight",
    "linear2": "proj_out",
}
_TOP = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "final_layer.linear": "proj_out",
}


def transformer_to_diffusers(official: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return diffusers' state dict of a FLUX transformer in the official layout."""
    renamed: dict[str, Tensor] = {}
    hidden = official["img_in.weight"].shape[0]
    for name, tensor in official.items():
        block = re.match(r"(double|single)_blocks\.(\d+)\.(.+)", name)
        if block:
            prefix = f"{'single_' if block[1] == 'single' else ''}transformer_blocks.{block[2]}."
            renamed |= _block_tensor(prefix, block[1], block[3], tensor, hidden)
        elif name.startswith("final_layer.adaLN_modulation.1"):
            shift, scale = tensor.chunk(2)
            renamed["norm_out.linear." + name.rsplit(".", 1)[1]] = torch.cat([scale, shift])
        else:
            stem, kind = name.rsplit(".", 1)
            renamed[f"{_TOP[stem]}.{kind}"] = tensor
    return renamed


def _block_tensor(prefix: str, block: str, name: str, tensor: Tensor, hidden: int) -> dict[str, Tensor]:
    stem, kind = name.rsplit(".", 1)
    if stem.endswith("attn.qkv"):
        names = ("to_q", "to_k", "to_v") if stem.startswith("img") else ("add_q_proj", "add_k_proj", "add_v_proj")
        return {f"{prefix}attn.{part}.{kind}": rows for part, rows in zip(names, tensor.chunk(3), strict=True)}
    if stem == "linear1":
        parts = tensor.split([hidden, hidden, hidden, tensor.shape[0] - 3 * hidden])
        names = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
        return {f"{prefix}{part}.{kind}": rows for part, rows in zip(names, parts, strict=True)}
    table = _DOUBLE if block == "double" else _SINGLE
    return {prefix + table[name]: tensor} if name in table else {f"{prefix}{table[stem]}.{kind}": tensor}


def autoencoder_to_diffusers(official: dict[str, Tensor], levels: int) -> dict[str, Tensor]:
    """Return diffusers' state dict of an autoencoder in the layout of ae.safetensors."""
    return {_autoencoder_name(name, levels): _squeeze_attention(name, tensor) for name, tensor in official.items()}


def _autoencoder_name(name: str, levels: int) -> str:
    name = re.sub(r"mid\.block_(\d)", lambda m: f"mid_block.resnets.{int(m[1]) - 1}", name)
    name = name.replace("mid.attn_1.norm", "mid_block.attentions.0.group_norm")
    for ours, theirs in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")):
        name = name.replace(f"mid.attn_1.{ours}.", f"mid_block.attentions.0.{theirs}.")
    name = re.sub(r"down\.(\d+)\.block\.(\d+)", r"down_blocks.\1.resnets.\2", name)
    name = re.sub(r"down\.(\d+)\.downsample\.", r"down_blocks.\1.downsamplers.0.", name)
    name = re.sub(r"up\.(\d+)\.block\.(\d+)", lambda m: f"up_blocks.{levels - 1 - int(m[1])}.resnets.{m[2]}", name)
    name = re.sub(r"up\.(\d+)\.upsample\.", lambda m: f"up_blocks.{levels - 1 - int(m[1])}.upsamplers.0.", name)
    return name.replace("nin_shortcut", "conv_shortcut").replace("norm_out", "conv_norm_out")


def _squeeze_attention(name: str, tensor: Tensor) -> Tensor:
    return tensor[:, :, 0, 0] if "attn_1" in name and tensor.ndim == 4 else tensor


def diffusers_pipeline(model: Path) -> Any:
    """Return a FluxPipeline, fp32, with the weights in a folder of the layout of flux-nano."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

    sizes = tomllib.loads((model / "config.toml").read_text())
    flux, vae, clip, t5 = (sizes[part] for part in ("transformer", "autoencoder", "clip", "t5"))
    transformer = FluxTransformer2DModel(
        in_channels=flux["in_channels"],
        num_layers=flux["depth_double"],
        num_single_layers=flux["depth_single"],
        attention_head_dim=flux["hidden_size"] // flux["heads"],
        num_attention_heads=flux["heads"],
        joint_attention_dim=flux["context_dim"],
        pooled_projection_dim=flux["pooled_dim"],
        guidance_embeds=flux["guidance_embed"],
        axes_dims_rope=tuple(flux["axes_dim"]),
    )
    transformer.load_state_dict(transformer_to_diffusers(_tensors(model / "flux-nano.safetensors")))
    levels = len(vae["block_channels"])
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=vae["block_channels"],
        layers_per_block=vae["layers_per_block"],
        latent_channels=vae["latent_channels"],
        norm_num_groups=vae["groups"],
        scaling_factor=vae["scale"],
        shift_factor=vae["shift"],
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    autoencoder.load_state_dict(autoencoder_to_diffusers(_tensors(model / "ae.safetensors"), levels))
    clip_config = CLIPTextConfig(
        hidden_size=clip["hidden_size"],
        intermediate_size=clip["mlp_size"],
        num_hidden_layers=clip["depth"],
        num_attention_heads=clip["heads"],
        vocab_size=clip["vocabulary"],
        max_position_embeddings=clip["positions"],
        hidden_act=clip["activation"],
        projection_dim=clip["hidden_size"],
        bos_token_id=clip["eos_id"] - 1,
        eos_token_id=clip["eos_id"],
        pad_token_id=clip["eos_id"],
    )
    t5_config = T5Config(
        d_model=t5["hidden_size"],
        d_ff=t5["mlp_size"],
        d_kv=t5["head_dim"],
        num_heads=t5["heads"],
        num_layers=t5["depth"],
        vocab_size=t5["vocabulary"],
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
    )
    end, start = "<|endoftext|>", "<|startoftext|>"
    return FluxPipeline(
        transformer=transformer,
        vae=autoencoder,
        text_encoder=_loaded(CLIPTextModel, clip_config, model / "clip_l.safetensors"),
        text_encoder_2=_loaded(T5EncoderModel, t5_config, model / "t5.safetensors"),
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_file=str(model / "clip_tokenizer.json"),
            bos_token=start,
            eos_token=end,
            pad_token=end,
            unk_token=end,
            model_max_length=clip["positions"],
        ),
        tokenizer_2=PreTrainedTokenizerFast(
            tokenizer_file=str(model / "t5_tokenizer.json"),
            eos_token="</s>",
            pad_token="<pad>",
            unk_token="<unk>",
            model_max_length=512,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=sizes["defaults"]["schedule_shift"]),
    )


def faster_dtype(model: Path, run: Callable[[Any], object]) -> Any:
    """Return the pipeline in fp32 or bf16, whichever does `run` faster here: the alternative at its best."""
    pipelines = [diffusers_pipeline(model).to(dtype) for dtype in (torch.float32, torch.bfloat16)]
    for pipeline in pipelines:
        pipeline.set_progress_bar_config(disable=True)
    times = compare(lambda: run(pipelines[0]), lambda: run(pipelines[1]), pairs=7, warmup=2)
    print(times.describe("diffusers in fp32", "in bf16"))
    return pipelines[0] if times.ratio < 1 else pipelines[1]


def _loaded(cls: Any, config: Any, path: Path) -> Any:
    return cls.from_pretrained(None, config=config, state_dict=_tensors(path), dtype=torch.float32)


def _tensors(path: Path) -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in load_file(path).items()}
