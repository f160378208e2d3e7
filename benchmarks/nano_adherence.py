"""Prompt adherence of flux-nano, by type of prompt: images of the engine, compared with drawings.

The checker (`plugins/mold_nano/training/checker.py`) draws the prompted scene with every possible value of each factor:
every colour and kind of each thing, every count, place, time and relation. An image is correct if for every factor the
drawing of the prompted value is the nearest. Drawings of the scenes themselves, shifted as in training, give the
ceiling of the checker; drawings of other scenes of the same type give its floor. `--size` selects another size,
`--sheet` saves some images.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "plugins" / "mold_nano" / "training"))

from checker import Prompt, judge, prompts
from scenes import random_scene
from world import paint

AIM_HELD_IN, AIM_HELD_OUT = 0.85, 0.7
PROMPTS_SEED = 20_261_123

Draw = Callable[[Prompt], Image.Image]
Size = tuple[int, int]


def engine_draw(model: str, steps: int, size: Size) -> Draw:
    """Return a function that draws a prompt with the engine."""
    from mold_core import Engine, GenerateRequest

    engine = Engine()

    def draw(prompt: Prompt) -> Image.Image:
        request = GenerateRequest(
            prompt=prompt.text, model=model, seed=prompt.seed, steps=steps, width=size[0], height=size[1]
        )
        return Image.open(io.BytesIO(engine.generate(request).images[0].data))

    return draw


def true_drawing(size: Size) -> Draw:
    """Return a function that draws the asked scene as the world does."""
    return lambda prompt: paint(prompt.scene, seed=prompt.seed, width=size[0], height=size[1])


def other_drawing(size: Size) -> Draw:
    """Return a function that draws another scene of the prompt's type."""
    return lambda prompt: paint(
        random_scene(Random(prompt.seed), family=prompt.family), seed=prompt.seed, width=size[0], height=size[1]
    )


def sheet(asked: Sequence[Prompt], draw: Draw, columns: int = 8) -> Image.Image:
    """Return the images of every fifth prompt side by side."""
    images = [draw(prompt) for prompt in asked[::5]]
    width, height = images[0].size
    whole = Image.new("RGB", (columns * (width + 4), -(-len(images) // columns) * (height + 4)), "white")
    for number, image in enumerate(images):
        whole.paste(image, (number % columns * (width + 4), number // columns * (height + 4)))
    return whole


def size_of(text: str) -> Size:
    """Return width and height of text like 192x128."""
    width, height = map(int, text.split("x"))
    return width, height


def share_right(asked: Sequence[Prompt], draw: Draw) -> float:
    return sum(all(judge(draw(prompt), prompt.scene).values()) for prompt in asked) / len(asked)


def table(asked: Sequence[Prompt], draw: Draw, title: str) -> float:
    """Print the share of right images by type and what was wrong; return the share of all."""
    print(f"\n{title}\n{'type':16} {'prompts':>7} {'right':>6}  wrong")
    right: Counter[str] = Counter()
    wrong: dict[str, Counter[str]] = {}
    for prompt in asked:
        verdict = judge(draw(prompt), prompt.scene)
        right[prompt.family] += all(verdict.values())
        wrong.setdefault(prompt.family, Counter()).update(name for name, good in verdict.items() if not good)
    counts = Counter(prompt.family for prompt in asked)
    for family, count in counts.items():
        faults = ", ".join(f"{name} {number}" for name, number in wrong[family].most_common())
        print(f"{family:16} {count:7} {right[family] / count:6.0%}  {faults}", flush=True)
    total = right.total() / len(asked)
    print(f"{'all':16} {len(asked):7} {total:6.0%}")
    return total


def main() -> None:
    """Measure and print the tables; the last line is the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="flux-nano:bf16")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--per-type", type=int, default=30, help="prompts of each of the seven types")
    parser.add_argument(
        "--held-out", type=int, default=7, help="prompts of each type with an untrained colour and kind"
    )
    parser.add_argument("--size", type=size_of, default=(128, 128), metavar="WxH", help="size of the images")
    parser.add_argument("--sheet", type=Path, help="where to write images to look at")
    arguments = parser.parse_args()
    held_in = prompts(PROMPTS_SEED, arguments.per_type, held_out=False)
    held_out = prompts(PROMPTS_SEED + 1, arguments.held_out, held_out=True)
    drawings = true_drawing(arguments.size), other_drawing(arguments.size)
    ceiling, floor = (share_right(held_in + held_out, draw) for draw in drawings)
    print(f"the judge finds {ceiling:.1%} of true drawings right and {floor:.1%} of drawings of other scenes")
    draw = engine_draw(arguments.model, arguments.steps, arguments.size)
    if arguments.sheet:
        sheet(held_in, draw).save(arguments.sheet)
    value = table(held_in, draw, "trained colours and kinds")
    untrained = table(held_out, draw, "a colour and kind never seen together in training")
    result = {
        "name": "nano_adherence",
        "value": round(value, 4),
        "aim": AIM_HELD_IN,
        "unit": "share of prompts with everything right",
        "holds": value >= AIM_HELD_IN and untrained >= AIM_HELD_OUT,
        "size": "{}x{}".format(*arguments.size),
        "held_out": round(untrained, 4),
        "held_out_aim": AIM_HELD_OUT,
        "judge_ceiling": round(ceiling, 4),
        "judge_floor": round(floor, 4),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
