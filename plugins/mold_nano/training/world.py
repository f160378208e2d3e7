"""Draws the nano world: scenes of a few bold objects, and plain shapes, at any size, from a description.

What a description leaves out has a fixed default and a seed only moves things by a pixel or two. A caption therefore
nearly determines its picture, which is what lets a very small model learn it and draw it in four steps.
"""

import colorsys
import math
from collections.abc import Sequence
from functools import lru_cache
from random import Random
from typing import Literal

from attrs import frozen
from PIL import Image, ImageDraw

Rgb = tuple[int, int, int]
Point = tuple[float, float]
Place = Literal["field", "hill", "sea", "desert", "snow", "island", "road"]
Time = Literal["day", "sunset", "night"]
Arrangement = Literal["centre", "left", "right", "row", "beside", "stacked"]
Size = Literal["small", "normal", "big"]

COLOURS: dict[str, Rgb] = {
    "red": (220, 38, 40),
    "orange": (245, 132, 24),
    "yellow": (252, 214, 46),
    "green": (22, 138, 66),
    "blue": (38, 84, 220),
    "purple": (138, 56, 176),
    "pink": (248, 132, 186),
    "white": (250, 250, 250),
    "black": (24, 24, 30),
    "brown": (128, 78, 40),
}
MOON_COLOURS = ("yellow", "white", "red", "orange", "green", "blue", "purple", "pink")
KINDS = ("house", "castle", "tree", "boat", "balloon", "car", "flower", "cat")
SHAPES = ("circle", "square", "triangle", "star", "heart")
PLACES: tuple[Place, ...] = ("field", "hill", "sea", "desert", "snow", "island", "road")
TIMES: tuple[Time, ...] = ("day", "sunset", "night")

DEFAULT_COLOURS = {
    "house": "red",
    "castle": "white",
    "tree": "green",
    "boat": "red",
    "balloon": "red",
    "car": "blue",
    "flower": "pink",
    "cat": "orange",
    "circle": "red",
    "square": "blue",
    "triangle": "green",
    "star": "yellow",
    "heart": "red",
}

# Never drawn in training; the benchmark asks for them to see whether colours and kinds are learnt apart.
HELD_OUT: frozenset[tuple[str, str]] = frozenset(
    {
        ("purple", "house"),
        ("yellow", "castle"),
        ("pink", "tree"),
        ("orange", "boat"),
        ("green", "balloon"),
        ("brown", "car"),
        ("black", "flower"),
        ("blue", "cat"),
        ("purple", "circle"),
        ("orange", "square"),
        ("pink", "triangle"),
        ("green", "star"),
        ("blue", "heart"),
    }
)

SHAPE_BACKGROUND: Rgb = (238, 226, 205)


@frozen(kw_only=True)
class Thing:
    """One kind of object or shape in one colour."""

    kind: str
    colour: str

    @property
    def held_out(self) -> bool:
        return (self.colour, self.kind) in HELD_OUT


@frozen(kw_only=True)
class Scene:
    """Everything a picture shows, with nothing left open but the seed's small movements.

    `things` holds one entry, or two for "beside" (left, right) and "stacked" (upper, lower). `count` repeats the only
    thing of a "row". Pictures of plain shapes have a `background` instead of a place and a time.
    """

    things: tuple[Thing, ...] = ()
    count: int = 1
    arrangement: Arrangement = "centre"
    size: Size = "normal"
    place: Place = "field"
    time: Time = "day"
    mountains: bool = False
    clouds: bool = False
    rainbow: bool = False
    moon: str | None = None
    crescent: bool = False
    background: str | None = None

    @property
    def plain(self) -> bool:
        """Whether this is a picture of plain shapes."""
        return bool(self.things) and self.things[0].kind in SHAPES

    @property
    def held_out(self) -> bool:
        return any(thing.held_out for thing in self.things)


def default_place(things: Sequence[Thing]) -> Place:
    """Where things are drawn when a caption names no place: boats on the sea, cars on a road, all else in a field."""
    kinds = {thing.kind for thing in things}
    if "boat" in kinds:
        return "sea"
    return "road" if kinds == {"car"} else "field"


# --- Canvas -----------------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Canvas:
    """A supersampled picture addressed in fractions of its width and height, or in units of 1/128 of its short side."""

    image: Image.Image
    draw: ImageDraw.ImageDraw
    width: int
    height: int
    unit: float

    def at(self, x: float, y: float) -> Point:
        return x * self.width, y * self.height

    def polygon(self, points: Sequence[Point], colour: Rgb) -> None:
        """Fills a polygon given in fractions of the canvas."""
        self.draw.polygon([self.at(x, y) for x, y in points], fill=colour)

    def disc(self, x: float, y: float, radius: float, colour: Rgb) -> None:
        """Fills a circle centred at a fraction of the canvas, its radius in fractions of the short side."""
        cx, cy = self.at(x, y)
        r = radius * 128 * self.unit
        self.draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=colour)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Rgb) -> None:
        """Fills an ellipse, centre and radii in fractions of the canvas."""
        self.draw.ellipse(
            ((x - rx) * self.width, (y - ry) * self.height, (x + rx) * self.width, (y + ry) * self.height), fill=colour
        )


@frozen(kw_only=True)
class Pen:
    """Draws one object: x from -0.5 to 0.5 around its middle, y from 0 at its foot to 1 at its top."""

    draw: ImageDraw.ImageDraw
    x: float
    y: float
    size: float

    def at(self, x: float, y: float) -> Point:
        return self.x + x * self.size, self.y - y * self.size

    def polygon(self, points: Sequence[Point], colour: Rgb) -> None:
        self.draw.polygon([self.at(x, y) for x, y in points], fill=colour)

    def box(self, left: float, bottom: float, right: float, top: float, colour: Rgb) -> None:
        self.polygon(((left, bottom), (right, bottom), (right, top), (left, top)), colour)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Rgb) -> None:
        cx, cy = self.at(x, y)
        rx, ry = rx * self.size, ry * self.size
        self.draw.ellipse((cx - rx, cy - ry, cx + rx, cy + ry), fill=colour)

    def stroke(self, points: Sequence[Point], width: float, colour: Rgb) -> None:
        """Draws a line with round ends and joints."""
        self.draw.line([self.at(x, y) for x, y in points], fill=colour, width=max(1, round(width * self.size)))
        for x, y in points:
            self.ellipse(x, y, width / 2, width / 2, colour)


def mix(first: Rgb, second: Rgb, amount: float) -> Rgb:
    """Blends two colours; 0 gives the first, 1 the second."""
    return tuple(round(a + (b - a) * amount) for a, b in zip(first, second, strict=True))


@lru_cache(maxsize=64)
def shaded(colour: Rgb) -> Rgb:
    """Returns the second tone of a colour: darker, or lighter for black, never another named colour."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*(part / 255 for part in colour))
    if lightness < 0.15:
        return mix(colour, (255, 255, 255), 0.28)
    if lightness > 0.9:
        return mix(colour, (120, 130, 160), 0.35)
    return tuple(round(part * 255) for part in colorsys.hls_to_rgb(hue, lightness * 0.66, saturation))


def is_dark(colour: Rgb) -> bool:
    return 0.3 * colour[0] + 0.6 * colour[1] + 0.1 * colour[2] < 110


# --- Objects ----------------------------------------------------------------------------------------------------------

WOOD: Rgb = (104, 62, 34)
DARK: Rgb = (52, 36, 36)
LAMP: Rgb = (255, 226, 130)
CREAM: Rgb = (252, 246, 230)


def draw_house(pen: Pen, colour: Rgb) -> None:
    opening = LAMP if is_dark(colour) else DARK
    pen.box(0.2, 0.6, 0.34, 0.98, shaded(colour))
    pen.box(-0.42, 0, 0.42, 0.58, colour)
    pen.polygon(((-0.56, 0.54), (0, 1), (0.56, 0.54)), shaded(colour))
    pen.box(-0.28, 0, -0.06, 0.36, opening)
    pen.box(0.08, 0.18, 0.3, 0.4, opening)


def draw_castle(pen: Pen, colour: Rgb) -> None:
    opening = LAMP if is_dark(colour) else DARK
    pen.box(-0.45, 0, 0.45, 0.4, colour)
    for left in (-0.2, -0.06, 0.08):
        pen.box(left, 0.38, left + 0.12 - 0.02, 0.5, colour)
    for side in (-0.42, 0.42):
        pen.box(side - 0.15, 0, side + 0.15, 0.66, colour)
        pen.polygon(((side - 0.2, 0.64), (side, 1), (side + 0.2, 0.64)), shaded(colour))
        pen.box(side - 0.05, 0.4, side + 0.05, 0.54, opening)
    pen.box(-0.13, 0, 0.13, 0.18, opening)
    pen.ellipse(0, 0.18, 0.13, 0.1, opening)


def draw_tree(pen: Pen, colour: Rgb) -> None:
    pen.box(-0.08, 0, 0.08, 0.45, shaded(WOOD) if colour == COLOURS["brown"] else WOOD)
    for x, y, radius in ((-0.2, 0.52, 0.22), (0.2, 0.52, 0.22), (0, 0.72, 0.28), (0, 0.5, 0.2)):
        pen.ellipse(x, y, radius, radius, colour)


def draw_boat(pen: Pen, colour: Rgb) -> None:
    pen.box(-0.025, 0.28, 0.035, 1, DARK)
    pen.polygon(((0.07, 0.4), (0.07, 0.98), (0.48, 0.4)), CREAM)
    pen.polygon(((-0.06, 0.4), (-0.06, 0.84), (-0.36, 0.4)), CREAM)
    pen.polygon(((-0.54, 0.33), (0.54, 0.33), (0.36, 0), (-0.36, 0)), colour)


def draw_balloon(pen: Pen, colour: Rgb) -> None:
    pen.box(-0.11, 0, 0.11, 0.14, WOOD)
    pen.polygon(((-0.11, 0.13), (-0.07, 0.13), (-0.1, 0.36), (-0.16, 0.36)), DARK)
    pen.polygon(((0.11, 0.13), (0.07, 0.13), (0.1, 0.36), (0.16, 0.36)), DARK)
    pen.polygon(((-0.31, 0.46), (0.31, 0.46), (0.13, 0.24), (-0.13, 0.24)), colour)
    pen.ellipse(0, 0.64, 0.36, 0.36, colour)
    pen.ellipse(
        0, 0.62, 0.13, 0.34, mix(colour, (255, 255, 255), 0.4) if colour != COLOURS["white"] else shaded(colour)
    )


def draw_car(pen: Pen, colour: Rgb) -> None:
    pen.polygon(((-0.4, 0.42), (-0.24, 0.74), (0.2, 0.74), (0.38, 0.42)), colour)
    pen.polygon(((-0.28, 0.45), (-0.17, 0.65), (-0.04, 0.65), (-0.04, 0.45)), (196, 232, 250))
    pen.polygon(((0.04, 0.45), (0.04, 0.65), (0.14, 0.65), (0.25, 0.45)), (196, 232, 250))
    pen.polygon(((-0.6, 0.16), (-0.6, 0.38), (-0.54, 0.45), (0.5, 0.45), (0.6, 0.34), (0.6, 0.16)), colour)
    for x in (-0.33, 0.33):
        pen.ellipse(x, 0.16, 0.16, 0.16, DARK)
        pen.ellipse(x, 0.16, 0.07, 0.07, (210, 210, 214))


def draw_flower(pen: Pen, colour: Rgb) -> None:
    stem = (46, 150, 60)
    pen.box(-0.04, 0, 0.04, 0.6, stem)
    pen.polygon(((0, 0.06), (-0.28, 0.2), (-0.26, 0.34), (0, 0.2)), stem)
    pen.polygon(((0, 0.06), (0.28, 0.2), (0.26, 0.34), (0, 0.2)), stem)
    for petal in range(5):
        angle = math.tau * petal / 5 + math.pi / 2
        pen.ellipse(0.22 * math.cos(angle), 0.66 + 0.22 * math.sin(angle), 0.16, 0.16, colour)
    light = colour in (COLOURS["yellow"], COLOURS["orange"], COLOURS["white"])
    pen.ellipse(0, 0.66, 0.13, 0.13, WOOD if light else COLOURS["yellow"])


def draw_cat(pen: Pen, colour: Rgb) -> None:
    pen.stroke(((0.16, 0.07), (0.38, 0.09), (0.46, 0.22), (0.42, 0.38), (0.48, 0.48)), 0.1, colour)
    pen.ellipse(0, 0.28, 0.25, 0.29, colour)
    for side in (-1, 1):
        pen.polygon(((side * 0.27, 1), (side * 0.02, 0.86), (side * 0.27, 0.64)), colour)
    pen.ellipse(0, 0.68, 0.28, 0.23, colour)
    for side in (-1, 1):
        pen.ellipse(side * 0.11, 0.71, 0.05, 0.06, (236, 240, 120) if is_dark(colour) else DARK)
    pen.polygon(((-0.05, 0.62), (0.05, 0.62), (0, 0.56)), mix(COLOURS["pink"], colour, 0.2))


def star_points(radius: float, inner: float, cx: float = 0.0, cy: float = 0.5) -> list[Point]:
    """Returns the ten corners of a five-pointed star standing on two points."""
    corners = []
    for corner in range(10):
        angle = math.pi / 2 + math.pi * corner / 5
        reach = radius if corner % 2 == 0 else inner
        corners.append((cx + reach * math.cos(angle), cy + reach * math.sin(angle)))
    return corners


def draw_circle(pen: Pen, colour: Rgb) -> None:
    pen.ellipse(0, 0.5, 0.47, 0.47, colour)


def draw_square(pen: Pen, colour: Rgb) -> None:
    pen.box(-0.44, 0.06, 0.44, 0.94, colour)


def draw_triangle(pen: Pen, colour: Rgb) -> None:
    pen.polygon(((-0.54, 0.05), (0.54, 0.05), (0, 0.97)), colour)


def draw_star(pen: Pen, colour: Rgb) -> None:
    pen.polygon(star_points(0.56, 0.25, cy=0.46), colour)


def draw_heart(pen: Pen, colour: Rgb) -> None:
    steps = [math.tau * step / 40 for step in range(40)]
    pen.polygon(
        [
            (
                0.5 * math.sin(a) ** 3,
                0.5 + (13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a) + 2.5) / 29,
            )
            for a in steps
        ],
        colour,
    )


DRAWERS = {
    "house": draw_house,
    "castle": draw_castle,
    "tree": draw_tree,
    "boat": draw_boat,
    "balloon": draw_balloon,
    "car": draw_car,
    "flower": draw_flower,
    "cat": draw_cat,
    "circle": draw_circle,
    "square": draw_square,
    "triangle": draw_triangle,
    "star": draw_star,
    "heart": draw_heart,
}

# --- Surroundings -----------------------------------------------------------------------------------------------------

SKIES: dict[Time, tuple[Rgb, Rgb]] = {
    "day": ((92, 172, 240), (200, 230, 250)),
    "sunset": ((120, 82, 160), (255, 176, 104)),
    "night": ((22, 26, 76), (64, 70, 142)),
}
TINTS: dict[Time, tuple[Rgb, float]] = {
    "day": ((255, 255, 255), 0.0),
    "sunset": ((120, 60, 70), 0.32),
    "night": ((20, 28, 84), 0.6),
}
STARS: tuple[Point, ...] = (
    (0.06, 0.08), (0.19, 0.2), (0.3, 0.06), (0.41, 0.16), (0.53, 0.06), (0.64, 0.22), (0.95, 0.36), (0.93, 0.05),
    (0.08, 0.38), (0.24, 0.34), (0.5, 0.33), (0.72, 0.38), (0.36, 0.46), (0.04, 0.52),
)  # fmt: skip
RAINBOW: tuple[Rgb, ...] = (
    (226, 52, 48),
    (248, 150, 40),
    (252, 220, 70),
    (70, 180, 90),
    (60, 110, 220),
    (140, 70, 180),
)
HORIZON = 0.6
MOON: Point = (0.82, 0.17)


@lru_cache(maxsize=32)
def sky(time: Time, width: int, height: int) -> Image.Image:
    """Returns the sky's gradient over the whole canvas."""
    top, bottom = SKIES[time]
    column = Image.new("RGB", (1, height))
    column.putdata([mix(top, bottom, min(1.0, row / (height * 0.68))) for row in range(height)])
    return column.resize((width, height), Image.Resampling.NEAREST)


def tinted(colour: Rgb, time: Time) -> Rgb:
    """Returns a ground colour as it looks at a time of day."""
    tint, amount = TINTS[time]
    return mix(colour, tint, amount)


def draw_sky_lights(canvas: Canvas, scene: Scene, rng: Random) -> None:
    """Draws the sun, or the stars and the moon."""
    dx, dy = rng.uniform(-0.01, 0.01), rng.uniform(-0.01, 0.01)
    if scene.time == "night":
        for x, y in STARS:
            canvas.disc(x + rng.uniform(-0.01, 0.01), y + rng.uniform(-0.01, 0.01), 0.0125, (255, 250, 214))
        if scene.moon is not None:
            draw_moon(canvas, MOON[0] + dx, MOON[1] + dy, COLOURS[scene.moon], scene.crescent)
        return
    y = 0.16 if scene.time == "day" else 0.44
    halo = (250, 232, 150) if scene.time == "day" else (255, 204, 120)
    canvas.disc(0.85 + dx, y + dy, 0.105, halo)
    canvas.disc(0.85 + dx, y + dy, 0.075, (255, 206, 30) if scene.time == "day" else (255, 240, 160))


def draw_moon(canvas: Canvas, x: float, y: float, colour: Rgb, crescent: bool) -> None:
    if not crescent:
        canvas.disc(x, y, 0.115, colour)
        for cx, cy, radius in ((-0.04, -0.03, 0.026), (0.045, 0.0, 0.02), (-0.01, 0.055, 0.022)):
            canvas.disc(x + cx * canvas.unit * 128 / canvas.width, y + cy * canvas.unit * 128 / canvas.height, radius,
                        mix(colour, (60, 60, 90), 0.22))  # fmt: skip
        return
    cx, cy = canvas.at(x, y)
    radius = 0.12 * 128 * canvas.unit
    angles = [math.radians(degrees) for degrees in range(-60, 150, 6)]
    outer = [(cx + radius * math.cos(angle), cy + radius * math.sin(angle)) for angle in angles]
    start, end = outer[0], outer[-1]
    middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    bulge = (cx + 0.28 * radius * math.cos(math.radians(45)), cy + 0.28 * radius * math.sin(math.radians(45)))
    control = (2 * bulge[0] - middle[0], 2 * bulge[1] - middle[1])
    steps = [step / 16 for step in range(1, 16)]
    inner = [
        tuple((1 - s) ** 2 * e + 2 * s * (1 - s) * c + s * s * b for e, c, b in zip(end, control, start, strict=True))
        for s in steps
    ]
    canvas.draw.polygon([*outer, *inner], fill=colour)


def draw_rainbow(canvas: Canvas) -> None:
    band = 0.028
    for ring, colour in enumerate(RAINBOW):
        reach = 0.44 - ring * band
        canvas.ellipse(0.5, HORIZON, reach, reach * 1.05, colour)
    reach = 0.44 - len(RAINBOW) * band
    box = (0.5 - reach, HORIZON - reach * 1.05, 0.5 + reach, HORIZON + reach * 1.05)
    left, top, right, bottom = (
        round(part * extent) for part, extent in zip(box, (canvas.width, canvas.height) * 2, strict=True)
    )
    mask = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(mask).ellipse((0, 0, right - left - 1, bottom - top - 1), fill=255)
    canvas.image.paste(sky("day", canvas.width, canvas.height).crop((left, top, right, bottom)), (left, top), mask)


def draw_clouds(canvas: Canvas, time: Time, rng: Random) -> None:
    colour = {"day": (255, 255, 255), "sunset": (250, 206, 196), "night": (128, 134, 180)}[time]
    for x, y in ((0.14, 0.13), (0.38, 0.24), (0.6, 0.11)):
        x, y = x + rng.uniform(-0.015, 0.015), y + rng.uniform(-0.01, 0.01)
        step = canvas.unit * 128 / canvas.width
        lift = canvas.unit * 128 / canvas.height
        for dx, dy, radius in ((-0.065, 0.0, 0.045), (0, -0.025, 0.06), (0.065, 0.0, 0.045)):
            canvas.disc(x + dx * step, y + dy * lift, radius, colour)


def draw_mountains(canvas: Canvas, time: Time) -> None:
    rock, cap = tinted((124, 128, 150), time), tinted((248, 250, 255), time)
    if time == "night":
        rock, cap = (74, 78, 118), (168, 174, 210)
    for x, top, half in ((0.16, 0.34, 0.26), (0.84, 0.36, 0.26), (0.5, 0.26, 0.3)):
        slope = (HORIZON + 0.22 - top) / half
        canvas.polygon(((x - half, HORIZON + 0.22), (x, top), (x + half, HORIZON + 0.22)), rock)
        drop = 0.1
        canvas.polygon(((x - drop / slope, top + drop), (x, top), (x + drop / slope, top + drop)), cap)


def draw_field(canvas: Canvas, time: Time) -> None:
    canvas.polygon(((0, HORIZON), (1, HORIZON), (1, 1), (0, 1)), tinted((150, 212, 92), time))


def draw_hill(canvas: Canvas, time: Time) -> None:
    canvas.ellipse(0.5, 1.16, 0.64, 0.6, tinted((150, 212, 92), time))


def draw_desert(canvas: Canvas, time: Time) -> None:
    canvas.polygon(((0, HORIZON), (1, HORIZON), (1, 1), (0, 1)), tinted((236, 196, 120), time))
    canvas.ellipse(0.95, 0.94, 0.6, 0.24, tinted((216, 168, 92), time))


def draw_snow(canvas: Canvas, time: Time) -> None:
    tint = {"day": (222, 234, 248), "sunset": (214, 190, 204), "night": (140, 152, 200)}[time]
    canvas.polygon(((0, HORIZON), (1, HORIZON), (1, 1), (0, 1)), tint)
    canvas.ellipse(0.15, 0.92, 0.5, 0.2, mix(tint, (170, 190, 230), 0.35))


def draw_sea(canvas: Canvas, time: Time) -> None:
    water = tinted((58, 160, 206), time)
    wave = mix(water, (255, 255, 255), 0.4)
    canvas.polygon(((0, HORIZON), (1, HORIZON), (1, 1), (0, 1)), water)
    for x, y in ((0.12, 0.7), (0.86, 0.68), (0.08, 0.88), (0.34, 0.95), (0.64, 0.94), (0.92, 0.86)):
        cx, cy = canvas.at(x, y)
        half, thick = 7 * canvas.unit, 1.1 * canvas.unit
        canvas.draw.rectangle((cx - half, cy - thick, cx + half, cy + thick), fill=wave)


def draw_beach(canvas: Canvas, time: Time) -> None:
    canvas.polygon(((0, 0.78), (1, 0.78), (1, 1), (0, 1)), tinted((240, 212, 146), time))


def draw_island(canvas: Canvas, time: Time) -> None:
    draw_sea(canvas, time)
    canvas.ellipse(0.5, 0.84, 0.46, 0.12, tinted((240, 212, 146), time))


def draw_road(canvas: Canvas, time: Time) -> None:
    draw_field(canvas, time)
    canvas.polygon(((0, 0.72), (1, 0.72), (1, 0.93), (0, 0.93)), tinted((92, 94, 104), time))
    dash = mix(tinted((92, 94, 104), time), (255, 255, 255), 0.7)
    for left in (0.03, 0.28, 0.53, 0.78):
        canvas.polygon(((left, 0.855), (left + 0.15, 0.855), (left + 0.15, 0.885), (left, 0.885)), dash)


GROUNDS = {
    "field": draw_field,
    "hill": draw_hill,
    "sea": draw_sea,
    "desert": draw_desert,
    "snow": draw_snow,
    "island": draw_island,
    "road": draw_road,
}
FOOT: dict[Place, float] = {
    "field": 0.86, "hill": 0.76, "sea": 0.92, "desert": 0.86, "snow": 0.86, "island": 0.86, "road": 0.84,
}  # fmt: skip


# --- Layout -----------------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Slot:
    """Where one thing stands: its middle and its foot in fractions of the canvas, its size in short sides."""

    thing: Thing
    x: float
    foot: float
    size: float


# Kinds wider than they are tall are drawn smaller, so that three of them fit beside each other.
WIDE: dict[str, float] = {"castle": 0.82, "car": 0.82, "boat": 0.92}
SINGLE_SIZES: dict[Size, float] = {"small": 0.3, "normal": 0.46, "big": 0.62}
SHAPE_SIZES: dict[Size, float] = {"small": 0.3, "normal": 0.54, "big": 0.8}


def columns(scene: Scene) -> list[tuple[Thing, float]]:
    """Returns each drawn thing with its horizontal place."""
    if scene.arrangement == "row":
        xs = (0.27, 0.73) if scene.count == 2 else (0.18, 0.5, 0.82)
        return [(scene.things[0], x) for x in xs]
    if scene.arrangement == "beside":
        return list(zip(scene.things, (0.26, 0.74), strict=True))
    x = {"left": 0.25, "right": 0.75}.get(scene.arrangement, 0.5)
    return [(thing, x) for thing in scene.things]


def slots(scene: Scene, width: int, height: int) -> list[Slot]:
    """Returns where every thing of a scene is drawn, before the seed moves it."""
    tall = min(width, height) / height
    if scene.arrangement == "stacked":
        upper, lower = scene.things
        size = 0.4
        if scene.plain:
            return [
                Slot(thing=upper, x=0.5, foot=0.265 + size * tall / 2, size=size),
                Slot(thing=lower, x=0.5, foot=0.735 + size * tall / 2, size=size),
            ]
        size, foot = 0.38, FOOT[scene.place] + 0.05
        return [
            Slot(thing=lower, x=0.5, foot=foot, size=size),
            Slot(thing=upper, x=0.5, foot=foot - size * tall - 0.03, size=size),
        ]
    if scene.arrangement == "row":
        size = 0.4 if scene.count == 2 else 0.29
    elif scene.arrangement == "beside":
        size = 0.42
    else:
        size = (SHAPE_SIZES if scene.plain else SINGLE_SIZES)[scene.size]
    return [Slot(thing=thing, x=x, foot=resting(thing, scene, size * tall), size=size) for thing, x in columns(scene)]


def resting(thing: Thing, scene: Scene, tall: float) -> float:
    """Returns the foot of a thing that is not stacked: shapes in the middle, balloons in the air, boats on water."""
    if scene.plain:
        return 0.5 + tall / 2
    if thing.kind == "balloon":
        return 0.44 + tall / 2
    if thing.kind == "boat" and scene.place == "sea":
        return 0.76
    return FOOT[scene.place]


def draw_things(canvas: Canvas, scene: Scene, rng: Random) -> None:
    short = 128 * canvas.unit
    for slot in slots(scene, canvas.width, canvas.height):
        x = slot.x * canvas.width + rng.uniform(-1.5, 1.5) * canvas.unit
        y = slot.foot * canvas.height + rng.uniform(-1.5, 1.5) * canvas.unit
        size = slot.size * WIDE.get(slot.thing.kind, 1.0) * short * rng.uniform(0.97, 1.03)
        DRAWERS[slot.thing.kind](Pen(draw=canvas.draw, x=x, y=y, size=size), COLOURS[slot.thing.colour])


def new_canvas(width: int, height: int, scale: int, supersample: int) -> Canvas:
    size = width * scale * supersample, height * scale * supersample
    image = Image.new("RGB", size)
    return Canvas(image=image, draw=ImageDraw.Draw(image), width=size[0], height=size[1], unit=min(size) / 128)


def paint(
    scene: Scene, *, seed: int | None, width: int = 128, height: int = 128, scale: int = 1, supersample: int = 2
) -> Image.Image:
    """Returns a scene's picture of `width * scale` by `height * scale` pixels.

    The seed moves things a little; None gives the picture without any movement. The same seed gives the same layout at
    every `scale`.
    """
    rng = Random(seed) if seed is not None else Still()
    canvas = new_canvas(width, height, scale, supersample)
    if scene.plain:
        colour = SHAPE_BACKGROUND if scene.background is None else COLOURS[scene.background]
        canvas.draw.rectangle((0, 0, canvas.width, canvas.height), fill=colour)
    else:
        canvas.image.paste(sky(scene.time, canvas.width, canvas.height))
        draw_surroundings(canvas, scene, rng)
    draw_things(canvas, scene, rng)
    return canvas.image.reduce(supersample)


def draw_surroundings(canvas: Canvas, scene: Scene, rng: Random) -> None:
    """Draws everything behind the things, from the sky's rainbow to the ground."""
    if scene.rainbow:
        draw_rainbow(canvas)
    draw_sky_lights(canvas, scene, rng)
    if scene.mountains:
        draw_mountains(canvas, scene.time)
    if scene.clouds:
        draw_clouds(canvas, scene.time, rng)
    GROUNDS[scene.place](canvas, scene.time)
    if scene.place == "sea" and any(thing.kind not in ("boat", "balloon") for thing in scene.things):
        draw_beach(canvas, scene.time)


class Still(Random):
    """A source of no movement: every range yields its middle."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2
