"""Trains the transformer, the connectors and the text encoder of ltx2-nano from nothing; resumes from its checkpoint.

    torchrun --nproc-per-node 2 train_ltx2.py --work /path/to/scratch --minutes 60 \
        --tokenizer ../mold_nano/models/ltx2-nano/tokenizer.json

Rectified flow (Liu et al. 2022), video and sound at one noise level, as in LTX-2. In part of the steps a clip's first
latents are given, as they are when a clip goes on from another one or begins with a picture: their tokens are clean,
see noise level 0 and do not count in the loss. As in `train_flux.py`, tokens that show the moving thing weigh more, and
half way through the network a linear layer has to read what they show (Yu et al. 2024, arXiv 2410.06940); it is not
exported.
"""

import argparse
import time
from pathlib import Path
from random import Random
from typing import Any

import torch
from attrs import frozen
from cache_clips import FRAMES, LONG_FRAMES, Cached, audio_latents
from clips import FPS, KINDS, Clip, caption
from clips import SIZES as THING_SIZES
from ltx2_sizes import SIZES, build, options
from optim import Optimiser, average, join_processes, save, schedule
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from world import COLOURS

STRIDE = 8
THING_WEIGHT = 4.0
BLANK_CAPTIONS = 0.01
UNKNOWN_WORDS = 0.02
SIZE_SHARES = (0.1, 0.88, 0.02)
LENGTHS, LENGTH_SHARES = (2, 3, 4, 5, 7, 13), (0.02, 0.25, 0.25, 0.42, 0.05, 0.01)
PINNED, PINNED_SHARES = (0, 1, 2, 3), (0.65, 0.13, 0.18, 0.04)
TEXT_TOKENS: int = options()["text_tokens"]
KIND_LABELS, COLOUR_LABELS = ("", *KINDS), ("", *COLOURS)
MOTION_LABELS = ("", "right", "left", "bounce", "up", "down", "float")


def attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *arguments: Any, **options: Any
) -> Tensor:
    """Returns attention [B, H, N, D] as matrix products, where it is plain and long enough.

    PERF: on CPUs the backward pass of torch's own takes 2.5 times as long for these sizes.
    """
    if attn_mask is not None or options.get("is_causal") or query.shape[-2] < 40:
        return _attention(query, key, value, attn_mask, *arguments, **options)
    scores = (query.float() * query.shape[-1] ** -0.5) @ key.float().transpose(-1, -2)
    return (scores.softmax(-1) @ value.float()).to(query.dtype)


_attention = F.scaled_dot_product_attention
F.scaled_dot_product_attention = attention  # where diffusers looks for it


class Texts:
    """Captions to left-padded ids, as the engine tokenizes them."""

    def __init__(self, path: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(path))
        self.unknown = self.tokenizer.token_to_id("<unk>")

    def ids(self, captions: list[str], rng: Random) -> list[list[int]]:
        rows = [encoding.ids[:TEXT_TOKENS] for encoding in self.tokenizer.encode_batch(captions)]
        return [
            [self.unknown if place and rng.random() < UNKNOWN_WORDS else token for place, token in enumerate(row)]
            for row in rows
        ]


class Nano(nn.Module):
    """The transformer and what reads its prompts."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer: Any = build("transformer")
        self.connectors: Any = build("connectors")
        self.gemma: Any = build("text_encoder")
        width = self.transformer.config.cross_attention_dim
        self.reader = nn.Linear(width, len(KIND_LABELS) + len(COLOUR_LABELS) + len(MOTION_LABELS))
        self.middle: Tensor | None = None
        block = self.transformer.transformer_blocks[self.transformer.config.num_layers // 2]
        block.register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _inputs: Any, outputs: Any) -> None:
        self.middle = outputs[0]

    def prompts(self, rows: list[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
        """Returns prompts as the transformer takes them; padding before the words is cut off, as in the engine."""
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        states = self.gemma(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
        stacked = torch.stack(states, dim=-1).flatten(2)
        # Attention looks back only: what follows a prompt does not change its states, so they may be moved to the end.
        placed = stacked.new_zeros(len(rows), TEXT_TOKENS, stacked.shape[-1])
        mask = torch.zeros(len(rows), TEXT_TOKENS, dtype=torch.long)
        for index, row in enumerate(rows):
            placed[index, TEXT_TOKENS - len(row) :] = stacked[index, : len(row)]
            mask[index, TEXT_TOKENS - len(row) :] = 1
        return self.connectors(placed, mask, padding_side="left")

    def forward(self, batch: "Batch", video: Tensor, audio: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the velocities of video and sound, and the scores of what each video token shows."""
        words, heard, mask = self.prompts(batch.ids)
        time, sound_time = t[:, None] * 1000, t[:, None] * 1000
        if batch.pinned:
            free = torch.ones(video.shape[1])
            free[: batch.pinned * batch.area] = 0
            free_sound = torch.ones(audio.shape[1])
            free_sound[: batch.pinned_audio] = 0
            time, sound_time = time * free, sound_time * free_sound
        made, sound = self.transformer(
            hidden_states=video, audio_hidden_states=audio, encoder_hidden_states=words,
            audio_encoder_hidden_states=heard, timestep=time, audio_timestep=sound_time, sigma=t * 1000,
            audio_sigma=t * 1000, encoder_attention_mask=mask, audio_encoder_attention_mask=mask,
            video_coords=batch.places.expand(len(video), -1, -1, -1),
            audio_coords=batch.audio_places.expand(len(video), -1, -1, -1),
            use_cross_timestep=False, return_dict=False,
        )  # fmt: skip
        assert self.middle is not None
        return made, sound, self.reader(self.middle)


@frozen(kw_only=True, eq=False)
class Batch:
    """Clean tokens of video (B, N, 48) and sound (B, L, 128), weights and labels (B, N), prompts and positions."""

    video: Tensor
    audio: Tensor
    weights: Tensor
    labels: tuple[Tensor, Tensor, Tensor]
    ids: list[list[int]]
    places: Tensor
    audio_places: Tensor
    pinned: int
    pinned_audio: int
    area: int


def random_times(count: int) -> Tensor:
    """Returns times in 0..1: 30 % almost pure noise, 45 % logit-normal shifted towards noise, 25 % uniform."""
    shifted = torch.sigmoid(torch.randn(count))
    shifted = 3 * shifted / (1 + 2 * shifted)
    roll = torch.rand(count)
    uniform = 0.03 + 0.97 * torch.rand(count)
    return torch.where(roll < 0.3, 0.95 + 0.05 * torch.rand(count), torch.where(roll < 0.75, shifted, uniform))


def shown(clip: Clip, latents: int, width: int, height: int) -> Tensor:
    """Returns which tokens (latents, H, W) show the moving thing at any time of their frames, as bools."""
    grid = torch.zeros(latents, height // STRIDE, width // STRIDE, dtype=torch.bool)
    size = THING_SIZES[clip.kind] * height
    for latent in range(latents):
        moments = (0,) if latent == 0 else range(8 * latent - 7, 8 * latent + 1, 2)
        for moment in moments:
            x, foot = clip.position(moment / FPS, width, height)
            top, bottom = int(max(0, foot * height - size) // STRIDE), int(-(-foot * height // STRIDE))
            left, right = int(max(0, x * width - 0.5 * size) // STRIDE), int(-(-(x * width + 0.5 * size) // STRIDE))
            grid[latent, top : max(bottom, 0), left : max(right, 0)] = True
    return grid


def cached_clips(work: Path) -> dict[tuple[tuple[int, int], int], Cached]:
    """Returns the clips of all files of the cache, by size and number of frames."""
    # Clips are pickled objects; the files are this trainer's own.
    parts = [torch.load(path, weights_only=False) for path in sorted(work.glob("clips*.pt"))]
    return {
        key: Cached(
            video=torch.cat([part[key].video for part in parts]),
            audio=torch.cat([part[key].audio for part in parts]),
            clips=[clip for part in parts for clip in part[key].clips],
            begun=[fresh for part in parts for fresh in part[key].begun],
        )
        for key in parts[0]
    }


class Clips:
    """The cached clips, drawn at random with fresh captions."""

    def __init__(self, work: Path, texts: Texts, model: Nano, statistics: dict[str, Tensor], rank: int) -> None:
        self.cached = cached_clips(work)
        self.texts, self.model, self.statistics = texts, model, statistics
        self.rng = Random(time.time_ns() + rank)
        self.fresh = {key: [i for i, yes in enumerate(kept.begun) if yes] for key, kept in self.cached.items()}

    def batch(self, tokens: int, step: int) -> Batch:
        """Returns clips of one size and length, the same in a step for all processes, about so many video tokens."""
        rng, model, shared = self.rng, self.model.transformer, Random(step)
        size = shared.choices(SIZES, SIZE_SHARES)[0]
        latents = shared.choices(LENGTHS, LENGTH_SHARES)[0]
        kept, (width, height) = self.cached[size, FRAMES if latents <= 7 else LONG_FRAMES], size
        pinned = min(rng.choices(PINNED, PINNED_SHARES)[0], latents - 1)
        pinned_audio = audio_latents(8 * (pinned - 1) + 1) if pinned > 1 else 0
        rows, columns = height // STRIDE, width // STRIDE
        count = max(2, round(tokens / (latents * rows * columns)))
        fresh = self.fresh[size, FRAMES if latents <= 7 else LONG_FRAMES]
        chosen = rng.choices(fresh if pinned == 0 else range(len(kept.clips)), k=count)
        captions = ["" if rng.random() < BLANK_CAPTIONS else caption(kept.clips[i], rng) for i in chosen]
        heard = audio_latents(8 * (latents - 1) + 1)
        video = kept.video[chosen, :, :latents].float().flatten(2).transpose(1, 2)
        audio = kept.audio[chosen, :, :heard].float().transpose(1, 2).flatten(2)
        masks = torch.stack([shown(kept.clips[i], latents, width, height).flatten() for i in chosen])
        weights = 1 + (THING_WEIGHT - 1) * masks
        kinds = torch.tensor([KIND_LABELS.index(kept.clips[i].kind) for i in chosen])[:, None] * masks
        colours = torch.tensor([COLOUR_LABELS.index(kept.clips[i].colour) for i in chosen])[:, None] * masks
        motions = torch.tensor([MOTION_LABELS.index(kept.clips[i].motion) for i in chosen])[:, None] * masks
        return Batch(
            video=(video - self.statistics["video_mean"]) / self.statistics["video_std"],
            audio=(audio - self.statistics["audio_mean"]) / self.statistics["audio_std"],
            weights=weights / weights.mean(),
            labels=(kinds, colours, motions),
            ids=self.texts.ids(captions, rng),
            places=model.rope.prepare_video_coords(1, latents, rows, columns, "cpu", fps=float(FPS)),
            audio_places=model.audio_rope.prepare_audio_coords(1, heard, "cpu"),
            pinned=pinned,
            pinned_audio=pinned_audio,
            area=rows * columns,
        )


def measured(work: Path, rank: int) -> dict[str, Tensor]:
    """Returns the mean and the deviation of each video channel [48] and each audio feature [128]."""
    path = work / "statistics.pt"
    if path.exists():
        return torch.load(path)
    cached = cached_clips(work)
    video = torch.cat([kept.video.float().transpose(0, 1).flatten(1) for kept in cached.values()], dim=1)
    audio = torch.cat([kept.audio.float().transpose(1, 2).flatten(2).flatten(0, 1) for kept in cached.values()])
    values = {
        "video_mean": video.mean(1), "video_std": video.std(1), "audio_mean": audio.mean(0),
        "audio_std": audio.std(0).clamp(min=0.05),
    }  # fmt: skip
    if rank == 0:
        save(path, values)
    return values


def losses(model: Nano, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the errors of the velocities of video and sound, and of reading what is shown."""
    t = random_times(len(batch.video))
    mixed, wanted = [], []
    for clean, pinned in ((batch.video, batch.pinned * batch.area), (batch.audio, batch.pinned_audio)):
        noise = torch.randn(clean.shape)
        level = t[:, None, None].expand(-1, clean.shape[1], 1).clone()
        level[:, :pinned] = 0
        mixed.append(torch.lerp(clean, noise, level).bfloat16())
        wanted.append(noise - clean)
    made, sound, scores = model(batch, *mixed, t)
    error = (made.float() - wanted[0]).square().mean(-1)[:, batch.pinned * batch.area :]
    weights = batch.weights[:, batch.pinned * batch.area :]
    heard = (sound.float() - wanted[1]).square().mean(-1)[:, batch.pinned_audio :]
    read = [
        F.cross_entropy(score.transpose(1, 2), label, reduction="none")
        for score, label in zip(
            scores.float().split((len(KIND_LABELS), len(COLOUR_LABELS), len(MOTION_LABELS)), dim=-1),
            batch.labels,
            strict=True,
        )
    ]
    return (error * weights).mean(), heard.mean(), (sum(read) * batch.weights).mean()


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon moves a parameter: the matrices inside the blocks, but no modulation and no embedding."""
    inside = "blocks" in name or ".layers." in name
    return parameter.ndim == 2 and inside and "scale_shift" not in name and "register" not in name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints and of the cache")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60, help="training time in all, over every resumption")
    parser.add_argument("--decay", type=float, default=0.35, help="last part of the time, with falling learning rate")
    parser.add_argument("--tokens", type=int, default=3072, help="video tokens per step")
    parser.add_argument("--speed", type=float, default=1.0, help="factor of all learning rates")
    parser.add_argument("--reading", type=float, default=0.2, help="weight of reading what is shown half way through")
    parser.add_argument("--hearing", type=float, default=0.5, help="weight of the sound")
    arguments = parser.parse_args()
    rank, world = join_processes()
    torch.manual_seed(1)
    texts = Texts(arguments.tokenizer)
    model = Nano().bfloat16()
    optimiser = Optimiser(
        model.named_parameters(), is_matrix=is_matrix, rank=rank, world=world, muon_lr=0.02 * arguments.speed,
        adam_lr=1.5e-3 * arguments.speed, ema_decay=0.996,
    )  # fmt: skip
    path, progress = arguments.work / "ltx2.pt", {"elapsed_s": 0.0, "samples": 0}
    if path.exists():
        state = torch.load(path)
        optimiser.load_state_dict(state["optimiser"])
        progress = state["progress"]
    clips = Clips(arguments.work, texts, model, measured(arguments.work, rank), rank)
    train(model, optimiser, clips, path, arguments, (rank, world), progress)


def train(
    model: Nano,
    optimiser: Optimiser,
    clips: Clips,
    path: Path,
    arguments: argparse.Namespace,
    place: tuple[int, int],
    progress: dict[str, Any],
) -> None:
    """Trains until the time is spent, keeping a checkpoint every two minutes."""
    rank, world = place
    torch.manual_seed(time.time_ns() % 2**31 + rank)
    total, saved, before = arguments.minutes * 60, progress["elapsed_s"], time.monotonic()
    recent: list[Tensor] = []
    while progress["elapsed_s"] < total:
        batch = clips.batch(arguments.tokens, optimiser.step_count)
        seen, heard, read = losses(model, batch)
        model.zero_grad(set_to_none=True)
        (seen + arguments.hearing * heard + arguments.reading * read).backward()
        factor = schedule(progress["elapsed_s"], total, optimiser.step_count, warmup_steps=100, decay=arguments.decay)
        norm = optimiser.step(factor)
        now = time.monotonic()
        report = average(torch.stack([torch.tensor(now - before), seen.detach(), heard.detach(), read.detach()]))
        before, step_s = now, float(report[0])
        progress["elapsed_s"] += step_s
        progress["samples"] += world * len(batch.video)
        recent.append(report[1:])
        if rank == 0 and optimiser.step_count % 50 == 0:
            values = torch.stack(recent).mean(0).tolist()
            print(f"{progress['elapsed_s']:6.0f} s  step {optimiser.step_count}  {progress['samples']} clips  "
                  f"video {values[0]:.4f}  sound {values[1]:.4f}  reading {values[2]:.4f}  norm {norm:.2f}  "
                  f"lr x{factor:.2f}  {step_s:.3f} s", flush=True)  # fmt: skip
            recent.clear()
        if rank == 0 and (progress["elapsed_s"] - saved > 120 or progress["elapsed_s"] >= total):
            saved = progress["elapsed_s"]
            save(path, {"optimiser": optimiser.state_dict(), "progress": progress, "ema": optimiser.averaged()})


if __name__ == "__main__":
    main()
