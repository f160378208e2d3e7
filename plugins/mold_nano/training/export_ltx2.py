"""Writes the trained networks as `ltx2-nano`: LTX-2's files with their official parameter names, in bf16.

    python export_ltx2.py --work /path/to/scratch --out ../mold_nano/models/ltx2-nano

One file holds all networks but the text encoder, which has its own. The files are then read with `mold_ltx2`'s names
and compared with the networks that were trained.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from ltx2_sizes import load_averaged
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from train_ltx2 import Nano

from mold_ltx2.checkpoints import official_names
from mold_ltx2.gemma import gemma_names

# diffusers' names and the official ones, in the order they are put in.
_TRANSFORMER = (
    ("prompt_adaln", "prompt_adaln_single"),
    ("av_cross_attn_video_scale_shift", "av_ca_video_scale_shift_adaln_single"),
    ("av_cross_attn_video_a2v_gate", "av_ca_a2v_gate_adaln_single"),
    ("av_cross_attn_audio_scale_shift", "av_ca_audio_scale_shift_adaln_single"),
    ("av_cross_attn_audio_v2a_gate", "av_ca_v2a_gate_adaln_single"),
    ("video_a2v_cross_attn_scale_shift_table", "scale_shift_table_a2v_ca_video"),
    ("audio_a2v_cross_attn_scale_shift_table", "scale_shift_table_a2v_ca_audio"),
    ("time_embed", "adaln_single"),
    ("proj_in", "patchify_proj"),
    ("norm_q", "q_norm"),
    ("norm_k", "k_norm"),
)
_CONNECTORS = (
    ("video_connector", "model.diffusion_model.video_embeddings_connector"),
    ("audio_connector", "model.diffusion_model.audio_embeddings_connector"),
    ("text_proj_in", "text_embedding_projection.aggregate_embed"),
    ("transformer_blocks", "transformer_1d_blocks"),
    ("norm_q", "q_norm"),
    ("norm_k", "k_norm"),
)
_VOCODER = (("conv_in", "conv_pre"), ("conv_out", "conv_post"), ("resnets", "resblocks"), ("upsamplers", "ups"))
_STATISTICS = (
    ("latents_mean", "per_channel_statistics.mean-of-means"),
    ("latents_std", "per_channel_statistics.std-of-means"),
)


def renamed(module: nn.Module, prefix: str, pairs: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    """Returns a network's tensors under official names."""
    tensors = {}
    for name, tensor in module.state_dict().items():
        for old, new in pairs:
            name = name.replace(old, new)
        tensors[prefix + name] = tensor
    return tensors


def video_names(module: nn.Module) -> dict[str, Tensor]:
    """Returns the video autoencoder: blocks and samplers count through in turn, the middle as the inner end."""
    last = 2 * len(module.encoder.down_blocks)
    tensors = {}
    for name, tensor in module.state_dict().items():
        side, *rest = name.split(".")
        if rest and rest[0] == "mid_block":
            rest = ["down_blocks", str(last), *rest[1:]] if side == "encoder" else ["up_blocks", "0", *rest[1:]]
        elif rest and rest[0] in ("down_blocks", "up_blocks"):
            sampler = rest[2] in ("downsamplers", "upsamplers")
            number = 2 * int(rest[1]) + (sampler if side == "encoder" else 2 - sampler)
            rest = [rest[0], str(number), *(rest[4:] if sampler else rest[2:])]
        official = ".".join([side, *rest]).replace("resnets", "res_blocks")
        for old, new in _STATISTICS:
            official = official.replace(old, new)
        tensors[f"vae.{official}"] = tensor
    return tensors


def trained(work: Path) -> dict[str, Any]:
    """Returns all networks with the averages of their weights and the statistics of their latents."""
    model = Nano()
    state = torch.load(work / "ltx2.pt")
    print(state["progress"])
    model.load_state_dict(state["ema"])
    statistics = torch.load(work / "statistics.pt")
    sharpened = work / "video-decoder.pt"
    vae_path = sharpened if sharpened.exists() else work / "video-vae.pt"
    vae, audio_vae = load_averaged("vae", vae_path), load_averaged("audio_vae", work / "audio_vae.pt")
    for network, kind in ((vae, "video"), (audio_vae, "audio")):
        network.register_buffer("latents_mean", statistics[f"{kind}_mean"])
        network.register_buffer("latents_std", statistics[f"{kind}_std"])
    return {
        "transformer": model.transformer,
        "connectors": model.connectors,
        "text_encoder": model.gemma,
        "vae": vae,
        "audio_vae": audio_vae,
        "vocoder": load_averaged("vocoder", work / "vocoder.pt"),
    }


def write(networks: dict[str, Any], out: Path) -> None:
    whole = {
        **renamed(networks["transformer"], "model.diffusion_model.", _TRANSFORMER),
        **renamed(networks["connectors"], "", _CONNECTORS),
        **video_names(networks["vae"]),
        **renamed(networks["audio_vae"], "audio_vae.", _STATISTICS),
        **renamed(networks["vocoder"], "vocoder.", _VOCODER),
    }
    gemma = renamed(networks["text_encoder"], "language_model.model.", ())
    for name, tensors in (("ltx2-nano", whole), ("text_encoder", gemma)):
        temporary = out / f"{name}.part"
        halves = {key: tensor.bfloat16().contiguous() for key, tensor in tensors.items()}
        save_file(halves, temporary, metadata={"format": "pt"})
        temporary.replace(out / f"{name}.safetensors")


def compare(networks: dict[str, Any], out: Path) -> None:
    """Raises unless `mold_ltx2` reads every tensor back to its place."""
    whole = load_file(out / "ltx2-nano.safetensors")
    for component, network in networks.items():
        if component == "text_encoder":
            read = gemma_names(load_file(out / "text_encoder.safetensors"))
        else:
            read = official_names(component, whole)
        wanted = network.state_dict()
        if read.keys() != wanted.keys():
            raise SystemExit(f"{component}: names differ: {sorted(read.keys() ^ wanted.keys())[:6]}")
        for name, tensor in wanted.items():
            if not torch.equal(read[name], tensor.bfloat16()):
                raise SystemExit(f"{component}: {name} is not what was trained")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the model, which holds its tokenizer already"
    )
    arguments = parser.parse_args()
    networks = trained(arguments.work)
    write(networks, arguments.out)
    compare(networks, arguments.out)
    sizes = {path.name: path.stat().st_size for path in sorted(arguments.out.iterdir())}
    print("\n".join(f"{name:28} {size:>10,} bytes" for name, size in sizes.items()))
    print(f"{'in all':28} {sum(sizes.values()):>10,} bytes")


if __name__ == "__main__":
    main()
