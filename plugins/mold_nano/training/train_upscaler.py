"""Trains `esrgan-nano-x4`, the nano upscaler, on freshly drawn pictures; resumes from its checkpoint.

    python train_upscaler.py --work /path/to/scratch --vae ../mold_nano/models/flux-nano --minutes 15
    python train_upscaler.py --work /path/to/scratch --vae ../mold_nano/models/flux-nano \
        --export ../mold_nano/models/esrgan-nano

The world is drawn at four times its size by scaling what is drawn, not pixels. What the network is shown of it is made
small by bicubic, box or bilinear filters, some of it also by JPEG; or drawn small and passed through the autoencoder of
flux-nano, whose softness its pictures have. Minutes are of processor time.
"""

import argparse
import io
import time
from pathlib import Path
from random import Random

import torch
from optim import Optimiser, join_processes, save, schedule
from PIL import Image
from scenes import random_scene
from torch import Tensor
from torch.nn import functional as F
from train_vae import as_tensor
from world import paint

from mold_esrgan.configs import CompactConfig
from mold_esrgan.networks import SRVGGNetCompact

SCALE = 4
CONFIG = CompactConfig(features=32, convs=8, scale=SCALE)
FILTERS = (Image.Resampling.BICUBIC, Image.Resampling.BOX, Image.Resampling.BILINEAR)
SIZES = ((128, 128), (128, 128), (128, 128), (160, 112), (112, 160), (192, 128), (96, 96))
PATCH, BATCH, POOL = 28, 12, 64
SOFT_SHARE, JPEG_SHARE = 0.12, 0.08

Pair = tuple[Tensor, Tensor]


class Softener:
    """The autoencoder of flux-nano, which makes a picture as soft as the model's own pictures are."""

    def __init__(self, folder: Path) -> None:
        from autoencoder import Autoencoder
        from safetensors.torch import load_file

        self.model = Autoencoder().bfloat16().to(memory_format=torch.channels_last)
        self.model.load_state_dict(load_file(folder / "ae.safetensors"))

    @torch.no_grad()
    def __call__(self, picture: Image.Image) -> Image.Image:
        x = as_tensor(picture)[None].float() / 127.5 - 1
        mean, _ = self.model.moments(x.bfloat16().contiguous(memory_format=torch.channels_last))
        soft = self.model.decoder(mean).float()[0]
        levels = soft.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())


def compressed(picture: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def draw_pair(rng: Random, soften: Softener) -> Pair:
    """Returns a picture (3, H, W) and the same four times as large, as bytes."""
    scene, seed, (width, height) = random_scene(rng), rng.getrandbits(32), rng.choice(SIZES)
    large = paint(scene, seed=seed, width=width, height=height, scale=SCALE)
    if rng.random() < SOFT_SHARE:
        small = soften(paint(scene, seed=seed, width=width, height=height))
    else:
        small = large.resize((width, height), rng.choice(FILTERS))
    if rng.random() < JPEG_SHARE:
        small = compressed(small, rng.randint(60, 95))
    return as_tensor(small), as_tensor(large)


class Pool:
    """Pictures that patches are cut from; one is drawn anew for every batch."""

    def __init__(self, rng: Random, soften: Softener) -> None:
        self.rng, self.soften = rng, soften
        self.pairs = [draw_pair(rng, soften) for _ in range(POOL)]

    def batch(self) -> Pair:
        """Returns patches (B, 3, S, S) and their enlargements in 0..1; half of them are mirrored."""
        self.pairs[self.rng.randrange(POOL)] = draw_pair(self.rng, self.soften)
        cut = [self.patch(self.rng.choice(self.pairs)) for _ in range(BATCH)]
        small, large = (torch.stack(part).float() / 255 for part in zip(*cut, strict=True))
        return small, large

    def patch(self, pair: Pair) -> Pair:
        """Cuts the liveliest of three random patches: much of the world is sky."""
        small, large = pair
        places = [
            (self.rng.randint(0, small.shape[2] - PATCH), self.rng.randint(0, small.shape[1] - PATCH)) for _ in range(3)
        ]
        x, y = max(places, key=lambda at: float(small[:, at[1] :, at[0] :][:, :PATCH, :PATCH].float().std()))
        if self.rng.random() < 0.25:
            x, y = places[0]
        cut = (
            small[:, y : y + PATCH, x : x + PATCH],
            large[:, SCALE * y : SCALE * (y + PATCH), SCALE * x : SCALE * (x + PATCH)],
        )
        return (cut[0].flip(2), cut[1].flip(2)) if self.rng.random() < 0.5 else cut


def loss_of(model: SRVGGNetCompact, small: Tensor, large: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the training loss (L1, its gradients' L1, MSE) and the plain squared error of a batch."""
    output = model(small.bfloat16().contiguous(memory_format=torch.channels_last)).float()
    mse = F.mse_loss(output, large)
    loss = F.l1_loss(output, large) + 4 * mse
    for axis in (2, 3):
        loss = loss + 0.25 * F.l1_loss(output.diff(dim=axis), large.diff(dim=axis))
    return loss, mse.detach()


# --- Measuring --------------------------------------------------------------------------------------------------------


def ssim(first: Tensor, second: Tensor) -> float:
    """Returns the structural similarity of two pictures (3, H, W) in 0..1 (Wang et al. 2004), Gaussian window 11."""
    position = torch.arange(11.0) - 5
    bell = torch.exp(-(position**2) / (2 * 1.5**2))
    bell = bell / bell.sum()

    def blurred(x: Tensor) -> Tensor:
        x = F.conv2d(x[:, None], bell.view(1, 1, 11, 1))
        return F.conv2d(x, bell.view(1, 1, 1, 11))

    a, b = blurred(first), blurred(second)
    aa, bb, ab = blurred(first * first) - a * a, blurred(second * second) - b * b, blurred(first * second) - a * b
    c1, c2 = 0.01**2, 0.03**2
    return float((((2 * a * b + c1) * (2 * ab + c2)) / ((a * a + b * b + c1) * (aa + bb + c2))).mean())


def held_out(count: int) -> list[tuple[Image.Image, Image.Image]]:
    """Returns pictures never trained on, bicubic-reduced and at full size; half of them with held-out pairs."""
    pairs = []
    for i in range(count):
        scene = random_scene(Random(10**9 + i), family="shape" if i % 4 == 0 else "single", held_out=i % 2 == 0)
        large = paint(scene, seed=10**9 + i, scale=SCALE)
        pairs.append((large.resize((128, 128), Image.Resampling.BICUBIC), large))
    return pairs


@torch.no_grad()
def judge(model: SRVGGNetCompact, count: int = 16) -> dict[str, float]:
    """Returns mean PSNR in dB and SSIM of the network and of bicubic enlargement over unseen pictures."""
    sums = {"PSNR": 0.0, "bicubic PSNR": 0.0, "SSIM": 0.0, "bicubic SSIM": 0.0}
    for small, large in held_out(count):
        wanted = as_tensor(large).float() / 255
        made = model(as_tensor(small)[None].float() / 255)[0].mul(255).round().clamp(0, 255) / 255
        plain = as_tensor(small.resize(large.size, Image.Resampling.BICUBIC)).float() / 255
        for name, picture in (("", made), ("bicubic ", plain)):
            sums[f"{name}PSNR"] += float(-10 * torch.log10(F.mse_loss(picture, wanted))) / count
            sums[f"{name}SSIM"] += ssim(picture, wanted) / count
    return {name: round(value, 4) for name, value in sums.items()}


# --- Training ---------------------------------------------------------------------------------------------------------


def train(model: SRVGGNetCompact, optimiser: Optimiser, path: Path, pool: Pool, elapsed: float, total: float) -> None:
    """Trains until the time is spent, keeping a checkpoint every minute of it."""
    saved, before = elapsed, time.process_time()
    while elapsed < total:
        loss, mse = loss_of(model, *pool.batch())
        model.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step(schedule(elapsed, total, optimiser.step_count, warmup_steps=60, decay=0.65))
        now = time.process_time()
        before, elapsed = now, elapsed + now - before
        if optimiser.step_count % 100 == 0:
            print(f"{elapsed:6.0f} s  step {optimiser.step_count}  loss {loss:.4f}  mse {mse:.6f}", flush=True)
        if elapsed - saved > 60 or elapsed >= total:
            saved = elapsed
            save(path, {"optimiser": optimiser.state_dict(), "elapsed_s": elapsed, "ema": optimiser.averaged()})
            print(f"{elapsed:6.0f} s  {judge(trained(path))}", flush=True)
            before = time.process_time()


def trained(path: Path) -> SRVGGNetCompact:
    """Returns the network with a checkpoint's averaged weights, in fp32."""
    model = SRVGGNetCompact(CONFIG)
    model.load_state_dict(torch.load(path)["ema"])
    return model.eval()


def export(path: Path, folder: Path) -> None:
    """Writes the averaged weights under their official names, in fp32, and says how good they are."""
    from safetensors.torch import save_file

    model = trained(path)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "esrgan-nano-x4.safetensors"
    temporary = file.with_suffix(".part")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, temporary, {"format": "pt"})
    temporary.replace(file)
    print(f"{file.name}: {file.stat().st_size:,} bytes, {judge(model, 16)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints")
    parser.add_argument("--vae", type=Path, required=True, help="folder with ae.safetensors of flux-nano")
    parser.add_argument("--minutes", type=float, default=15, help="processor time in all, over every resumption")
    parser.add_argument("--export", type=Path, help="write the checkpoint's weights to this folder instead of training")
    arguments = parser.parse_args()
    join_processes()
    path = arguments.work / "upscaler.pt"
    if arguments.export is not None:
        export(path, arguments.export)
        return
    torch.manual_seed(1)
    model = SRVGGNetCompact(CONFIG).bfloat16().to(memory_format=torch.channels_last)
    optimiser = Optimiser(
        model.named_parameters(),
        is_matrix=lambda name, p: p.ndim == 4 and p.shape[0] == p.shape[1],
        rank=0, world=1, muon_lr=0.015, adam_lr=1.5e-3, ema_decay=0.998,
    )  # fmt: skip
    elapsed = 0.0
    if path.exists():
        state = torch.load(path)
        optimiser.load_state_dict(state["optimiser"])
        elapsed = state["elapsed_s"]
    pool = Pool(Random(time.time_ns()), Softener(arguments.vae))
    train(model, optimiser, path, pool, elapsed, arguments.minutes * 60)


if __name__ == "__main__":
    main()
