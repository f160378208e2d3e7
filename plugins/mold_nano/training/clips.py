"""The nano world in motion: one thing that moves in a scene, with its sound, at any time, from a description.

Whatever leaves the picture at one side comes in again at the other, and all motion is a function of time. A clip can
therefore go on for as long as one likes, and what its caption says stays true.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from random import Random
from typing import Literal

import numpy as np
from attrs import evolve, frozen
from PIL import Image, ImageDraw
from world import (
    COLOURS,
    DRAWERS,
    TIMES,
    Pen,
    Place,
    Rgb,
    Scene,
    Still,
    Thing,
    Time,
    draw_surroundings,
    mix,
    new_canvas,
    shaded,
    sky,
)

Motion = Literal["right", "left", "bounce", "up", "down", "float"]

FPS = 16
KINDS = ("ball", "boat", "car", "balloon")
MOTIONS: dict[str, tuple[Motion, ...]] = {
    "ball": ("right", "left", "bounce"),
    "boat": ("right", "left"),
    "car": ("right", "left"),
    "balloon": ("up", "down", "float"),
}
PLACES: dict[str, tuple[Place, ...]] = {
    "ball": ("field", "desert", "snow"),
    "boat": ("sea",),
    "car": ("road",),
    "balloon": ("field", "sea", "desert", "snow"),
}
DEFAULT_COLOURS = {"ball": "red", "boat": "red", "car": "blue", "balloon": "red"}

# Never drawn in training; the benchmark asks for them to see whether colours, kinds and motions are learnt apart.
HELD_OUT = frozenset({("purple", "ball"), ("orange", "boat"), ("green", "balloon"), ("pink", "car")})

# Widths (or heights, of what rises and sinks) per second, and sizes in heights of the picture.
SPEEDS = {"ball": 0.17, "boat": 0.15, "car": 0.2, "balloon": 0.16}
SIZES = {"ball": 0.26, "boat": 0.4, "car": 0.36, "balloon": 0.42}
HOP_S, HOP_HEIGHT = 1.3, 0.38
BOB_S, FLOAT_S = 2.0, 2.4
FLOOR: dict[Place, float] = {"field": 0.88, "desert": 0.88, "snow": 0.88, "sea": 0.82, "road": 0.87}


@frozen(kw_only=True)
class Clip:
    """What moves how, and where. `start` is where it is at time 0, in widths or heights; `phase` shifts its hops."""

    kind: str
    colour: str
    motion: Motion
    place: Place
    time: Time = "day"
    start: float = 0.5
    phase: float = 0.0

    @property
    def held_out(self) -> bool:
        return (self.colour, self.kind) in HELD_OUT

    def position(self, seconds: float, width: int, height: int) -> tuple[float, float]:
        """Returns the middle of the thing's foot, in fractions of the picture."""
        half = SIZES[self.kind] * 0.6 * height / width
        x, foot = 0.5, FLOOR[self.place]
        direction = {"right": 1, "left": -1, "up": -1, "down": 1}.get(self.motion, 0)
        travelled = self.start + direction * SPEEDS[self.kind] * seconds
        if self.motion in ("right", "left"):
            x = (travelled + half) % (1 + 2 * half) - half
        elif self.motion in ("up", "down"):
            size = SIZES["balloon"]
            foot = travelled % (1 + size)
        elif self.motion == "float":
            foot = 0.68 + 0.12 * math.sin(math.tau * (seconds + self.phase) / FLOAT_S)
        if self.kind == "ball":
            foot -= HOP_HEIGHT * hop(seconds + self.phase)
        elif self.kind == "boat":
            foot += 0.02 * math.sin(math.tau * (seconds + self.phase) / BOB_S)
        return x, foot


def hop(seconds: float) -> float:
    """Returns the height of a bouncing thing, 0 on the floor to 1 at the top."""
    part = seconds / HOP_S % 1
    return 4 * part * (1 - part)


# --- Pictures ---------------------------------------------------------------------------------------------------------


def draw_ball(pen: Pen, colour: Rgb) -> None:
    pen.ellipse(0, 0.5, 0.5, 0.5, shaded(colour))
    pen.ellipse(-0.03, 0.53, 0.44, 0.44, colour)
    pen.ellipse(-0.16, 0.7, 0.12, 0.1, mix(colour, (255, 255, 255), 0.6))


@lru_cache(maxsize=96)
def background(place: Place, time: Time, width: int, height: int, supersample: int) -> Image.Image:
    """Returns the empty scene, supersampled."""
    canvas = new_canvas(width, height, 1, supersample)
    scene = Scene(things=(Thing(kind="balloon", colour="red"),), place=place, time=time, moon="yellow")
    canvas.image.paste(sky(time, canvas.width, canvas.height))
    draw_surroundings(canvas, scene, Still())
    return canvas.image


def frame(clip: Clip, seconds: float, width: int, height: int, supersample: int = 2) -> Image.Image:
    """Returns the picture of a moment."""
    image = background(clip.place, clip.time, width, height, supersample).copy()
    draw = ImageDraw.Draw(image)
    size = SIZES[clip.kind] * height * supersample
    x, foot = clip.position(seconds, width, height)
    drawer = draw_ball if clip.kind == "ball" else DRAWERS[clip.kind]
    pen = Pen(draw=draw, x=x * width * supersample, y=foot * height * supersample, size=size)
    drawer(pen, COLOURS[clip.colour])
    return image.reduce(supersample)


def frames(clip: Clip, count: int, width: int, height: int) -> np.ndarray:
    """Returns the frames of a clip, uint8 [count, H, W, 3]."""
    return np.stack([np.asarray(frame(clip, index / FPS, width, height)) for index in range(count)])


# --- Sound ------------------------------------------------------------------------------------------------------------

RATE = 48_000


def sound(clip: Clip, seconds: float, rng: Random, width: int = 128, height: int = 96) -> np.ndarray:
    """Returns what is heard, float32 [2, samples] at 48 kHz with nothing above 4 kHz; it comes from where the thing is.

    A ball ticks where it hits the floor, a boat is heard by its waves, a car hums, and a balloon's tone is as high as
    the balloon itself.
    """
    time = np.arange(round(seconds * RATE)) / RATE
    wave = {"ball": ticks, "boat": waves, "car": hum, "balloon": tone}[clip.kind](clip, time, rng)
    x = np.array([clip.position(moment, width, height)[0] for moment in time[::480]]).clip(0, 1)
    right = np.interp(time, time[::480], x)
    return (np.stack([np.sqrt(1 - right), np.sqrt(right)]) * wave).astype(np.float32)


def ticks(clip: Clip, time: np.ndarray, rng: Random) -> np.ndarray:
    since = (time + clip.phase) % HOP_S
    return 0.7 * np.exp(-since / 0.035) * np.sin(math.tau * 880 * since) * np.minimum(1, since / 0.001)


def waves(clip: Clip, time: np.ndarray, rng: Random) -> np.ndarray:
    noise = np.random.default_rng(rng.getrandbits(32)).standard_normal(len(time))
    spectrum = np.fft.rfft(noise)
    frequency = np.fft.rfftfreq(len(time), 1 / RATE)
    spectrum *= np.exp(-frequency / 500) * (frequency < 4000)
    noise = np.fft.irfft(spectrum, len(time))
    swell = 0.55 + 0.45 * np.sin(math.tau * (time + clip.phase) / BOB_S)
    return 0.22 * swell * noise / (noise.std() + 1e-9)


def hum(clip: Clip, time: np.ndarray, rng: Random) -> np.ndarray:
    wave = sum(np.sin(math.tau * 110 * harmonic * time) / harmonic for harmonic in range(1, 9))
    return 0.22 * wave * (0.8 + 0.2 * np.sin(math.tau * 8 * (time + clip.phase)))


def tone(clip: Clip, time: np.ndarray, rng: Random) -> np.ndarray:
    coarse = time[::240]
    pitch = np.array([pitch_of(clip.position(moment, 128, 96)[1]) for moment in coarse])
    phase = np.cumsum(np.interp(time, coarse, pitch)) / RATE * math.tau
    return 0.35 * np.sin(phase) + 0.1 * np.sin(2 * phase)


def pitch_of(foot: float) -> float:
    """Returns the tone of a balloon in Hz: 300 with its foot at the lower edge, an octave and a half higher above."""
    return 300 * 2 ** (1.5 * min(1.0, max(0.0, 1 - foot)))


# --- Descriptions -----------------------------------------------------------------------------------------------------

PHRASES: dict[tuple[str, Motion], tuple[str, ...]] = {
    ("ball", "right"): ("bouncing left to right", "bouncing from left to right", "bouncing to the right"),
    ("ball", "left"): ("bouncing right to left", "bouncing from right to left", "bouncing to the left"),
    ("ball", "bounce"): ("bouncing up and down", "bouncing", "bouncing on the spot"),
    ("boat", "right"): (
        "sailing left to right", "sailing from left to right", "sailing to the right", "sailing across the sea",
        "sailing",
    ),
    ("boat", "left"): ("sailing right to left", "sailing from right to left", "sailing to the left"),
    ("car", "right"): (
        "driving left to right", "driving from left to right", "driving to the right", "driving along the road",
        "driving",
    ),
    ("car", "left"): ("driving right to left", "driving from right to left", "driving to the left"),
    ("balloon", "up"): ("rising", "rising into the sky", "floating up", "flying up"),
    ("balloon", "down"): ("sinking", "coming down", "floating down", "sinking to the ground"),
    ("balloon", "float"): ("floating up and down", "floating", "floating in the air"),
}  # fmt: skip
PLACE_PHRASES: dict[Place, tuple[str, ...]] = {
    "field": ("", "", "on the grass", "in a field"),
    "desert": ("in the desert", "on the sand"),
    "snow": ("in the snow", "on the snow"),
    "sea": ("", "on the sea", "on the water"),
    "road": ("", "", "on the road"),
}
ABOVE: dict[Place, tuple[str, ...]] = {
    "field": ("", "", "over the grass", "over a field"),
    "desert": ("over the desert", "in the desert"),
    "snow": ("over the snow", "in the snow"),
    "sea": ("over the sea", "over the water"),
}
TIME_PHRASES: dict[Time, tuple[str, ...]] = {
    "day": ("", "", "", "by day", "in the morning"),
    "sunset": ("at sunset", "in the evening"),
    "night": ("at night", "in the night", "under the moon"),
}


def random_clip(rng: Random, *, held_out: bool | None = False) -> Clip:
    """Returns a clip that begins anywhere in its motion; `held_out` says whether it may be one training never sees."""
    while True:
        kind = rng.choices(KINDS, (4, 2, 2, 3))[0]
        clip = Clip(
            kind=kind,
            colour=rng.choice(tuple(COLOURS)),
            motion=rng.choice(MOTIONS[kind]),
            place=rng.choice(PLACES[kind]),
            time=rng.choice(TIMES),
            start=rng.random() * 1.5,
            phase=rng.random() * 4,
        )
        if held_out is None or clip.held_out == held_out:
            return clip


def begun(clip: Clip, rng: Random) -> Clip:
    """Returns the clip beginning where there is room to move: where clips begin that go on from nothing."""
    start = {"right": rng.uniform(0.12, 0.34), "left": rng.uniform(0.66, 0.88)}.get(clip.motion, clip.start)
    if clip.motion in ("up", "down"):
        start = rng.uniform(0.9, 1.02) if clip.motion == "up" else rng.uniform(0.42, 0.54)
    return evolve(clip, start=start)


def caption(clip: Clip, rng: Random) -> str:
    """Returns one of the sentences that say what a clip shows."""
    colour = "" if clip.colour == DEFAULT_COLOURS[clip.kind] and rng.random() < 0.2 else clip.colour
    article = "an" if colour == "orange" else "a"
    if rng.random() < 0.1:
        article = "the"
    where = rng.choice((ABOVE if clip.kind == "balloon" else PLACE_PHRASES)[clip.place])
    moves = rng.choice(PHRASES[clip.kind, clip.motion])
    when = rng.choice(TIME_PHRASES[clip.time])
    tail = [where, when] if rng.random() < 0.8 else [when, where]
    return " ".join(word for word in (article, colour, clip.kind, moves, *tail) if word)


def words() -> list[str]:
    """Returns every word that captions are made of, sorted."""
    tables: Sequence[Sequence[str]] = [
        *PHRASES.values(), *PLACE_PHRASES.values(), *ABOVE.values(), *TIME_PHRASES.values(), KINDS, tuple(COLOURS),
        ("a", "an", "the"),
    ]  # fmt: skip
    return sorted({word for table in tables for phrase in table for word in phrase.split()})
