"""Writes vocabulary.toml: the words flux-nano knows, from the tables its captions are made of.

python vocabulary.py --out ../mold_nano/vocabulary.toml
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import captions
from make_tokenizers import words
from world import COLOURS, HELD_OUT, KINDS, MOON_COLOURS, SHAPES

HEADER = """\
# What flux-nano can draw. Written by training/vocabulary.py; a prompt's other words are ignored.
"""


def listed(values: Iterable[str]) -> str:
    """Returns words as a TOML list, each once, in their order."""
    return "[" + ", ".join(f'"{value}"' for value in dict.fromkeys(values)) + "]"


def vocabulary() -> str:
    """Returns the whole file."""
    nouns = {kind: listed(word for pair in captions.NOUNS[kind] for word in pair) for kind in captions.NOUNS}
    lines = [
        HEADER,
        f"objects = {listed(KINDS)}",
        f"shapes = {listed(SHAPES)}",
        f"colours = {listed(COLOURS)}",
        f"moon_colours = {listed(MOON_COLOURS)}",
        'places = ["field", "hill", "sea", "desert", "snow", "island", "road"]',
        'times = ["day", "sunset", "night"]',
        'extras = ["sun", "moon", "crescent moon", "mountains", "clouds", "rainbow"]',
        'counts = ["one", "two", "three"]',
        'sizes = ["small", "big"]',
        'relations = ["and", "next to", "left of", "right of", "above", "below"]',
        "",
        "examples = [",
        *(f'    "{example}",' for example in EXAMPLES),
        "]",
        "",
        "# Colours and things that were never drawn together in training.",
        f"untrained = {listed(f'{colour} {kind}' for colour, kind in sorted(HELD_OUT))}",
        "",
        "# Every word with a meaning to the text encoders.",
        f"words = {listed(words())}",
        "",
        "[nouns]",
        *(f"{kind} = {nouns[kind]}" for kind in nouns),
        "",
        "[phrases]",
        *(f"{place} = {listed(captions.PLACE_WORDS[place])}" for place in captions.PLACE_WORDS),
        *(f"{time} = {listed(captions.TIME_WORDS[time])}" for time in captions.TIME_WORDS),
        f"mountains = {listed(captions.MOUNTAIN_WORDS)}",
        f"clouds = {listed(captions.CLOUD_WORDS)}",
        f"rainbow = {listed(captions.RAINBOW_WORDS)}",
    ]
    return "\n".join(lines) + "\n"


EXAMPLES = (
    "a red house under a yellow moon",
    "a blue boat on the sea at night",
    "three green trees",
    "a cat on a hill at sunset",
    "a red house next to a green tree",
    "a yellow balloon above a blue car",
    "a white castle on an island with a rainbow",
    "a blue square left of a red triangle",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.write_text(vocabulary())


if __name__ == "__main__":
    main()
