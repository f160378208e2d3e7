"""Draws and encodes the pictures the transformer is trained on; run once, after the encoder is done.

    torchrun --nproc-per-node 2 cache_latents.py --work /path/to/scratch --pictures 48000 --sized 7000

Each process writes its own file `latents-<rank>.pt`: for every size the latents in bf16, already shifted and scaled,
and the scenes they show. Captions are worded anew every time a picture is used.
"""

import argparse
import os
from pathlib import Path
from random import Random

import torch
from autoencoder import Autoencoder
from optim import join_processes, save
from scenes import random_scene
from train_vae import as_tensor
from world import Scene, paint

NATIVE = (128, 128)
SQUARES = tuple((side, side) for side in (96, 112, 160, 192, 224, 256))
# 4:3, 3:2 and 16:9, as near as multiples of 16 come.
WIDE = ((128, 96), (160, 112), (192, 144), (256, 192), (144, 96), (192, 128), (240, 160), (224, 128), (256, 144))
SIZES = (*SQUARES, *WIDE, *((height, width) for width, height in WIDE))


def scaled(path: Path, model: Autoencoder) -> tuple[float, float]:
    """Returns the shift and the scale of latents, measured once and kept in `path`."""
    if path.exists():
        kept = torch.load(path)
        return kept["shift"], kept["scale"]
    sample, _ = encode(model, Random(7), NATIVE, 1024)
    shift, scale = float(sample.float().mean()), 1 / float(sample.float().std())
    if int(os.environ.get("RANK", "0")) == 0:
        save(path, {"shift": shift, "scale": scale})
    return shift, scale


def load_autoencoder(path: Path) -> Autoencoder:
    """Returns the trained autoencoder in bf16."""
    model = Autoencoder()
    model.load_state_dict(torch.load(path)["ema"])
    return model.eval().bfloat16().to(memory_format=torch.channels_last)


@torch.no_grad()
def encode(model: Autoencoder, rng: Random, size: tuple[int, int], count: int) -> tuple[torch.Tensor, list[Scene]]:
    """Returns the raw mean latents (N, 16, H/8, W/8) of new pictures of one size, and their scenes."""
    width, height = size
    scenes = [random_scene(rng) for _ in range(count)]
    latents = []
    for start in range(0, count, 16):
        batch = [
            as_tensor(paint(scene, seed=rng.getrandbits(32), width=width, height=height))
            for scene in scenes[start : start + 16]
        ]
        mean, _ = model.moments((torch.stack(batch).float() / 127.5 - 1).bfloat16())
        latents.append(mean.contiguous())
    return torch.cat(latents), scenes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints")
    parser.add_argument("--pictures", type=int, default=48_000, help="pictures of 128x128 in all")
    parser.add_argument("--sized", type=int, default=7_000, help="pictures of other sizes in all")
    arguments = parser.parse_args()
    rank, world = join_processes()
    model = load_autoencoder(arguments.work / "vae.pt")
    shift, scale = scaled(arguments.work / "scale.pt", model)
    rng = Random(1000 + rank)
    cached = {}
    for size in (NATIVE, *SIZES):
        count = arguments.pictures if size == NATIVE else arguments.sized // len(SIZES)
        latents, scenes = encode(model, rng, size, count // world)
        cached[size] = ((latents.float() - shift).mul(scale).bfloat16(), scenes)
        print(f"process {rank}: {len(scenes)} pictures of {size[0]}x{size[1]}", flush=True)
    save(arguments.work / f"latents-{rank}.pt", cached)


if __name__ == "__main__":
    main()
