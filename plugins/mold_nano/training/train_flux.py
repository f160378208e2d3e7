"""Trains the nano FLUX transformer and its two text encoders from nothing; resumes from its checkpoint.

    torchrun --nproc-per-node 2 train_flux.py --work /path/to/scratch --texts ../mold_nano/models/flux-nano --minutes 70

Rectified flow (Liu et al. 2022): tokens at time t are (1 - t) * picture + t * noise, and the network predicts
noise - picture. Captions nearly determine their pictures, so what they mean is learnt where little of the picture is
left: times are drawn mostly near 1. What a caption means is mostly in its things, which are small: their tokens weigh
more. Neither changes what the network converges to, only how soon. And half way through the network a linear layer has
to read from each token of the picture which kind and colour of thing will be there: what Yu et al. 2024 (REPA, arXiv
2410.06940) do with another network's features, done with the truth. That layer is not exported.
"""

import argparse
import math
import time
from pathlib import Path
from random import Random

import torch
from attrs import frozen
from cache_latents import NATIVE, encode, load_autoencoder, scaled
from captions import BACKWARD_SHARE, caption
from flux import Flux, FluxShape, Rotary, packed
from optim import Optimiser, average, join_processes, save, schedule
from text import T5_PAD, TEXT_TOKENS, Texts, padded
from torch import Tensor, nn
from torch.nn import functional as F
from world import COLOURS, KINDS, MOON, SHAPES, Scene, slots

from mold_flux.text_encoders import ClipConfig, ClipTextEncoder, T5Config, T5Encoder

BLANK_CAPTIONS = 0.02
THING_WEIGHT = 4.0
# Crescent moons are too rare in the cached pictures to be told from full ones.
CRESCENT_SHARE = 0.1
T5_SIZES = {"hidden_size": 128, "mlp_size": 256, "heads": 4, "head_dim": 32, "depth": 2}
CLIP_SIZES = {"hidden_size": 64, "mlp_size": 256, "heads": 2, "depth": 2}
KIND_LABELS = ("", *KINDS, *SHAPES)
COLOUR_LABELS = ("", *COLOURS)


class Nano(nn.Module):
    """The transformer and the text encoders it is trained with."""

    def __init__(self, texts: Texts) -> None:
        super().__init__()
        self.flux = Flux(FluxShape())
        self.t5 = T5Encoder(T5Config(vocabulary=texts.t5.get_vocab_size(), **T5_SIZES))
        self.clip = ClipTextEncoder(
            ClipConfig(vocabulary=texts.clip.get_vocab_size(), eos_id=texts.clip_end, **CLIP_SIZES)
        )
        self.reader = nn.Linear(self.flux.shape.width, len(KIND_LABELS) + len(COLOUR_LABELS))
        for embedding in (self.t5.shared, *self.clip.text_model.embeddings.children()):
            nn.init.normal_(embedding.weight, std=0.5 if embedding is self.t5.shared else 0.2)

    def forward(
        self, tokens: Tensor, t: Tensor, t5_ids: Tensor, clip_ids: Tensor, rotary: Rotary
    ) -> tuple[Tensor, Tensor]:
        """Returns the velocity (B, L, 64) and the scores (B, L, kinds + colours) of what each token shows."""
        velocity, middle = self.flux.with_middle(tokens, self.t5(t5_ids), self.clip(clip_ids), t, rotary)
        return velocity, self.reader(middle)


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon moves a parameter: the matrices inside the blocks, but no modulation and no embedding."""
    inside = "blocks" in name or ".block." in name or ".layers." in name
    return parameter.ndim == 2 and inside and "mod" not in name and "bias" not in name


def adam_speed(name: str) -> float:
    """Returns how much faster than others AdamW moves a parameter.

    T5 tells tokens' order only by its biases over distances. To find a word's neighbour these must grow to several
    units, which takes thousands of steps at the pace of all other parameters.
    """
    return 10.0 if "relative_attention_bias" in name else 1.0


def new_optimiser(model: Nano, rank: int = 0, world: int = 1, speed: float = 1.0) -> Optimiser:
    """Returns the optimiser of a network, its learning rates times `speed`."""
    return Optimiser(
        model.named_parameters(), is_matrix=is_matrix, rank=rank, world=world, muon_lr=0.02 * speed,
        adam_lr=1.5e-3 * speed, ema_decay=0.996, speed=adam_speed,
    )  # fmt: skip


def random_times(count: int) -> Tensor:
    """Returns times in 0..1: 40 % almost pure noise, 35 % logit-normal shifted towards noise, 25 % uniform."""
    shifted = torch.sigmoid(torch.randn(count))
    shifted = 3 * shifted / (1 + 2 * shifted)
    roll = torch.rand(count)
    uniform = 0.05 + 0.95 * torch.rand(count)
    return torch.where(roll < 0.4, 0.96 + 0.04 * torch.rand(count), torch.where(roll < 0.75, shifted, uniform))


def token_labels(scenes: list[Scene], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Returns the numbers of the kind and of the colour that each token (B, L) shows; 0 is neither."""
    width, height = size
    kinds = torch.zeros(len(scenes), height // 16, width // 16, dtype=torch.long)
    colours = torch.zeros_like(kinds)
    for kind, colour, scene in zip(kinds, colours, scenes, strict=True):
        for slot in slots(scene, width, height):
            extent = slot.size * min(size)
            middle, foot = slot.x * width, slot.foot * height
            rows = slice(max(0, round((foot - 0.95 * extent) / 16)), max(0, round(foot / 16)))
            columns = slice(max(0, round((middle - 0.42 * extent) / 16)), round((middle + 0.42 * extent) / 16))
            kind[rows, columns] = KIND_LABELS.index(slot.thing.kind)
            colour[rows, columns] = COLOUR_LABELS.index(slot.thing.colour)
    return kinds.flatten(1), colours.flatten(1)


def token_weights(scenes: list[Scene], size: tuple[int, int]) -> Tensor:
    """Returns each token's weight in the loss (B, L), 1 on average: things weigh more than what is around them."""
    width, height = size
    short = min(size)
    weights = torch.ones(len(scenes), height // 16, width // 16)
    for grid, scene in zip(weights, scenes, strict=True):
        for slot in slots(scene, width, height):
            middle, foot, half = slot.x * width, slot.foot * height, 0.55 * slot.size * short
            top, left = max(0, int((foot - slot.size * short) / 16)), max(0, int((middle - half) / 16))
            grid[top : math.ceil(foot / 16), left : math.ceil((middle + half) / 16)] = THING_WEIGHT
        if scene.moon:
            across, down, reach = MOON[0] * width, MOON[1] * height, 0.12 * short
            rows = slice(max(0, int((down - reach) / 16)), math.ceil((down + reach) / 16))
            grid[rows, int((across - reach) / 16) : math.ceil((across + reach) / 16)] = THING_WEIGHT
    return (weights / weights.mean()).flatten(1)


@frozen(kw_only=True)
class Batch:
    """Clean tokens (B, L, 64), their weights and labels (B, L), both text encoders' ids and the positions."""

    tokens: Tensor
    weights: Tensor
    labels: tuple[Tensor, Tensor]
    t5_ids: Tensor
    clip_ids: Tensor
    rotary: Rotary


@frozen(kw_only=True)
class Shares:
    """Of all pictures, those with two things and those with one; of captions, those with turned order; new pictures."""

    pairs: float
    singles: float
    backward: float
    renewed: int


def is_crescent(scene: Scene) -> bool:
    return scene.crescent


def is_pair(scene: Scene) -> bool:
    return len(scene.things) == 2


def is_single(scene: Scene) -> bool:
    return len(scene.things) == 1 and scene.arrangement != "row" and not scene.plain


def is_other(scene: Scene) -> bool:
    return not is_pair(scene) and not is_single(scene)


class Pictures:
    """The cached latents, drawn at random with fresh captions; a few of them are replaced by new ones at every step."""

    def __init__(self, work: Path, rank: int, texts: Texts, shares: Shares) -> None:
        # Scenes are pickled objects; the file is this trainer's own.
        self.pictures: dict[tuple[int, int], tuple[Tensor, list[Scene]]] = torch.load(
            work / f"latents-{rank}.pt", weights_only=False
        )
        self.texts, self.shares = texts, shares
        self.autoencoder = load_autoencoder(work / "vae.pt")
        self.shift, self.scale = scaled(work / "scale.pt", self.autoencoder)
        self.rng = Random(time.time_ns() + rank)
        self.rotaries: dict[tuple[int, int, int], Rotary] = {}

    def renew(self, size: tuple[int, int]) -> None:
        """Replaces pictures of a size by new ones, about as many pixels as `shares.renewed` of 128x128."""
        latents, scenes = self.pictures[size]
        count = max(1, round(self.shares.renewed * 128 * 128 / (size[0] * size[1])))
        made, shown = encode(self.autoencoder, self.rng, size, count)
        for i, latent, scene in zip(self.rng.sample(range(len(scenes)), count), made, shown, strict=True):
            latents[i], scenes[i] = ((latent.float() - self.shift) * self.scale).bfloat16(), scene

    def rotary(self, text_tokens: int, rows: int, columns: int) -> Rotary:
        key = (text_tokens, rows, columns)
        if key not in self.rotaries:
            self.rotaries[key] = Rotary(*key, FluxShape(), torch.bfloat16)
        return self.rotaries[key]

    def choose(self, size: tuple[int, int]) -> int:
        """Returns the number of a random picture; what is hard to learn is chosen more often."""
        scenes = self.pictures[size][1]
        roll = self.rng.random()
        if roll < CRESCENT_SHARE:
            wanted = is_crescent
        elif roll < CRESCENT_SHARE + self.shares.pairs:
            wanted = is_pair
        elif roll < CRESCENT_SHARE + self.shares.pairs + self.shares.singles:
            wanted = is_single
        else:
            wanted = is_other
        while not wanted(scenes[i := self.rng.randrange(len(scenes))]):
            pass
        return i

    def batch(self, size: tuple[int, int], count: int, text_tokens: int) -> Batch:
        """Returns pictures of one size; captions are padded to `text_tokens` or the longest of them."""
        if self.shares.renewed:
            self.renew(size)
        latents, scenes = self.pictures[size]
        chosen = [self.choose(size) for _ in range(count)]
        captions = [
            "" if self.rng.random() < BLANK_CAPTIONS else caption(scenes[i], self.rng, backward=self.shares.backward)
            for i in chosen
        ]
        rows = self.texts.t5_ids(captions)
        length = min(TEXT_TOKENS, max(text_tokens, max(map(len, rows))))
        height, width = latents.shape[2] // 2, latents.shape[3] // 2
        ids = padded(rows, length, T5_PAD)
        return Batch(
            tokens=packed(latents[chosen]),
            weights=token_weights([scenes[i] for i in chosen], size),
            labels=token_labels([scenes[i] for i in chosen], size),
            t5_ids=ids,
            clip_ids=self.texts.clip_ids(captions),
            rotary=self.rotary(length, height, width),
        )


def chosen_size(rng: Random, share: float, pictures: Pictures) -> tuple[int, int]:
    others = [size for size in pictures.pictures if size != NATIVE]
    return rng.choice(others) if rng.random() < share else NATIVE


def losses(model: Nano, batch: Batch) -> tuple[Tensor, Tensor]:
    """Returns the weighted mean squared error of the velocity at random times, and the error of reading the things."""
    tokens = batch.tokens.float()
    noise = torch.randn(tokens.shape)
    t = random_times(len(tokens))
    mixed = torch.lerp(tokens, noise, t[:, None, None])
    predicted, scores = model(mixed.bfloat16(), t, batch.t5_ids, batch.clip_ids, batch.rotary)
    error = (predicted.float() - (noise - tokens)).square().mean(dim=-1)
    read = [
        F.cross_entropy(score.transpose(1, 2), label, reduction="none")
        for score, label in zip(
            scores.float().split((len(KIND_LABELS), len(COLOUR_LABELS)), dim=-1), batch.labels, strict=True
        )
    ]
    return (error * batch.weights).mean(), (sum(read) * batch.weights).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints and cached latents")
    parser.add_argument("--texts", type=Path, required=True, help="folder of the two tokenizers")
    parser.add_argument("--minutes", type=float, default=70, help="training time in all, over every resumption")
    parser.add_argument("--decay", type=float, default=0.3, help="last part of the time, with falling learning rate")
    parser.add_argument("--batch", type=int, default=32, help="pictures of 128x128 per process and step")
    parser.add_argument("--pairs", type=float, default=0.48, help="share of pictures with two different things")
    parser.add_argument("--singles", type=float, default=0.16, help="share of pictures with one thing in a scene")
    parser.add_argument("--renew", type=int, default=0, help="cached pictures replaced at every step, per process")
    parser.add_argument("--speed", type=float, default=1.0, help="factor of all learning rates")
    parser.add_argument("--warmup", type=int, default=100, help="steps of rising learning rate")
    parser.add_argument("--backward", type=float, default=BACKWARD_SHARE, help="share of captions with turned order")
    parser.add_argument("--reading", type=float, default=0.2, help="weight of reading the things half way through")
    parser.add_argument("--sized", type=float, default=0.0, help="share of steps with other sizes than 128x128")
    parser.add_argument("--long", type=float, default=0.15, help="share of steps with all 48 text tokens")
    arguments = parser.parse_args()
    rank, world = join_processes()
    torch.manual_seed(1)
    texts = Texts(arguments.texts)
    model = Nano(texts).bfloat16()
    optimiser = new_optimiser(model, rank, world, arguments.speed)
    path = arguments.work / "flux.pt"
    progress = {"elapsed_s": 0.0, "samples": 0}
    if path.exists():
        state = torch.load(path)
        optimiser.load_state_dict(state["optimiser"])
        progress = state["progress"]
    shares = Shares(
        pairs=arguments.pairs, singles=arguments.singles, backward=arguments.backward, renewed=arguments.renew
    )
    pictures = Pictures(arguments.work, rank, texts, shares)
    train(model, optimiser, pictures, path, arguments, (rank, world), progress)


def train(
    model: Nano,
    optimiser: Optimiser,
    pictures: Pictures,
    path: Path,
    arguments: argparse.Namespace,
    place: tuple[int, int],
    progress: dict[str, float],
) -> None:
    """Trains until the time is spent, keeping a checkpoint every two minutes."""
    rank, world = place
    torch.manual_seed(time.time_ns() % 2**31 + rank)
    total, saved, before = arguments.minutes * 60, progress["elapsed_s"], time.monotonic()
    recent: list[list[float]] = []
    while progress["elapsed_s"] < total:
        shared = Random(optimiser.step_count)
        size = chosen_size(shared, arguments.sized, pictures)
        text_tokens = TEXT_TOKENS if shared.random() < arguments.long else shared.randint(4, 24)
        count = max(4, round(arguments.batch * 128 * 128 / (size[0] * size[1])))
        loss, reading = losses(model, pictures.batch(size, count, text_tokens))
        model.zero_grad(set_to_none=True)
        (loss + arguments.reading * reading).backward()
        factor = schedule(
            progress["elapsed_s"], total, optimiser.step_count, warmup_steps=arguments.warmup, decay=arguments.decay
        )
        norm = optimiser.step(factor)
        now = time.monotonic()
        report = average(torch.tensor([now - before, float(loss.detach()), float(reading.detach()), count]))
        before = now
        progress["elapsed_s"] += float(report[0])
        progress["samples"] += world * int(report[3])
        recent.append(report[1:3].tolist())
        if rank == 0 and optimiser.step_count % 50 == 0:
            loss_mean, reading_mean = (sum(values) / len(values) for values in zip(*recent, strict=True))
            print(
                f"{progress['elapsed_s']:6.0f} s  step {optimiser.step_count}  {progress['samples']} samples  "
                f"loss {loss_mean:.4f}  reading {reading_mean:.4f}  norm {norm:.2f}  "
                f"lr x{factor:.2f}  {report[0]:.3f} s",
                flush=True,
            )
            recent.clear()
        if rank == 0 and (progress["elapsed_s"] - saved > 120 or progress["elapsed_s"] >= total):
            saved = progress["elapsed_s"]
            save(path, {"optimiser": optimiser.state_dict(), "progress": progress, "ema": optimiser.averaged()})


if __name__ == "__main__":
    main()
