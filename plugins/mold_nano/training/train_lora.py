"""Trains a small LoRA for flux-nano: everything it draws comes out in sepia. A few minutes on one core.

    python train_lora.py --out ../../../tests/mold_flux/sepia.safetensors --minutes 4

The transformer stays as it is; beside its linear layers, pairs of low-rank matrices (Hu et al. 2021, arXiv 2106.09685)
are trained with the same rectified flow as the model, on the same world painted in sepia. Captions say nothing of it.
Run it again when the model's weights have changed: it takes them from where they ship.
"""

import argparse
import json
import time
from pathlib import Path
from random import Random

import numpy as np
import torch
from attrs import frozen
from captions import caption
from PIL import Image
from safetensors.torch import save_file
from scenes import random_scene
from torch import Tensor, nn
from torch.nn import functional as F
from world import paint

from mold_core import read_catalog
from mold_core.weights import fill, read_weights
from mold_flux import checkpoints
from mold_flux.autoencoder import Autoencoder
from mold_flux.sampling import pack
from mold_flux.text_encoders import ClipTextEncoder, ClipTokenizer, T5Encoder, T5Tokenizer
from mold_flux.transformer import FluxTransformer, rope

MODELS = Path(__file__).parents[1] / "mold_nano" / "models"
SIZE = 128
DARK, LIGHT = np.array([38.0, 22.0, 10.0]), np.array([255.0, 240.0, 205.0])


class Pair(nn.Module):
    """A linear layer that is left alone, and what is trained beside it."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + F.linear(F.linear(x, self.down), self.up)


@frozen(kw_only=True)
class Nano:
    """The shipped networks, in fp32."""

    transformer: FluxTransformer
    autoencoder: Autoencoder
    clip: ClipTextEncoder
    t5: T5Encoder
    clip_tokenizer: ClipTokenizer
    t5_tokenizer: T5Tokenizer

    @classmethod
    def load(cls) -> "Nano":
        (spec,) = (spec for spec in read_catalog(MODELS / "catalog.toml") if spec.name == "flux-nano:bf16")
        paths = {file.component: MODELS / file.path for file in spec.files}

        def network(component: str, name: str, kind: type[nn.Module]) -> nn.Module:
            tensors = getattr(checkpoints, f"{name}_tensors")(read_weights(paths[component]))
            shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
            module = kind(getattr(checkpoints, f"{name}_config")(shapes, **spec.options.get(name, {})))
            fill(module, tensors, paths[component], dtype=torch.float32)
            return module.eval().requires_grad_(False)

        return cls(
            transformer=network("transformer", "transformer", FluxTransformer),
            autoencoder=network("vae", "autoencoder", Autoencoder),
            clip=network("clip_encoder", "clip", ClipTextEncoder),
            t5=network("t5_encoder", "t5", T5Encoder),
            clip_tokenizer=ClipTokenizer(paths["clip_tokenizer"]),
            t5_tokenizer=T5Tokenizer(paths["t5_tokenizer"], length=spec.options["text_tokens"]),
        )


def sepia(picture: Image.Image) -> Image.Image:
    """Returns a picture's brightness as browns, from dark to cream."""
    grey = np.asarray(picture.convert("L")).astype(float)[..., None] / 255
    return Image.fromarray((DARK + (LIGHT - DARK) * grey).round().astype(np.uint8))


@torch.no_grad()
def examples(nano: Nano, count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns tokens [N, L, C] of pictures in sepia, and what both text encoders make of their captions."""
    rng = Random(seed)
    tokens, text, pooled = [], [], []
    for number in range(count):
        scene = random_scene(rng)
        picture = np.asarray(sepia(paint(scene, seed=number).resize((SIZE, SIZE))))
        pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        tokens.append(pack(nano.autoencoder.encode(pixels)))
        words = [caption(scene, rng)]
        text.append(nano.t5(nano.t5_tokenizer.encode(words)))
        pooled.append(nano.clip(nano.clip_tokenizer.encode(words)))
    return torch.cat(tokens), torch.cat(text), torch.cat(pooled)


def with_pairs(transformer: FluxTransformer, rank: int) -> dict[str, Pair]:
    """Puts pairs beside the linear layers of all blocks but their modulations, and returns them by layer."""
    pairs = {}
    for name, module in list(transformer.named_modules()):
        if isinstance(module, nn.Linear) and "blocks." in name and "mod" not in name:
            pairs[name] = Pair(module, rank)
            transformer.set_submodule(name, pairs[name])
    return pairs


def save(path: Path, pairs: dict[str, Pair], rank: int, about: dict[str, object]) -> None:
    """Writes the pairs in bf16 with kohya's names, alpha equal to the rank."""
    tensors = {}
    for name, pair in pairs.items():
        stem = f"lora_unet_{name.replace('.', '_')}"
        tensors[f"{stem}.lora_down.weight"] = pair.down.detach().bfloat16()
        tensors[f"{stem}.lora_up.weight"] = pair.up.detach().bfloat16()
        tensors[f"{stem}.alpha"] = torch.tensor(float(rank))
    save_file(tensors, path, metadata={"mold.training": json.dumps(about)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--minutes", type=float, default=4, help="of processor time, after the pictures were drawn")
    parser.add_argument("--pictures", type=int, default=600)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--speed", type=float, default=2e-3, help="the highest learning rate")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    nano = Nano.load()
    tokens, text, pooled = examples(nano, arguments.pictures, seed=1)
    pairs = with_pairs(nano.transformer, arguments.rank)
    parameters = [parameter for pair in pairs.values() for parameter in (pair.down, pair.up)]
    optimiser = torch.optim.AdamW(parameters, lr=arguments.speed, betas=(0.9, 0.98), weight_decay=0.01)
    positions = rope(nano.transformer.config, text.shape[1], SIZE // 16, SIZE // 16)
    started, step, recent = time.process_time(), 0, []
    while (passed := (time.process_time() - started) / (60 * arguments.minutes)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = arguments.speed * min(1.0, (step + 1) / 20, 2.5 * (1 - passed) + 0.01)
        chosen = torch.randint(len(tokens), (arguments.batch,))
        clean, noise = tokens[chosen], torch.randn(arguments.batch, *tokens.shape[1:])
        # Half of the times are where nearly nothing of the picture is left: colours are decided there.
        t = torch.where(
            torch.rand(arguments.batch) < 0.5, 0.9 + 0.1 * torch.rand(arguments.batch), torch.rand(arguments.batch)
        )
        mixed = torch.lerp(clean, noise, t[:, None, None])
        velocity = nano.transformer(mixed, text[chosen], pooled[chosen], t, None, positions)
        loss = F.mse_loss(velocity, noise - clean)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step += 1
        recent.append(loss.item())
        if step % 25 == 0:
            print(f"step {step}  {100 * passed:.0f} %  loss {sum(recent[-25:]) / 25:.4f}", flush=True)
    about = {"pictures": step * arguments.batch, "minutes": arguments.minutes, "loss": sum(recent[-50:]) / 50}
    save(arguments.out, pairs, arguments.rank, about)
    print(about, f"{arguments.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
