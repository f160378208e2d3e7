"""A tiny LTX-2 with random weights, as diffusers' modules and as files in the official layout."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn

__all__ = ["CONFIGS", "CONFIGS_23", "WORDS", "TinyLtx2", "tiny_ltx2", "write_files"]

TEXT_TOKENS = 32
WORDS = ["<pad>", "<eos>", "<bos>", "<unk>", "a", "red", "blue", "ball", "boat", "on", "the", "sea", "flies", "blurry"]

CONFIGS: dict[str, dict[str, Any]] = {
    "transformer": {
        "in_channels": 16,
        "out_channels": 16,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "cross_attention_dim": 32,
        "vae_scale_factors": [8, 8, 8],
        "audio_in_channels": 16,
        "audio_out_channels": 16,
        "audio_num_attention_heads": 2,
        "audio_attention_head_dim": 8,
        "audio_cross_attention_dim": 16,
        "num_layers": 2,
        "caption_channels": 24,
        "rope_type": "split",
    },
    "connectors": {
        "rope_type": "split",
        "caption_channels": 24,
        "text_proj_in_factor": 3,
        "video_connector_num_attention_heads": 2,
        "video_connector_attention_head_dim": 12,
        "video_connector_num_layers": 1,
        "video_connector_num_learnable_registers": 16,
        "audio_connector_num_attention_heads": 2,
        "audio_connector_attention_head_dim": 12,
        "audio_connector_num_layers": 1,
        "audio_connector_num_learnable_registers": 16,
    },
    "vae": {
        "latent_channels": 16,
        "block_out_channels": [16, 16, 16],
        "down_block_types": ["LTX2VideoDownBlock3D"] * 3,
        "layers_per_block": [1, 1, 1, 1],
        "downsample_type": ["spatiotemporal", "temporal", "temporal"],
        "spatio_temporal_scaling": [True, True, True],
        "decoder_block_out_channels": [16, 32, 64],
        "decoder_layers_per_block": [1, 1, 1, 1],
        "decoder_spatio_temporal_scaling": [True, True, True],
        "decoder_inject_noise": [False] * 4,
        "upsample_type": ["temporal", "temporal", "spatiotemporal"],
        "upsample_residual": [True] * 3,
        "upsample_factor": [2, 2, 2],
        "patch_size": 4,
        "decoder_causal": False,
        "spatial_compression_ratio": 8,
        "temporal_compression_ratio": 8,
    },
    "audio_vae": {"base_channels": 16, "ch_mult": [1, 1, 1], "num_res_blocks": 1, "latent_channels": 4, "mel_bins": 16},
    "vocoder": {
        "in_channels": 32,
        "hidden_channels": 32,
        "upsample_kernel_sizes": [16, 15, 8],
        "upsample_factors": [4, 5, 4],
        "resnet_kernel_sizes": [3],
        "resnet_dilations": [[1, 3, 5]],
        "output_sampling_rate": 8000,
    },
    "text_encoder": {
        "vocab_size": len(WORDS),
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 12,
        "query_pre_attn_scalar": 12,
        "sliding_window": 16,
        "max_position_embeddings": 512,
    },
}


# The same as LTX-2.3 is built: gates, a modulated prompt, connectors of the transformer's widths, a decoder of four
# levels, a vocoder that widens the band.
CONFIGS_23: dict[str, dict[str, Any]] = {
    **CONFIGS,
    "transformer": {
        **CONFIGS["transformer"],
        "gated_attn": True,
        "cross_attn_mod": True,
        "audio_gated_attn": True,
        "audio_cross_attn_mod": True,
        "use_prompt_embeddings": False,
        "perturbed_attn": True,
    },
    "connectors": {
        **CONFIGS["connectors"],
        "video_connector_attention_head_dim": 16,
        "video_gated_attn": True,
        "audio_connector_attention_head_dim": 8,
        "audio_gated_attn": True,
        "per_modality_projections": True,
        "video_hidden_dim": 32,
        "audio_hidden_dim": 16,
        "proj_bias": True,
    },
    "vae": {
        **CONFIGS["vae"],
        "block_out_channels": [16, 16, 16, 16],
        "down_block_types": ["LTX2VideoDownBlock3D"] * 4,
        "layers_per_block": [1] * 5,
        "spatio_temporal_scaling": [True] * 4,
        "downsample_type": ["spatial", "temporal", "spatiotemporal", "spatiotemporal"],
        "decoder_block_out_channels": [16, 32, 32, 64],
        "decoder_layers_per_block": [1] * 5,
        "decoder_spatio_temporal_scaling": [True] * 4,
        "decoder_inject_noise": [False] * 5,
        "upsample_type": ["spatiotemporal", "spatiotemporal", "temporal", "spatial"],
        "upsample_residual": [False] * 4,
        "upsample_factor": [2, 2, 1, 2],
        "patch_size": 1,
        "decoder_spatial_padding_mode": "zeros",
    },
    "vocoder": {
        "in_channels": 32,
        "hidden_channels": 32,
        "upsample_kernel_sizes": [11, 4],
        "upsample_factors": [10, 4],
        "resnet_kernel_sizes": [3],
        "resnet_dilations": [[1, 3, 5]],
        "bwe_in_channels": 16,
        "bwe_hidden_channels": 16,
        "bwe_upsample_kernel_sizes": [12],
        "bwe_upsample_factors": [6],
        "bwe_resnet_kernel_sizes": [3],
        "bwe_resnet_dilations": [[1, 3, 5]],
        "filter_length": 32,
        "hop_length": 3,
        "window_length": 32,
        "num_mel_channels": 8,
        "input_sampling_rate": 4000,
        "output_sampling_rate": 8000,
    },
}


@frozen(kw_only=True)
class TinyLtx2:
    """The modules, as diffusers and transformers build them."""

    transformer: Any
    connectors: Any
    vae: Any
    audio_vae: Any
    vocoder: Any
    gemma: Any
    upsampler: Any


def tiny_ltx2(seed: int = 0, configs: dict[str, dict[str, Any]] = CONFIGS) -> TinyLtx2:
    """Return the tiny model in fp32, the same for the same seed."""
    from diffusers import AutoencoderKLLTX2Audio, AutoencoderKLLTX2Video, LTX2VideoTransformer3DModel
    from diffusers.pipelines.ltx2 import LTX2LatentUpsamplerModel, LTX2TextConnectors, LTX2Vocoder
    from diffusers.pipelines.ltx2.vocoder import LTX2VocoderWithBWE
    from transformers import Gemma3TextConfig, Gemma3TextModel

    torch.manual_seed(seed)
    vocoder = LTX2VocoderWithBWE if "bwe_in_channels" in configs["vocoder"] else LTX2Vocoder
    made = TinyLtx2(
        transformer=LTX2VideoTransformer3DModel(**configs["transformer"]),
        connectors=LTX2TextConnectors(**configs["connectors"]),
        vae=AutoencoderKLLTX2Video(**configs["vae"]),
        audio_vae=AutoencoderKLLTX2Audio(**configs["audio_vae"]),
        vocoder=vocoder(**configs["vocoder"]),
        gemma=Gemma3TextModel(Gemma3TextConfig(**configs["text_encoder"])),
        upsampler=LTX2LatentUpsamplerModel(
            in_channels=16, mid_channels=32, num_blocks_per_stage=1, use_rational_resampler=False
        ),
    )
    made.vae.latents_mean.normal_(0, 0.1)
    made.vae.latents_std.uniform_(0.5, 1.5)
    made.audio_vae.latents_mean.normal_(0, 0.1)
    made.audio_vae.latents_std.uniform_(0.5, 1.5)
    for module in (made.transformer, made.connectors, made.gemma):
        _randomise(module)
    if hasattr(made.vocoder, "mel_stft"):  # zero until it is loaded
        for buffer in made.vocoder.mel_stft.buffers():
            buffer.uniform_(0, 0.5)
    for module in (made.vae, made.audio_vae, made.vocoder, made.upsampler):
        module.eval()
    return made


def write_files(tiny: TinyLtx2, folder: Path, *, split: bool = False) -> dict[str, Path]:
    """Write the files of a model in the official layout; return them by component. `split`: the VAE apart."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {
        **_renamed(tiny.transformer, "model.diffusion_model.", _TRANSFORMER),
        **_connectors(tiny.connectors),
        **_renamed(tiny.audio_vae, "audio_vae.", _STATISTICS),
        **_renamed(tiny.vocoder, "vocoder.", _VOCODER_23 if hasattr(tiny.vocoder, "bwe_generator") else _VOCODER),
    }
    levels = len(tiny.vae.config.block_out_channels)
    video = {f"vae.{_video_name(name, levels)}": tensor for name, tensor in tiny.vae.state_dict().items()}
    files = {"transformer": folder / "ltx-2-tiny.safetensors"}
    if split:
        files["vae"] = folder / "vae.safetensors"
        _save(video, files["vae"])
    else:
        whole.update(video)
        for name in ("mean-of-stds", "mean-of-stds_over_std-of-means", "channel"):
            whole[f"vae.per_channel_statistics.{name}"] = torch.ones(16)
    _save(whole, files["transformer"])
    files["text_encoder"] = folder / "model-00001-of-00001.safetensors"
    shards = {f"language_model.model.{name}": tensor for name, tensor in tiny.gemma.state_dict().items()}
    _save({**shards, "vision_tower.vision_model.embeddings.patch_embedding.bias": torch.ones(4)}, files["text_encoder"])
    files["spatial_upscaler"] = folder / "upscaler.safetensors"
    _save(tiny.upsampler.state_dict(), files["spatial_upscaler"])
    files["tokenizer"] = folder / "tokenizer.json"
    tokenizer().save(str(files["tokenizer"]))
    return files


def tokenizer() -> Tokenizer:
    """Return a tokenizer of whole words that begins texts as Gemma's does."""
    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return made


# diffusers' names, and the official ones.
_TRANSFORMER = (
    (r"^audio_proj_in", "audio_patchify_proj"),
    (r"^proj_in", "patchify_proj"),
    (r"^audio_time_embed", "audio_adaln_single"),
    (r"prompt_adaln", "prompt_adaln_single"),
    (r"^time_embed", "adaln_single"),
    (r"^av_cross_attn_video_scale_shift", "av_ca_video_scale_shift_adaln_single"),
    (r"^av_cross_attn_video_a2v_gate", "av_ca_a2v_gate_adaln_single"),
    (r"^av_cross_attn_audio_scale_shift", "av_ca_audio_scale_shift_adaln_single"),
    (r"^av_cross_attn_audio_v2a_gate", "av_ca_v2a_gate_adaln_single"),
    (r"video_a2v_cross_attn_scale_shift_table", "scale_shift_table_a2v_ca_video"),
    (r"audio_a2v_cross_attn_scale_shift_table", "scale_shift_table_a2v_ca_audio"),
    (r"norm_q", "q_norm"),
    (r"norm_k", "k_norm"),
)
_STATISTICS = (
    (r"^latents_mean", "per_channel_statistics.mean-of-means"),
    (r"^latents_std", "per_channel_statistics.std-of-means"),
)
_VOCODER_23 = (
    (r"(^|\.)upsamplers\.", r"\1ups."),
    (r"resnets", "resblocks"),
    (r"conv_in", "conv_pre"),
    (r"conv_out", "conv_post"),
    (r"act_out", "act_post"),
    (r"downsample\.filter", "downsample.lowpass.filter"),
)
_VOCODER = ((r"^upsamplers", "ups"), (r"^resnets", "resblocks"), (r"^conv_in", "conv_pre"), (r"^conv_out", "conv_post"))
_CONNECTORS = (
    (r"^video_connector", "model.diffusion_model.video_embeddings_connector"),
    (r"^audio_connector", "model.diffusion_model.audio_embeddings_connector"),
    (r"^text_proj_in", "text_embedding_projection.aggregate_embed"),
    (r"^(video|audio)_text_proj_in", r"text_embedding_projection.\1_aggregate_embed"),
    (r"transformer_blocks", "transformer_1d_blocks"),
    (r"norm_q", "q_norm"),
    (r"norm_k", "k_norm"),
)


def _connectors(module: nn.Module) -> dict[str, torch.Tensor]:
    return _renamed(module, "", _CONNECTORS)


def _renamed(module: nn.Module, prefix: str, pairs: tuple[tuple[str, str], ...]) -> dict[str, torch.Tensor]:
    named = {}
    for name, tensor in module.state_dict().items():
        for old, new in pairs:
            name = re.sub(old, new, name)
        named[prefix + name] = tensor
    return named


def _video_name(name: str, levels: int) -> str:
    """Blocks and samplers count through in the official file: block, sampler, block, …, with the middle at one end."""
    for old, new in _STATISTICS:
        name = re.sub(old, new, name)
    name = name.replace("resnets", "res_blocks")
    if name.startswith("encoder.mid_block"):
        return name.replace("mid_block", f"down_blocks.{2 * levels}")
    if name.startswith("decoder.mid_block"):
        return name.replace("mid_block", "up_blocks.0")
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", lambda found: f"down_blocks.{2 * int(found[1]) + 1}", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda found: f"up_blocks.{2 * int(found[1]) + 1}", name)
    name = re.sub(r"down_blocks\.(\d)\.res", lambda found: f"down_blocks.{2 * int(found[1])}.res", name)
    return re.sub(r"up_blocks\.(\d)\.res", lambda found: f"up_blocks.{2 * int(found[1]) + 2}.res", name)


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path)


def _randomise(module: nn.Module) -> None:
    """Draw weights that let all parts matter: modulations start at zero otherwise."""
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1 or "table" in name:
            nn.init.normal_(parameter, std=0.2 / max(parameter.shape[-1], 1) ** 0.5 if parameter.ndim > 1 else 0.1)
    module.eval()


def official_layout(version: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return type and shape of every tensor of a published model in fp8, by its official name, and of its Gemma."""
    from sparse_files import layout_of

    from mold_core.weights import empty_modules
    from mold_ltx2.configs import OFFICIAL
    from mold_ltx2.gemma import gemma_config, gemma_network
    from mold_ltx2.loading import _networks

    networks, sizes = _networks(), OFFICIAL[version]  # type: ignore[index]
    kinds = {name: networks["extended_vocoder" if name == "vocoder" and version == "2.3" else name] for name in sizes}
    with empty_modules():
        made = {name: kinds[name](**sizes[name]) for name in sizes}
    prefix = "model.diffusion_model."
    layout = layout_of(
        _renamed(made["transformer"], prefix, _TRANSFORMER), "BF16", fp8="transformer_blocks.", scaled=True
    )
    layout |= layout_of(_connectors(made["connectors"]), "BF16")
    levels = len(made["vae"].config.block_out_channels)
    video = {f"vae.{_video_name(name, levels)}": tensor for name, tensor in made["vae"].state_dict().items()}
    unused = {"vae.per_channel_statistics.mean-of-stds_over_std-of-means": torch.empty(128, device="meta")}
    layout |= layout_of(video | unused, "BF16")
    layout |= layout_of(_renamed(made["audio_vae"], "audio_vae.", _STATISTICS), "BF16")
    layout |= layout_of(_renamed(made["vocoder"], "vocoder.", _VOCODER_23 if version == "2.3" else _VOCODER), "F32")
    gemma = layout_of(gemma_network(gemma_config()).state_dict(), "BF16", prefix="language_model.model.")
    return dict(layout), dict(gemma)
