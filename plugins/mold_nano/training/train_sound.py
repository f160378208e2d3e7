"""Trains the audio autoencoder of ltx2-nano, then its vocoder, on fresh sounds; resumes from their checkpoints.

    python train_sound.py --work /path/to/scratch --minutes 10 --vocoder-minutes 20

The vocoder is taught by
spectra of its sound at several resolutions (Yamamoto et al. 2020, Parallel WaveGAN, arXiv 1910.11480, equations 5, 6).
"""

import argparse
import time
from pathlib import Path
from random import Random

import numpy as np
import torch
from clips import RATE, random_clip, sound
from ltx2_sizes import build, load_averaged
from optim import Optimiser, join_processes, save, schedule
from torch import Tensor, nn
from torch.nn import functional as F

from mold_ltx2.spectrum import log_mel

MEL_RATE, OUT_RATE, HOP, BANDS = 16_000, 24_000, 160, 64
LATENTS = 24
SECONDS = 4 * LATENTS * HOP / MEL_RATE
RESOLUTIONS = (2048, 1024, 512, 256)


def sounds(rng: Random, count: int, seconds: float = SECONDS) -> Tensor:
    """Returns sounds of random clips [B, 2, samples] at 48 kHz."""
    made = []
    for _ in range(count):
        clip = random_clip(rng, held_out=None)
        made.append(torch.from_numpy(sound(clip, seconds, rng)))
    return torch.stack(made)


def spectra_of(waves: Tensor) -> Tensor:
    """Returns the log-mel spectra [B, 2, 4L - 3, 64] of sounds at 48 kHz that L latents stand for."""
    count = 4 * int(waves.shape[-1] * MEL_RATE / RATE / HOP / 4) - 3
    heard = waves[..., :: RATE // MEL_RATE]
    return log_mel(heard, sample_rate=MEL_RATE, hop=HOP, bands=BANDS)[..., :count, :]


def autoencoder_loss(model: nn.Module, rng: Random, kl_weight: float = 1e-3) -> Tensor:
    spectra = spectra_of(sounds(rng, 12))
    mean, logvar = model.encoder(spectra.bfloat16()).float().chunk(2, dim=1)
    latents = mean + torch.randn_like(mean) * (0.5 * logvar.clamp(-20, 10)).exp()
    output = model.decoder(latents.bfloat16()).float()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return F.l1_loss(output, spectra) + kl_weight * kl


def vocoder_loss(model: nn.Module, codec: nn.Module, rng: Random) -> Tensor:
    waves = sounds(rng, 3)
    spectra = spectra_of(waves)
    if rng.random() < 0.5:
        with torch.no_grad():
            spectra = codec.decoder(codec.encoder(spectra).chunk(2, dim=1)[0])
    made = model(spectra)
    wanted = waves[..., :: RATE // OUT_RATE][..., : made.shape[-1]]
    # The transforms behind the waves see a window around each spectrum: the ends are left out.
    loss = torch.zeros(())
    for size in RESOLUTIONS:
        window = torch.hann_window(size)
        ours, theirs = (
            torch.stft(wave.flatten(0, 1), size, size // 4, window=window, return_complex=True).abs()
            for wave in (made, wanted)
        )
        loss = loss + (ours - theirs).norm() / theirs.norm()
        loss = loss + F.l1_loss(ours.clamp(min=1e-3).log(), theirs.clamp(min=1e-3).log())
    return loss / len(RESOLUTIONS)


def train(component: str, work: Path, minutes: float, rng: Random) -> None:
    """Trains one network until its time is spent, keeping a checkpoint every two minutes."""
    model = build(component)
    if component == "audio_vae":
        nn.init.constant_(model.decoder.conv_out.conv.bias, -6.0)  # about the mean of all spectra
        model.bfloat16()
    codec = load_averaged("audio_vae", work / "audio_vae.pt") if component == "vocoder" else nn.Identity()
    optimiser = Optimiser(
        model.named_parameters(), is_matrix=lambda name, p: False, rank=0, world=1, muon_lr=0.0,
        adam_lr=1e-3 if component == "vocoder" else 2e-3, ema_decay=0.99,
    )  # fmt: skip
    path, elapsed = work / f"{component}.pt", 0.0
    if path.exists():
        state = torch.load(path)
        optimiser.load_state_dict(state["optimiser"])
        elapsed = state["elapsed_s"]
    total, saved, before, losses = minutes * 60, elapsed, time.monotonic(), []
    while elapsed < total:
        loss = vocoder_loss(model, codec, rng) if component == "vocoder" else autoencoder_loss(model, rng)
        model.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step(schedule(elapsed, total, optimiser.step_count, warmup_steps=50, decay=0.45))
        losses.append(float(loss.detach()))
        now = time.monotonic()
        step_s, before = now - before, now
        elapsed += step_s
        if optimiser.step_count % 50 == 0:
            print(f"{component} {elapsed:6.0f} s  step {optimiser.step_count}  loss {np.mean(losses):.4f}", flush=True)
            losses.clear()
        if elapsed - saved > 120 or elapsed >= total:
            saved = elapsed
            shadow = build(component)
            shadow.load_state_dict(model.state_dict() | optimiser.averaged())
            save(path, {"optimiser": optimiser.state_dict(), "elapsed_s": elapsed, "ema": shadow.state_dict()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints")
    parser.add_argument("--minutes", type=float, default=10, help="training time of the autoencoder in all")
    parser.add_argument("--vocoder-minutes", type=float, default=20, help="training time of the vocoder in all")
    arguments = parser.parse_args()
    join_processes()
    torch.manual_seed(1)
    rng = Random(time.time_ns())
    train("audio_vae", arguments.work, arguments.minutes, rng)
    train("vocoder", arguments.work, arguments.vocoder_minutes, rng)


if __name__ == "__main__":
    main()
