"""Draws captions with the checkpoint being trained: a grid to look at, and the share of prompts drawn right.

python sample.py --work /path/to/scratch --texts ../mold_nano/models/flux-nano --grid grid.png --adherence 24
"""

import argparse
from itertools import pairwise
from pathlib import Path

import torch
from autoencoder import Autoencoder
from cache_latents import load_autoencoder
from checker import Prompt, judge, prompts
from flux import FluxShape, Rotary, unpacked
from PIL import Image
from text import T5_PAD, TEXT_TOKENS, Texts, padded
from torch import Tensor
from train_flux import Nano

GRID = (
    "a red house under a yellow moon",
    "a blue boat on the sea at night",
    "three green trees",
    "a cat on a hill at sunset",
    "a red house next to a green tree",
    "a white cat left of a red car",
    "a yellow balloon above a blue car",
    "two pink flowers in the snow",
    "a castle in the desert",
    "a house on an island with a rainbow",
    "a white cat at night with mountains",
    "three orange boats at sunset",
    "a purple house",
    "a green balloon over a red boat",
    "a red circle",
    "a yellow star on a blue background",
    "a blue square next to a red triangle",
    "a pink heart above a green circle",
    "three red hearts",
    "two black squares",
    "mountains at sunset",
    "a blue cat on a road",
    "a black car on the left with clouds",
    "a brown cat and a yellow flower under a white crescent moon",
)


class Sampler:
    """Draws pictures from captions with the trained networks, as the engine does with the exported ones."""

    def __init__(self, work: Path, texts: Path) -> None:
        self.texts = Texts(texts)
        state = torch.load(work / "flux.pt")
        self.model = Nano(self.texts).float().eval()
        self.model.load_state_dict(self.model.state_dict() | state["ema"])
        self.progress = state["progress"]
        self.autoencoder: Autoencoder = load_autoencoder(work / "vae.pt").float()
        decoder = work / "decoder.pt"
        if decoder.exists():
            self.autoencoder.load_state_dict(torch.load(decoder)["ema"])
        cached = torch.load(work / "scale.pt")
        self.shift, self.scale = cached["shift"], cached["scale"]

    @torch.no_grad()
    def latents(self, captions: list[str], seeds: list[int], size: tuple[int, int], steps: int, shift: float) -> Tensor:
        """Returns scaled latents after `steps` Euler steps from t = 1 to 0."""
        rows, columns = size[1] // 16, size[0] // 16
        shape = FluxShape()
        noise = [torch.randn(rows * columns, shape.channels, generator=torch.manual_seed(seed)) for seed in seeds]
        tokens = torch.stack(noise)
        t5_ids = padded(self.texts.t5_ids(captions), TEXT_TOKENS, T5_PAD)
        txt, pooled = self.model.t5(t5_ids), self.model.clip(self.texts.clip_ids(captions))
        rotary = Rotary(TEXT_TOKENS, rows, columns, shape, torch.float32)
        times = torch.linspace(1, 0, steps + 1)
        times = shift * times / (1 + (shift - 1) * times)
        for now, after in pairwise(times):
            velocity = self.model.flux(tokens, txt, pooled, now.expand(len(tokens)), rotary)
            tokens = tokens + (after - now) * velocity
        return unpacked(tokens, 2 * rows, 2 * columns)

    @torch.no_grad()
    def draw(
        self,
        captions: list[str],
        seeds: list[int],
        size: tuple[int, int] = (128, 128),
        steps: int = 4,
        shift: float = 1.0,
    ) -> list[Image.Image]:
        latents = self.latents(captions, seeds, size, steps, shift)
        pictures = self.autoencoder.decoder(latents / self.scale + self.shift)
        pixels = ((pictures.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
        return [Image.fromarray(picture.numpy()) for picture in pixels]


def grid(pictures: list[Image.Image], columns: int = 8) -> Image.Image:
    """Puts pictures of one size side by side."""
    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + 4) - 4, rows * (height + 4) - 4), (255, 255, 255))
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * (width + 4), i // columns * (height + 4)))
    return sheet


def adherence(sampler: Sampler, asked: list[Prompt], steps: int, shift: float) -> str:
    """Returns a table of the share of prompts with all factors right, and of the factors, by family."""
    lines = []
    for family in dict.fromkeys(prompt.family for prompt in asked):
        group = [prompt for prompt in asked if prompt.family == family]
        pictures = sampler.draw([p.text for p in group], [p.seed for p in group], steps=steps, shift=shift)
        verdicts = [judge(picture, p.scene) for picture, p in zip(pictures, group, strict=True)]
        right = sum(all(verdict.values()) for verdict in verdicts) / len(group)
        names = dict.fromkeys(name for verdict in verdicts for name in verdict)
        wrong = {name: sum(not v.get(name, True) for v in verdicts) for name in names}
        lines.append(f"{family:16} {right:4.0%}  wrong: " + ", ".join(f"{n} {c}" for n, c in wrong.items() if c))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints")
    parser.add_argument("--texts", type=Path, required=True, help="folder of the two tokenizers")
    parser.add_argument("--grid", type=Path, help="where to write 24 pictures side by side")
    parser.add_argument("--size", default="128x128", help="the grid's picture size")
    parser.add_argument(
        "--adherence", type=int, default=0, help="prompts per family to judge, and half as many held out"
    )
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--shift", type=float, default=1.0, help="shift of the sampling times towards noise")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sampler = Sampler(arguments.work, arguments.texts)
    print(sampler.progress)
    if arguments.grid:
        width, height = map(int, arguments.size.split("x"))
        pictures = sampler.draw(list(GRID), [1] * len(GRID), (width, height), arguments.steps, arguments.shift)
        grid(pictures).save(arguments.grid)
    if arguments.adherence:
        for held_out in (False, True):
            print("held out" if held_out else "held in")
            count = arguments.adherence // 2 if held_out else arguments.adherence
            print(
                adherence(sampler, prompts(77, count, held_out=held_out), arguments.steps, arguments.shift), flush=True
            )


if __name__ == "__main__":
    main()
