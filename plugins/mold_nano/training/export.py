"""Writes the trained networks as `flux-nano`: a FLUX.1 model's files with their official parameter names, in bf16.

    python export.py --work /path/to/scratch --out ../mold_nano/models/flux-nano

The files are then loaded with the modules of `mold_flux` and compared with the training modules on a batch.
"""

import argparse
import tomllib
from pathlib import Path

import autoencoder
import torch
from attrs import asdict
from flux import FluxShape, Rotary
from safetensors.torch import load_file, save_file
from sample import GRID, Sampler
from text import CLIP_POSITIONS, T5_PAD, TEXT_TOKENS, padded
from torch import Tensor, nn

FILES = {
    "transformer": "flux-nano.safetensors",
    "autoencoder": "ae.safetensors",
    "clip": "clip_l.safetensors",
    "t5": "t5.safetensors",
}


def configuration(sampler: Sampler) -> str:
    """Returns config.toml: the sizes that the engine cannot read off the weights, and the defaults of a request."""
    flux, vae, clip, t5 = FluxShape(), autoencoder.CONFIG, sampler.model.clip.config, sampler.model.t5.config
    sections = {
        "defaults": {
            "width": 128, "height": 128, "steps": 4, "guidance": 0.0, "text_tokens": TEXT_TOKENS, "schedule_shift": 1.0,
        },
        "transformer": {
            "in_channels": flux.channels, "out_channels": flux.channels, "hidden_size": flux.width, "heads": flux.heads,
            "depth_double": flux.double_blocks, "depth_single": flux.single_blocks, "context_dim": flux.text_width,
            "pooled_dim": flux.pooled_width, "axes_dim": list(flux.axes), "theta": int(flux.theta),
            "guidance_embed": False, "mlp_ratio": 4.0,
        },
        "autoencoder": {
            "block_channels": list(vae.block_channels), "layers_per_block": vae.layers_per_block,
            "latent_channels": vae.latent_channels, "groups": vae.groups,
            "scale": round(sampler.scale, 6), "shift": round(sampler.shift, 6),
        },
        "clip": asdict(clip),
        "t5": asdict(t5),
    }  # fmt: skip
    blocks = [
        "\n".join([f"[{name}]", *(f"{key} = {literal(value)}" for key, value in values.items())])
        for name, values in sections.items()
    ]
    return "# Sizes of flux-nano that its weights do not tell, and what a request means that says nothing else.\n\n" + (
        "\n\n".join(blocks) + "\n"
    )


def literal(value: object) -> str:
    """Returns a number, a truth value, a word or a list of numbers as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def halves(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.bfloat16().contiguous() for name, value in module.state_dict().items()}


def write(sampler: Sampler, out: Path) -> None:
    """Writes the four weight files and config.toml."""
    modules = {
        "transformer": sampler.model.flux,
        "autoencoder": sampler.autoencoder,
        "clip": sampler.model.clip,
        "t5": sampler.model.t5,
    }
    for part, module in modules.items():
        temporary = out / f"{FILES[part]}.part"
        save_file(halves(module), temporary, metadata={"format": "pt"})
        temporary.replace(out / FILES[part])
    (out / "config.toml").write_text(configuration(sampler))


@torch.no_grad()
def compare(sampler: Sampler, out: Path) -> dict[str, float]:
    """Returns how far the modules of `mold_flux` are from the training modules, relative to the outputs' spread."""
    from mold_flux.autoencoder import Autoencoder, AutoencoderConfig
    from mold_flux.text_encoders import ClipConfig, ClipTextEncoder, ClipTokenizer, T5Config, T5Encoder, T5Tokenizer
    from mold_flux.transformer import FluxConfig, FluxTransformer, rope

    config = tomllib.loads((out / "config.toml").read_text())
    theirs = {
        "transformer": FluxTransformer(FluxConfig(**config["transformer"])),
        "autoencoder": Autoencoder(AutoencoderConfig(**config["autoencoder"])),
        "clip": ClipTextEncoder(ClipConfig(**config["clip"])),
        "t5": T5Encoder(T5Config(**config["t5"])),
    }
    for part, module in theirs.items():
        module.load_state_dict(load_file(out / FILES[part]))
        module.float().eval()
    ours = sampler.model
    for module in (ours, sampler.autoencoder):
        module.bfloat16().float()
    captions = list(GRID[:4])
    t5_ids = T5Tokenizer(out / "t5_tokenizer.json", length=TEXT_TOKENS).encode(captions)
    clip_ids = ClipTokenizer(out / "clip_tokenizer.json", length=CLIP_POSITIONS).encode(captions)
    if not torch.equal(t5_ids, padded(sampler.texts.t5_ids(captions), TEXT_TOKENS, T5_PAD)):
        raise ValueError("T5 tokens differ between training and engine")
    txt, pooled = ours.t5(t5_ids), ours.clip(clip_ids)
    tokens, t = torch.randn(4, 48, 64), torch.tensor([1.0, 0.7, 0.4, 0.1])
    wanted = ours.flux(tokens, txt, pooled, t, Rotary(TEXT_TOKENS, 6, 8, FluxShape(), torch.float32))
    turns = rope(theirs["transformer"].config, TEXT_TOKENS, 6, 8)
    latents = torch.randn(2, autoencoder.CONFIG.latent_channels, 12, 16)
    pairs = {
        "t5": (theirs["t5"](t5_ids), txt),
        "clip": (theirs["clip"](clip_ids), ours.clip(sampler.texts.clip_ids(captions))),
        "transformer": (theirs["transformer"](tokens, txt, pooled, t, None, turns), wanted),
        "decoder": (
            theirs["autoencoder"].decode(latents),
            sampler.autoencoder.decoder(latents / sampler.scale + sampler.shift),
        ),
    }
    return {part: float((made - want).abs().max() / want.std()) for part, (made, want) in pairs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the model, which holds its tokenizers already"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sampler = Sampler(arguments.work, arguments.out)
    write(sampler, arguments.out)
    sizes = {path.name: path.stat().st_size for path in sorted(arguments.out.iterdir())}
    print(
        "\n".join(f"{name:28} {size:>10,} bytes" for name, size in sizes.items()), f"\nin all {sum(sizes.values()):,}"
    )
    differences = compare(sampler, arguments.out)
    print("largest difference from mold_flux:", differences)
    if max(differences.values()) > 0.01:
        raise SystemExit("the exported files do not mean to mold_flux what they mean to the trainer")


if __name__ == "__main__":
    main()
