"""Says what a clip of the moving nano world shows, by comparing it with drawings: the judge of ltx2-nano's clips.

The scene is the one whose empty drawing most pixels agree with. What differs from it is the moving thing; its middle is
followed through the frames, and every kind in every colour is drawn there to see which comes nearest.
"""

from collections.abc import Sequence
from itertools import product

import numpy as np
from attrs import frozen
from clips import FPS, KINDS, MOTIONS, PLACES, SIZES, Clip, background, draw_ball
from PIL import Image, ImageDraw
from world import COLOURS, DRAWERS, TIMES, Pen, Place, Time

# How far a pixel (mean of three channels, of 255) is from the empty scene before it counts as part of a thing.
_DIFFERENT = 16
_LOOKED_AT = 5
# Fewer different pixels than this share of the picture are no thing that could be followed.
_SMALLEST = 0.006


@frozen(kw_only=True, eq=False)
class Seen:
    """What a clip shows. `track` is the thing's middle [F, 2] in fractions of the picture, NaN where it is not seen."""

    kind: str
    colour: str
    motion: str
    place: Place
    time: Time
    track: np.ndarray


def see(frames: Sequence[Image.Image], fps: float = FPS) -> Seen:
    """Returns what frames show."""
    pixels = np.stack([np.asarray(frame.convert("RGB"), dtype=np.float32) for frame in frames])
    height, width = pixels.shape[1:3]
    place, time, empty = scene_of(pixels, width, height)
    different = np.abs(pixels - empty).mean(-1)
    track = np.stack([middle(frame) for frame in different])
    kind, colour = thing_of(pixels, different, track, empty, place)
    return Seen(
        kind=kind, colour=colour, motion=motion_of(kind, track, fps), place=place, time=time, track=track
    )  # fmt: skip


def scene_of(pixels: np.ndarray, width: int, height: int) -> tuple[Place, Time, np.ndarray]:
    """Returns the place, the time and the drawing [H, W, 3] of the empty scene."""
    typical = np.median(pixels, axis=0)
    best = None
    for place, time in product(sorted({place for places in PLACES.values() for place in places}), TIMES):
        drawn = np.asarray(background(place, time, width, height, 2).reduce(2), dtype=np.float32)
        error = float(np.abs(typical - drawn).mean(-1).clip(0, 60).mean())
        if best is None or error < best[0]:
            best = (error, place, time, drawn)
    assert best is not None
    return best[1], best[2], best[3]


def middle(different: np.ndarray) -> np.ndarray:
    """Returns the middle (x, y) of what differs from the empty scene, in fractions; NaN if that is next to nothing."""
    weight = np.where(different > _DIFFERENT, different, 0)
    if (weight > 0).mean() < _SMALLEST:
        return np.full(2, np.nan)
    height, width = weight.shape
    total = weight.sum()
    x = (weight.sum(0) * (np.arange(width) + 0.5)).sum() / total / width
    y = (weight.sum(1) * (np.arange(height) + 0.5)).sum() / total / height
    return np.array([x, y])


def thing_of(
    pixels: np.ndarray, different: np.ndarray, track: np.ndarray, empty: np.ndarray, place: Place
) -> tuple[str, str]:
    """Returns the kind and the colour whose drawings are nearest in the frames that show most of the thing."""
    shown = (different > _DIFFERENT).sum((1, 2))
    seen = [index for index in np.argsort(-shown) if not np.isnan(track[index]).any()][:_LOOKED_AT]
    errors = {}
    for kind, colour in product((kind for kind in KINDS if place in PLACES[kind]), COLOURS):
        errors[kind, colour] = sum(
            float(np.abs(pixels[index] - drawn_at(kind, colour, track[index], empty)).mean()) for index in seen
        )
    return min(errors, key=errors.__getitem__) if seen else ("", "")


def drawn_at(kind: str, colour: str, at: np.ndarray, empty: np.ndarray) -> np.ndarray:
    """Returns the scene with a thing whose middle is at a place."""
    height, width = empty.shape[:2]
    size = SIZES[kind] * height
    x, foot = at[0] * width, at[1] * height + size / 2
    for _ in range(2):
        image = Image.fromarray(empty.astype(np.uint8)).resize((2 * width, 2 * height), Image.Resampling.NEAREST)
        pen = Pen(draw=ImageDraw.Draw(image), x=2 * x, y=2 * foot, size=2 * size)
        (draw_ball if kind == "ball" else DRAWERS[kind])(pen, COLOURS[colour])
        drawn = np.asarray(image.reduce(2), dtype=np.float32)
        found = middle(np.abs(drawn - empty).mean(-1))
        if np.isnan(found).any():
            break
        x, foot = x + (at[0] - found[0]) * width, foot + (at[1] - found[1]) * height
    return drawn


def speeds(track: np.ndarray, fps: float) -> np.ndarray:
    """Returns the median speed (x, y) in widths and heights per second; jumps from side to side do not count."""
    steps = np.diff(track, axis=0)
    steps = steps[~np.isnan(steps).any(1)]
    steps = steps[np.abs(steps).max(1) < 0.3]
    return np.median(steps, axis=0) * fps if len(steps) else np.zeros(2)


def motion_of(kind: str, track: np.ndarray, fps: float) -> str:
    """Returns which of its motions a thing makes."""
    if not kind:
        return ""
    across, down = speeds(track, fps)
    if "right" in MOTIONS[kind] and abs(across) > 0.07:
        return "right" if across > 0 else "left"
    if "up" in MOTIONS[kind]:
        whole = track[~np.isnan(track).any(1), 1]
        steps = np.diff(whole)
        even = np.mean(np.sign(steps[np.abs(steps) < 0.3])) if len(steps) else 0.0
        return "float" if abs(even) < 0.9 and abs(down) < 0.12 else ("down" if down > 0 else "up")
    return "bounce"


def agrees(seen: Seen, asked: Clip) -> dict[str, bool]:
    """Returns for each factor of a clip whether it is what was asked for."""
    return {name: getattr(seen, name) == getattr(asked, name) for name in ("kind", "colour", "motion", "place", "time")}
