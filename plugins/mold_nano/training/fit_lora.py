"""Fits a small LoRA for flux-nano: everything it draws comes out in sepia. Half a minute on one core.

    python fit_lora.py --out ../../../tests/mold_flux/sepia.safetensors

What the last layer has to add to its result is known for every token of a noised picture in sepia: the velocity towards
that picture, less the one the model gives. The matrix that gives most of it from the layer's input is a linear
regression (with a ridge), and its largest singular values are the LoRA. Captions say nothing of sepia. Run it again
when the model's weights have changed: it takes them from where they ship.
"""

import argparse
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
TIMES, BATCH, RIDGE = 4, 32, 1e-3
DARK, LIGHT = np.array([38.0, 22.0, 10.0]), np.array([255.0, 240.0, 205.0])


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


@torch.no_grad()
def fitted(nano: Nano, count: int, seed: int) -> tuple[Tensor, float, float]:
    """Returns what to add to the last layer's weights [64, width], and the velocity's squared error before and with it.

    Half of the times are 0.9 and more, where nearly nothing of the picture is left: colours are decided there.
    """
    tokens, text, pooled = examples(nano, count, seed)
    positions = rope(nano.transformer.config, text.shape[1], SIZE // 16, SIZE // 16)
    inputs: list[Tensor] = []
    hook = nano.transformer.final_layer.linear.register_forward_pre_hook(
        lambda _layer, arguments: inputs.append(arguments[0].flatten(0, -2))
    )
    missing = []
    for turn in range(TIMES):
        for first in range(0, count, BATCH):
            few = slice(first, first + BATCH)
            clean, noise = tokens[few], torch.randn_like(tokens[few])
            t = torch.rand(len(clean)) if turn % 2 else 0.9 + 0.1 * torch.rand(len(clean))
            mixed = torch.lerp(clean, noise, t[:, None, None])
            velocity = nano.transformer(mixed, text[few], pooled[few], t, None, positions)
            missing.append((noise - clean - velocity).flatten(0, -2))
    hook.remove()
    seen, wanted = torch.cat(inputs).double(), torch.cat(missing).double()
    gram = seen.T @ seen + RIDGE * len(seen) * torch.eye(seen.shape[1], dtype=torch.float64)
    added = torch.linalg.solve(gram, seen.T @ wanted).T
    left = wanted - seen @ added.T
    return added.float(), float(wanted.square().mean()), float(left.square().mean())


def save(path: Path, added: Tensor, rank: int) -> None:
    """Writes the best approximation of a matrix by so many ranks, in bf16, with kohya's names."""
    left, sizes, right = torch.linalg.svd(added, full_matrices=False)
    roots = sizes[:rank].sqrt()
    tensors = {
        "lora_unet_final_layer_linear.lora_down.weight": (roots[:, None] * right[:rank]).bfloat16().contiguous(),
        "lora_unet_final_layer_linear.lora_up.weight": (left[:, :rank] * roots).bfloat16().contiguous(),
        "lora_unet_final_layer_linear.alpha": torch.tensor(float(rank)),
    }
    save_file(tensors, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--pictures", type=int, default=192)
    parser.add_argument("--rank", type=int, default=32)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    added, before, after = fitted(Nano.load(), arguments.pictures, seed=1)
    save(arguments.out, added, arguments.rank)
    print(f"squared error of the velocity {before:.4f}, with the LoRA {after:.4f}")


if __name__ == "__main__":
    main()
