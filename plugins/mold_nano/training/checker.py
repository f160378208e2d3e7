"""Judges whether a picture shows a scene: render and compare, one factor of the scene at a time.

For every factor (a thing's colour, the place, the count ...) the scene is drawn without movement in each of the
factor's values, all else as asked; the factor is right if no other value's drawing is nearer to the picture than the
asked one's.
"""

from collections.abc import Iterable, Iterator
from random import Random

import numpy as np
from attrs import evolve, frozen
from captions import caption
from PIL import Image
from scenes import FAMILIES, Family, random_scene
from world import COLOURS, KINDS, MOON_COLOURS, PLACES, SHAPES, TIMES, Scene, Thing, paint

GRAIN = 2


@frozen(kw_only=True)
class Prompt:
    """A caption to draw, the scene it describes, and where it counts."""

    text: str
    scene: Scene
    family: Family
    held_out: bool
    seed: int


def prompts(seed: int, per_family: int, *, held_out: bool) -> list[Prompt]:
    """Returns prompts of every family; held-out ones hold an untrained colour-kind pair, so show things."""
    rng = Random(seed)
    found = []
    for family in FAMILIES:
        if held_out and family == "landscape":
            continue
        for _ in range(per_family):
            scene = random_scene(rng, family=family, held_out=held_out)
            text = caption(scene, rng, plain=True)
            found.append(Prompt(text=text, scene=scene, family=family, held_out=held_out, seed=rng.getrandbits(31)))
    return found


def with_thing(scene: Scene, index: int, **changes: str) -> Scene:
    things = list(scene.things)
    things[index] = evolve(things[index], **changes)
    return evolve(scene, things=tuple(things))


def swapped_colours(scene: Scene) -> Scene:
    first, second = scene.things
    things = (Thing(kind=first.kind, colour=second.colour), Thing(kind=second.kind, colour=first.colour))
    return evolve(scene, things=things)


def thing_factors(scene: Scene) -> Iterator[tuple[str, Iterable[Scene]]]:
    """Yields the factors of the things themselves with all their values."""
    kinds = SHAPES if scene.plain else KINDS
    for index in range(len(scene.things)):
        yield "colour", [with_thing(scene, index, colour=colour) for colour in COLOURS]
        yield "kind", [with_thing(scene, index, kind=kind) for kind in kinds]
    if len(scene.things) == 2:
        turned = evolve(scene, things=scene.things[::-1])
        yield "binding", [swapped_colours(scene)]
        yield "relation", [evolve(s, arrangement=a) for s in (scene, turned) for a in ("beside", "stacked")]
    elif scene.things:
        alone = evolve(scene, count=1, arrangement="centre")
        rows = [evolve(scene, count=count, arrangement="row", size="normal") for count in (2, 3)]
        yield "count", [*rows, alone if scene.arrangement == "row" else scene]
        if scene.arrangement != "row":
            yield "size", [evolve(scene, size=size) for size in ("small", "normal", "big")]
            yield "position", [evolve(scene, arrangement=side) for side in ("left", "centre", "right")]


def surrounding_factors(scene: Scene) -> Iterator[tuple[str, Iterable[Scene]]]:
    """Yields the factors of everything around the things with all their values."""
    if scene.plain:
        yield "background", [evolve(scene, background=colour) for colour in (None, *COLOURS)]
        return
    yield "place", [evolve(scene, place=place) for place in PLACES]
    yield "time", [evolve(scene, time=time) for time in TIMES]
    if scene.time == "night":
        yield "moon", [evolve(scene, moon=colour) for colour in (None, *MOON_COLOURS)]
        if scene.moon:
            yield "moon's form", [evolve(scene, crescent=not scene.crescent)]
    yield "mountains", [evolve(scene, mountains=not scene.mountains)]
    yield "clouds", [evolve(scene, clouds=not scene.clouds)]
    if scene.time == "day":
        yield "rainbow", [evolve(scene, rainbow=not scene.rainbow)]


def coarse(picture: Image.Image) -> np.ndarray:
    """Returns a picture at half size, so that a pixel of movement matters little."""
    return np.asarray(picture.convert("RGB").reduce(GRAIN), dtype=np.float32)


def judge(picture: Image.Image, scene: Scene) -> dict[str, bool]:
    """Returns for every factor of a scene whether the picture shows it as asked; of two things both must be right."""
    seen = coarse(picture)

    def distance(other: Scene) -> float:
        drawn = coarse(paint(other, seed=None, width=picture.width, height=picture.height))
        return float(np.abs(seen - drawn).mean())

    asked = distance(scene)
    verdict: dict[str, bool] = {}
    for name, values in (*thing_factors(scene), *surrounding_factors(scene)):
        right = all(distance(value) >= asked for value in values if value != scene)
        verdict[name] = verdict.get(name, True) and right
    return verdict
