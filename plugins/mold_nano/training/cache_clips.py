"""Encodes clips of the moving nano world with the trained autoencoders, for `train_ltx2.py` to learn from.

    python cache_clips.py --work /path/to/scratch --count 6000

Clips of 49 and of 97 frames are kept whole: both autoencoders are causal, so their first latents are those of a shorter
clip. Most clips begin where there is room to move; the others begin anywhere in their motion, as a clip does that goes
on.
"""

import argparse
import time
from pathlib import Path
from random import Random
from typing import Any

import torch
from attrs import frozen
from clips import FPS, Clip, begun, frames, random_clip, sound
from ltx2_sizes import SIZES, load_averaged
from optim import save
from torch import Tensor
from train_sound import spectra_of

FRAMES, LONG_FRAMES, LONG_SHARE = 49, 97, 0.15
AUDIO_LATENTS_PER_SECOND = 25
SHARES = (0.55, 0.3, 0.15)
BEGUN_SHARE = 0.6


def audio_latents(count: int) -> int:
    """Returns how many audio latents belong to so many frames."""
    return round(count / FPS * AUDIO_LATENTS_PER_SECOND)


@frozen(kw_only=True, eq=False)
class Cached:
    """Clips of one size: video latents [N, 48, F, H, W] and audio latents [N, 8, L, 16], both raw, in bf16."""

    video: Tensor
    audio: Tensor
    clips: list[Clip]
    begun: list[bool]


@torch.no_grad()
def encoded(
    vae: Any, audio_vae: Any, clip: Clip, rng: Random, size: tuple[int, int], count: int
) -> tuple[Tensor, Tensor]:
    """Returns the raw latents of a clip, video [48, F, H, W] and audio [8, L, 16]."""
    pixels = torch.from_numpy(frames(clip, count, *size)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    video = vae.encoder(pixels.to(vae.dtype), causal=True)[0, : vae.config.latent_channels]
    heard = audio_latents(count)
    waves = torch.from_numpy(sound(clip, (4 * heard + 4) / 100, rng, *size))[None]
    audio = audio_vae.encoder(spectra_of(waves)).chunk(2, dim=1)[0][0, :, :heard]
    return video.bfloat16(), audio.bfloat16()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints and of the cache")
    parser.add_argument("--count", type=int, default=6000)
    parser.add_argument("--name", default="clips", help="name of the file, without its ending")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    vae = load_averaged("vae", arguments.work / "video-vae.pt").bfloat16()
    audio_vae = load_averaged("audio_vae", arguments.work / "audio_vae.pt")
    rng, made = (
        Random(time.time_ns()),
        {(size, count): ([], [], [], []) for size in SIZES for count in (FRAMES, LONG_FRAMES)},
    )
    started = time.monotonic()
    for index in range(arguments.count):
        size = rng.choices(SIZES, SHARES)[0]
        count = LONG_FRAMES if rng.random() < LONG_SHARE else FRAMES
        clip, fresh = random_clip(rng), rng.random() < BEGUN_SHARE
        if fresh:
            clip = begun(clip, rng)
        for kept, value in zip(
            made[size, count], (*encoded(vae, audio_vae, clip, rng, size, count), clip, fresh), strict=True
        ):
            kept.append(value)
        if index % 500 == 499:
            print(f"{index + 1} clips in {time.monotonic() - started:.0f} s", flush=True)
    cache = {
        key: Cached(video=torch.stack(video), audio=torch.stack(audio), clips=clips, begun=fresh)
        for key, (video, audio, clips, fresh) in made.items()
    }
    save(arguments.work / f"{arguments.name}.pt", cache)


if __name__ == "__main__":
    main()
