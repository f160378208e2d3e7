"""Trains the video autoencoder of ltx2-nano on freshly drawn clips; resumes from its checkpoint.

torchrun --nproc-per-node 2 train_video_vae.py --work /path/to/scratch --minutes 25
"""

import argparse
import time
from pathlib import Path
from random import Random

import numpy as np
import torch
from clips import FPS, frames, random_clip
from ltx2_sizes import SIZES, build
from optim import Optimiser, average, join_processes, save, schedule
from torch import Tensor, nn
from torch.nn import functional as F

CROPS, CROP_SHARES = (48, 64), (0.6, 0.4)
LENGTHS = (1, 9, 17, 25)
LENGTH_SHARES = (0.1, 0.6, 0.2, 0.1)
PIXELS_PER_STEP = 170_000
EDGE_WEIGHT = 0.15
NOISE = 0.08
SIZE_WEIGHT = 1e-3


def crops(rng: Random) -> Tensor:
    """Returns a batch of crops (B, 3, F, S, S) in -1..1, most of them of the moving thing."""
    length = rng.choices(LENGTHS, LENGTH_SHARES)[0]
    side = rng.choices(CROPS, CROP_SHARES)[0]
    made = []
    for _ in range(max(2, PIXELS_PER_STEP // (length * side * side))):
        width, height = rng.choices(SIZES, (0.7, 0.15, 0.15))[0]
        clip = random_clip(rng, held_out=None)
        pixels = frames(clip, length, width, height)
        x, foot = clip.position(length / 2 / FPS, width, height)
        left, top = rng.randint(0, width - side), rng.randint(0, height - side)
        if rng.random() < 0.7:
            left = min(max(0, round(x * width - side / 2) + rng.randint(-16, 16)), width - side)
            top = min(max(0, round(foot * height - side * 0.7) + rng.randint(-16, 16)), height - side)
        made.append(pixels[:, top : top + side, left : left + side])
    return torch.from_numpy(np.stack(made)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def edges(x: Tensor) -> tuple[Tensor, ...]:
    """Returns the differences between neighbours across, down and in time."""
    sides = (x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :])
    return (*sides, x[:, :, 1:] - x[:, :, :-1]) if x.shape[2] > 1 else sides


def loss_of(model: nn.Module, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the training loss and the plain squared error of a batch."""
    mean = model.encoder(batch.bfloat16(), causal=True).float().chunk(2, dim=1)[0]
    # PERF: noise as wide as a fresh network's latents would drown all detail, and they would grow against it.
    latents = mean + NOISE * torch.randn_like(mean)
    output = model.decoder(latents.bfloat16(), causal=False).float()
    loss = F.l1_loss(output, batch) + 2 * F.mse_loss(output, batch)
    for made, wanted in zip(edges(output), edges(batch), strict=True):
        loss = loss + EDGE_WEIGHT * F.l1_loss(made, wanted)
    return loss + SIZE_WEIGHT * mean.square().mean(), F.mse_loss(output.detach(), batch)


@torch.no_grad()
def psnr(model: nn.Module, count: int = 8) -> tuple[float, float]:
    """Returns the PSNR in dB on whole clips that training did not see, and the latents' standard deviation."""
    values, spread = [], []
    for index in range(count):
        pixels = frames(random_clip(Random(10**9 + index)), 25, 96, 64)
        clip = torch.from_numpy(pixels).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        mean = model.encoder(clip.bfloat16(), causal=True).chunk(2, dim=1)[0]
        output = model.decoder(mean, causal=False).float().clamp(-1, 1)
        values.append(float(10 * torch.log10(4 / F.mse_loss(output, clip))))
        spread.append(float(mean.float().std()))
    return float(np.mean(values)), float(np.mean(spread))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints")
    parser.add_argument("--minutes", type=float, default=25, help="training time in all, over every resumption")
    parser.add_argument("--decoder-only", action="store_true", help="leave the encoder as it is")
    parser.add_argument("--muon", type=float, default=0.02, help="learning rate of the convolutions inside")
    parser.add_argument("--adam", type=float, default=1.5e-3)
    arguments = parser.parse_args()
    rank, world = join_processes()
    torch.manual_seed(1)
    model = build("vae").bfloat16()
    path, elapsed = arguments.work / ("video-decoder.pt" if arguments.decoder_only else "video-vae.pt"), 0.0
    if arguments.decoder_only:
        model.load_state_dict(torch.load(arguments.work / "video-vae.pt")["ema"])
        model.encoder.requires_grad_(False)
    optimiser = Optimiser(
        [(name, p) for name, p in model.named_parameters() if p.requires_grad],
        is_matrix=lambda name, p: p.ndim == 5 and "conv_in" not in name and "conv_out" not in name,
        rank=rank, world=world, muon_lr=arguments.muon, adam_lr=arguments.adam, ema_decay=0.995,
    )  # fmt: skip
    if path.exists():
        state = torch.load(path)
        optimiser.load_state_dict(state["optimiser"])
        elapsed = state["elapsed_s"]
    train(model, optimiser, path, arguments, rank, elapsed)


def train(
    model: nn.Module, optimiser: Optimiser, path: Path, arguments: argparse.Namespace, rank: int, elapsed: float
) -> None:
    """Trains until the time is spent, keeping a checkpoint every two minutes."""
    rng, shadow = Random(time.time_ns() + rank), build("vae").bfloat16()
    torch.manual_seed(time.time_ns() % 2**31 + rank)
    total, saved, before = arguments.minutes * 60, elapsed, time.monotonic()
    recent: list[tuple[float, float]] = []
    while elapsed < total:
        loss, error = loss_of(model, crops(rng))
        model.zero_grad(set_to_none=True)
        loss.backward()
        factor = schedule(elapsed, total, optimiser.step_count, warmup_steps=60, decay=0.45)
        norm = optimiser.step(factor)
        now = time.monotonic()
        report = average(torch.tensor([now - before, float(loss.detach()), float(error)])).tolist()
        before, step_s = now, report[0]
        elapsed += step_s
        recent.append((report[1], report[2]))
        if rank == 0 and optimiser.step_count % 50 == 0:
            loss_mean, error_mean = np.mean(recent, axis=0)
            recent.clear()
            print(f"{elapsed:6.0f} s  step {optimiser.step_count}  loss {loss_mean:.4f}  mse {error_mean:.5f}  "
                  f"norm {norm:.2f}  lr x{factor:.2f}  {step_s:.3f} s", flush=True)  # fmt: skip
        if rank == 0 and (elapsed - saved > 120 or elapsed >= total):
            saved = elapsed
            shadow.load_state_dict(model.state_dict() | optimiser.averaged())
            save(path, {"optimiser": optimiser.state_dict(), "elapsed_s": elapsed, "ema": shadow.state_dict()})
            value, spread = psnr(shadow)
            print(f"{elapsed:6.0f} s  PSNR {value:.2f} dB  latent std {spread:.2f}", flush=True)


if __name__ == "__main__":
    main()
