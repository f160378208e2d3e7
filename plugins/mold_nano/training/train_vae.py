"""Trains the nano autoencoder on freshly drawn pictures; resumes from its checkpoint.

    torchrun --nproc-per-node 2 train_vae.py --work /path/to/scratch --minutes 25

`--decoder-only` sharpens the decoder later while the encoder, and so every latent, stays as it is.
"""

import argparse
import time
from pathlib import Path
from random import Random

import numpy as np
import torch
from autoencoder import Autoencoder
from optim import Optimiser, average, join_processes, save, schedule
from scenes import random_scene
from torch import Tensor
from torch.nn import functional as F
from world import paint

# (width, height, crop, pictures per batch, share): most steps see small crops, which cost a quarter.
VIEWS = (
    ((128, 128), 64, 24, 0.45),
    ((128, 128), 96, 11, 0.25),
    ((192, 192), 64, 24, 0.08),
    ((96, 96), 96, 11, 0.04),
    ((128, 128), 128, 6, 0.15),
    ((160, 160), 160, 4, 0.03),
)


def as_tensor(picture: object) -> Tensor:
    """Returns a picture (3, H, W) as bytes."""
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)


def pictures(rng: Random) -> Tensor:
    """Returns a batch of crops (B, 3, S, S) in -1..1, all of one size."""
    (width, height), crop, batch, _ = rng.choices(VIEWS, [view[3] for view in VIEWS])[0]
    crops = []
    for _ in range(batch):
        picture = as_tensor(paint(random_scene(rng), seed=rng.getrandbits(32), width=width, height=height))
        x, y = rng.randint(0, width - crop), rng.randint(0, height - crop)
        crops.append(picture[:, y : y + crop, x : x + crop])
    return torch.stack(crops).float() / 127.5 - 1


def edges(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Returns L1 + gradient L1 + MSE, which together keep edges sharp and flat colours exact."""
    loss = F.l1_loss(output, target) + 2 * F.mse_loss(output, target)
    for made, wanted in zip(edges(output), edges(target), strict=True):
        loss = loss + 0.5 * F.l1_loss(made, wanted)
    return loss


def loss_of(model: Autoencoder, batch: Tensor, kl_weight: float) -> tuple[Tensor, Tensor]:
    """Returns the training loss and the plain squared error of a batch."""
    mean, logvar = (part.float() for part in model.moments(batch.bfloat16()))
    latents = mean + torch.randn_like(mean) * (0.5 * logvar).exp()
    output = model.decoder(latents.bfloat16().contiguous(memory_format=torch.channels_last)).float()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return reconstruction_loss(output, batch) + kl_weight * kl, F.mse_loss(output.detach(), batch)


@torch.no_grad()
def psnr(model: Autoencoder, count: int = 32) -> tuple[float, float, float]:
    """Returns the PSNR in dB on unseen whole scenes and on unseen shapes, and the latents' standard deviation."""
    values: dict[bool, list[float]] = {True: [], False: []}
    spread = []
    for i in range(count):
        scene = random_scene(Random(10**9 + i), family="shape pair" if i % 4 == 0 else "pair" if i % 2 else "single")
        picture = as_tensor(paint(scene, seed=10**9 + i))[None].float() / 127.5 - 1
        mean, _ = model.moments(picture.bfloat16())
        spread.append(float(mean.float().std()))
        error = F.mse_loss(model.decoder(mean).float().clamp(-1, 1), picture)
        values[scene.plain].append(float(10 * torch.log10(4 / error)))
    return float(np.mean(values[False])), float(np.mean(values[True])), float(np.mean(spread))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints")
    parser.add_argument("--minutes", type=float, default=25, help="training time in all, over every resumption")
    parser.add_argument("--decoder-only", action="store_true", help="leave the encoder as it is")
    parser.add_argument("--kl", type=float, default=1e-3, help="weight of the latents' divergence")
    arguments = parser.parse_args()
    rank, world = join_processes()
    torch.manual_seed(1)
    model = Autoencoder().bfloat16().to(memory_format=torch.channels_last)
    path = arguments.work / ("decoder.pt" if arguments.decoder_only else "vae.pt")
    trained = [(n, p) for n, p in model.named_parameters() if not arguments.decoder_only or n.startswith("decoder.")]
    if arguments.decoder_only:
        model.load_state_dict(torch.load(arguments.work / "vae.pt")["ema"])
        model.encoder.requires_grad_(False)
    optimiser = Optimiser(
        trained,
        is_matrix=lambda name, p: p.ndim == 4 and p.shape[-1] == 3 and "conv_in" not in name and "conv_out" not in name,
        rank=rank, world=world, muon_lr=0.008 if arguments.decoder_only else 0.02, adam_lr=1.5e-3, ema_decay=0.995,
    )  # fmt: skip
    elapsed = 0.0
    if path.exists():
        state = torch.load(path)
        optimiser.load_state_dict(state["optimiser"])
        elapsed = state["elapsed_s"]
    train(model, optimiser, path, arguments, rank, elapsed)


def train(
    model: Autoencoder, optimiser: Optimiser, path: Path, arguments: argparse.Namespace, rank: int, elapsed: float
) -> None:
    """Trains until the time is spent, keeping a checkpoint every two minutes."""
    rng = Random(time.time_ns() + rank)
    torch.manual_seed(time.time_ns() % 2**31 + rank)
    shadow = Autoencoder().bfloat16().to(memory_format=torch.channels_last)
    total, saved, before = arguments.minutes * 60, elapsed, time.monotonic()
    while elapsed < total:
        batch = pictures(rng).contiguous(memory_format=torch.channels_last)
        loss, error = loss_of(model, batch, arguments.kl)
        model.zero_grad(set_to_none=True)
        loss.backward()
        factor = schedule(elapsed, total, optimiser.step_count, warmup_steps=60, decay=0.45)
        norm = optimiser.step(factor)
        now = time.monotonic()
        report = average(torch.tensor([now - before, float(loss.detach()), float(error)]))
        before, elapsed = now, elapsed + float(report[0])
        if rank == 0 and optimiser.step_count % 50 == 0:
            print(f"{elapsed:6.0f} s  step {optimiser.step_count}  loss {report[1]:.4f}  mse {report[2]:.5f}  "
                  f"norm {norm:.2f}  lr x{factor:.2f}  {report[0]:.3f} s", flush=True)  # fmt: skip
        if rank == 0 and (elapsed - saved > 120 or elapsed >= total):
            saved = elapsed
            shadow.load_state_dict(model.state_dict() | optimiser.averaged())
            save(path, {"optimiser": optimiser.state_dict(), "elapsed_s": elapsed, "ema": shadow.state_dict()})
            scenes, shapes, spread = psnr(shadow)
            print(
                f"{elapsed:6.0f} s  PSNR scenes {scenes:.2f} shapes {shapes:.2f} dB  latent std {spread:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
