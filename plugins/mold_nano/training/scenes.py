"""Samples random scenes of the nano world in the mix the models are trained on."""

from collections.abc import Mapping
from random import Random
from typing import Literal

from world import (
    COLOURS,
    DEFAULT_COLOURS,
    HELD_OUT,
    KINDS,
    MOON_COLOURS,
    PLACES,
    SHAPES,
    Scene,
    Size,
    Thing,
    Time,
    default_place,
)

Family = Literal["single", "counted", "pair", "landscape", "shape", "counted shapes", "shape pair"]
FAMILIES: tuple[Family, ...] = ("single", "counted", "pair", "landscape", "shape", "counted shapes", "shape pair")

# How often each family of pictures is drawn; what is hard to learn is drawn more often.
MIX: dict[Family, float] = {
    "single": 0.2,
    "counted": 0.11,
    "pair": 0.35,
    "landscape": 0.06,
    "shape": 0.08,
    "counted shapes": 0.07,
    "shape pair": 0.13,
}


def random_thing(rng: Random, kinds: tuple[str, ...]) -> Thing:
    """Returns a thing whose colour-kind pair is not held out."""
    while True:
        kind = rng.choice(kinds)
        colour = DEFAULT_COLOURS[kind] if rng.random() < 0.12 else rng.choice(list(COLOURS))
        thing = Thing(kind=kind, colour=colour)
        if not thing.held_out:
            return thing


def random_held_out(rng: Random, kinds: tuple[str, ...]) -> Thing:
    """Returns a thing of a held-out colour-kind pair, for the benchmark only."""
    colour, kind = rng.choice(sorted(pair for pair in HELD_OUT if pair[1] in kinds))
    return Thing(kind=kind, colour=colour)


def random_things(rng: Random, family: Family, kinds: tuple[str, ...], held_out: bool) -> tuple[Thing, ...]:
    """Returns the one or two different things of a picture."""
    first = random_held_out(rng, kinds) if held_out else random_thing(rng, kinds)
    if not family.endswith("pair"):
        return (first,)
    second = random_thing(rng, kinds)
    while second == first or (second.kind == first.kind and rng.random() < 0.8):
        second = random_thing(rng, kinds)
    return (first, second) if rng.random() < 0.5 else (second, first)


def random_size(rng: Random) -> Size:
    return rng.choices(("normal", "small", "big"), (0.8, 0.1, 0.1))[0]


def random_shapes(rng: Random, family: Family, things: tuple[Thing, ...]) -> Scene:
    """Returns a picture of plain shapes whose background differs from every shape's colour."""
    colours = [colour for colour in COLOURS if colour not in {thing.colour for thing in things}]
    background = rng.choice(colours) if rng.random() < 0.3 else None
    if family == "shape":
        return Scene(things=things, size=random_size(rng), background=background)
    if family == "counted shapes":
        return Scene(things=things, count=rng.choice((2, 3)), arrangement="row", background=background)
    arrangement = rng.choice(("beside", "stacked"))
    return Scene(things=things, arrangement=arrangement, background=background)


def random_weather(rng: Random, time: Time) -> dict[str, bool | str | None]:
    """Returns the extras of a scene: at night perhaps a moon, by day perhaps a rainbow, mountains or clouds."""
    extras: dict[str, bool | str | None] = {}
    if time == "night" and rng.random() < 0.55:
        extras["moon"] = rng.choice(MOON_COLOURS) if rng.random() < 0.6 else "yellow"
        extras["crescent"] = rng.random() < 0.3
    roll = rng.random()
    if roll < 0.12:
        extras["mountains"] = True
    elif roll < 0.22:
        extras["clouds"] = True
    elif roll < 0.3 and time == "day":
        extras["rainbow"] = True
    return extras


def random_scene(
    rng: Random, *, family: Family | None = None, mix: Mapping[Family, float] = MIX, held_out: bool = False
) -> Scene:
    """Returns a random scene of a family, or of a family drawn from `mix`; with a held-out pair if asked."""
    family = family or rng.choices(list(mix), list(mix.values()))[0]
    if "shape" in family:
        return random_shapes(rng, family, random_things(rng, family, SHAPES, held_out))
    things = () if family == "landscape" else random_things(rng, family, KINDS, held_out)
    time = rng.choices(("day", "sunset", "night"), (0.45, 0.2, 0.35))[0]
    place = default_place(things) if rng.random() < 0.4 else rng.choice(PLACES)
    layout: dict[str, object] = {}
    if family == "single":
        layout["size"] = random_size(rng)
        layout["arrangement"] = rng.choices(("centre", "left", "right"), (0.8, 0.1, 0.1))[0]
    elif family == "counted":
        layout |= {"count": rng.choice((2, 3)), "arrangement": "row"}
    elif family == "pair":
        layout["arrangement"] = rng.choices(("beside", "stacked"), (0.7, 0.3))[0]
    return Scene(things=things, place=place, time=time, **layout, **random_weather(rng, time))
