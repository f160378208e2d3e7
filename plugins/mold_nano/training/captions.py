"""Words scenes of the nano world: synonyms, articles, orders, filler and words that mean nothing here.

A caption says what differs from the defaults of `world` and only sometimes what does not, so that leaving something out
means the default.
"""

from random import Random

from world import DEFAULT_COLOURS, Scene, Thing, default_place

NOUNS: dict[str, tuple[tuple[str, str], ...]] = {
    "house": (("house", "houses"),) * 5 + (("home", "homes"), ("cottage", "cottages"), ("cabin", "cabins")),
    "castle": (("castle", "castles"),) * 5 + (("palace", "palaces"), ("fortress", "fortresses")),
    "tree": (("tree", "trees"),),
    "boat": (("boat", "boats"),) * 4
    + (("sailboat", "sailboats"), ("ship", "ships"), ("sailing boat", "sailing boats")),
    "balloon": (("balloon", "balloons"),) * 2 + (("hot air balloon", "hot air balloons"),),
    "car": (("car", "cars"),) * 6 + (("automobile", "automobiles"),),
    "flower": (("flower", "flowers"),),
    "cat": (("cat", "cats"),) * 4 + (("kitten", "kittens"), ("kitty", "kitties")),
    "circle": (("circle", "circles"),) * 5 + (("disc", "discs"), ("dot", "dots")),
    "square": (("square", "squares"),),
    "triangle": (("triangle", "triangles"),),
    "star": (("star", "stars"),),
    "heart": (("heart", "hearts"),),
}
COLOUR_WORDS: dict[str, tuple[str, ...]] = {"purple": ("purple",) * 5 + ("violet",)}
SIZE_WORDS = {"small": ("small", "little", "tiny"), "normal": ("",), "big": ("big", "large", "huge", "giant")}
COUNT_WORDS = {2: ("two",) * 4 + ("2", "a pair of", "a couple of"), 3: ("three",) * 4 + ("3", "a trio of")}
PLACE_WORDS: dict[str, tuple[str, ...]] = {
    "field": ("in a field", "in a green field", "in a meadow", "on a meadow", "on the grass", "on grass"),
    "hill": ("on a hill", "on a hill", "on a green hill", "on top of a hill", "on the hill", "on a hilltop"),
    "sea": ("on the sea", "at sea", "by the sea", "on the ocean", "on the water", "at the sea", "at the beach"),
    "desert": ("in the desert", "in a desert", "on the sand", "in the sand"),
    "snow": ("in the snow", "in snow", "on snow", "on the snow", "in winter", "in a snowy field"),
    "island": ("on an island", "on an island", "on a small island", "on the island", "on an island in the sea"),
    "road": ("on a road", "on the road", "on a street", "on the street", "by the road"),
}
PLACE_SUBJECTS: dict[str, tuple[str, ...]] = {
    "field": ("a field", "a green field", "a meadow", "a landscape", "grass"),
    "hill": ("a hill", "a green hill", "a hilltop"),
    "sea": ("the sea", "the ocean", "a sea", "the water"),
    "desert": ("the desert", "a desert", "sand"),
    "snow": ("snow", "a snowy field", "a snowy landscape", "winter"),
    "island": ("an island", "a small island", "an island in the sea"),
    "road": ("a road", "a street", "the road"),
}
TIME_WORDS: dict[str, tuple[str, ...]] = {
    "day": ("by day", "at noon", "on a sunny day", "during the day", "in the daytime", "in the sun", "under the sun"),
    "sunset": ("at sunset",) * 4 + ("in the evening", "at dusk", "in the sunset", "during sunset"),
    "night": ("at night",) * 5 + ("by night", "at midnight", "in the night", "under the stars", "in the dark"),
}
MOUNTAIN_WORDS = (
    "with mountains", "with mountains behind", "with mountains in the background", "in front of mountains",
    "in the mountains", "near the mountains", "and mountains",
)  # fmt: skip
CLOUD_WORDS = (
    "with clouds",
    "under clouds",
    "with clouds in the sky",
    "under a cloudy sky",
    "and clouds",
    "with white clouds",
)
RAINBOW_WORDS = ("with a rainbow", "under a rainbow", "with a rainbow in the sky", "and a rainbow", "below a rainbow")
SIDE_WORDS = {
    "left": ("on the left", "on the left side", "to the left", "at the left"),
    "right": ("on the right", "on the right side", "to the right", "at the right"),
    "centre": ("in the middle", "in the center", "in the centre"),
}
# Wordings that name the left or the upper thing first, and those that name it last.
FORWARD = {
    "beside": ("{a} and {b}",) * 3 + (
        "{a} next to {b}", "{a} next to {b}", "{a} beside {b}", "{a} with {b}", "{a} near {b}", "{a} left of {b}",
        "{a} left of {b}", "{a} to the left of {b}", "{a} to the left of {b}", "{a} on the left of {b}",
        "{a} on the left and {b} on the right",
    ),
    "stacked": ("{a} above {b}",) * 3 + ("{a} over {b}", "{a} on top of {b}"),
}  # fmt: skip
BACKWARD = {
    "beside": (
        "{b} right of {a}", "{b} right of {a}", "{b} to the right of {a}", "{b} to the right of {a}",
        "{b} on the right of {a}", "{b} on the right and {a} on the left",
    ),
    "stacked": (
        "{b} below {a}", "{b} below {a}", "{b} under {a}", "{b} under {a}", "{b} beneath {a}", "{b} underneath {a}",
    ),
}  # fmt: skip
BACKWARD_SHARE = 0.35
OPENINGS = (
    "a drawing of", "a picture of", "an image of", "a painting of", "an illustration of", "draw", "show me", "paint",
    "please draw", "a photo of", "there is", "a simple drawing of", "a beautiful painting of", "a nice picture of",
)  # fmt: skip
ENDINGS = (
    "highly detailed", "digital art", "flat style", "simple", "beautiful", "cartoon style", "for children", "minimal",
    "flat colors", "vector art", "high quality", "cute",
)  # fmt: skip
LETTERS = "aabcdeeefghiijklmnoopqrsttuuvwxyz"


def with_article(phrase: str, rng: Random) -> str:
    """Puts an article before a noun phrase, or sometimes none."""
    roll = rng.random()
    if roll < 0.08:
        return phrase
    if roll < 0.14:
        return f"the {phrase}"
    if roll < 0.17:
        return f"one {phrase}"
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def named(thing: Thing, rng: Random, *, plural: bool = False, size: str = "") -> str:
    """Returns size, colour and noun; a default colour is said only half of the time."""
    colour = rng.choice(COLOUR_WORDS.get(thing.colour, (thing.colour,)))
    if thing.colour == DEFAULT_COLOURS[thing.kind] and rng.random() < 0.5:
        colour = ""
    noun = rng.choice(NOUNS[thing.kind])[plural]
    return " ".join(word for word in (size, colour, noun) if word)


def subject(scene: Scene, rng: Random, backward: float) -> str:
    """Returns what the picture shows, with its count, its size and its places in the picture."""
    if scene.arrangement in ("beside", "stacked"):
        a, b = (with_article(named(thing, rng), rng) for thing in scene.things)
        wordings = BACKWARD if rng.random() < backward else FORWARD
        return rng.choice(wordings[scene.arrangement]).format(a=a, b=b)
    thing = scene.things[0]
    if scene.arrangement == "row":
        return f"{rng.choice(COUNT_WORDS[scene.count])} {named(thing, rng, plural=True)}"
    phrase = with_article(named(thing, rng, size=rng.choice(SIZE_WORDS[scene.size])), rng)
    if scene.arrangement != "centre" or rng.random() < 0.04:
        phrase = f"{phrase} {rng.choice(SIDE_WORDS[scene.arrangement])}"
    return phrase


def moon(scene: Scene, rng: Random) -> str:
    """Returns the words for the moon, of which yellow is the default colour."""
    colour = "" if scene.moon == "yellow" and rng.random() < 0.4 else scene.moon
    form = rng.choice(("crescent", "crescent", "half")) if scene.crescent else rng.choice(("", "", "", "full"))
    phrase = " ".join(word for word in (form, colour, "moon") if word)
    if rng.random() < 0.2:
        phrase = " ".join(word for word in (colour, form, "moon") if word)
    article = "the" if rng.random() < 0.15 else "an" if phrase[0] in "aeiou" else "a"
    return f"{rng.choice(('under', 'under', 'under', 'below', 'with', 'with', 'and'))} {article} {phrase}"


def settings(scene: Scene, rng: Random) -> list[str]:
    """Returns the phrases for everything around the things, in a random order."""
    phrases = []
    if scene.things and (scene.place != default_place(scene.things) or rng.random() < 0.25):
        phrases.append(rng.choice(PLACE_WORDS[scene.place]))
    said_moon = scene.moon is not None
    if said_moon:
        phrases.append(moon(scene, rng))
    if (scene.time != "day" and not said_moon) or rng.random() < (0.5 if said_moon else 0.15):
        phrases.append(rng.choice(TIME_WORDS[scene.time]))
    for shown, words in (
        (scene.mountains, MOUNTAIN_WORDS), (scene.clouds, CLOUD_WORDS), (scene.rainbow, RAINBOW_WORDS),
    ):  # fmt: skip
        if shown:
            phrases.append(rng.choice(words))
    if rng.random() < 0.35:
        rng.shuffle(phrases)
    return phrases


def landscape(scene: Scene, rng: Random) -> str:
    """Returns the subject of a picture without things."""
    if scene.place == "field" and scene.mountains and rng.random() < 0.4:
        return rng.choice(("mountains", "the mountains", "a landscape with mountains"))
    return rng.choice(PLACE_SUBJECTS[scene.place])


def with_background(scene: Scene, phrase: str, rng: Random) -> str:
    """Adds a picture of shapes' background, if it is not the default one."""
    if scene.background is None:
        return phrase
    article = "an" if scene.background[0] in "aeiou" else "a"
    wording = rng.choice(("on {a} {c} background", "on {a} {c} background", "on {c}", "with {a} {c} background"))
    return f"{phrase} {wording.format(a=article, c=scene.background)}"


def joined(phrase: str, tails: list[str], rng: Random) -> str:
    """Returns the subject with its settings after it, one of them perhaps in front."""
    front = ""
    movable = [tail for tail in tails if not tail.startswith("and ")]
    if movable and rng.random() < 0.12:
        front = rng.choice(movable)
        tails = [tail for tail in tails if tail != front]
        front += rng.choice((", ", " "))
    comma = ", " if rng.random() < 0.1 else " "
    return front + comma.join([phrase, *tails])


def garbled(caption: str, rng: Random) -> str:
    """Puts one or two meaningless words somewhere into a caption."""
    words = caption.split()
    for _ in range(rng.choice((1, 1, 2))):
        junk = "".join(rng.choice(LETTERS) for _ in range(rng.randint(3, 9)))
        words.insert(rng.randint(0, len(words)), junk)
    return " ".join(words)


def caption(scene: Scene, rng: Random, *, plain: bool = False, backward: float = BACKWARD_SHARE) -> str:
    """Returns a caption of a scene; a plain one has neither openings nor filler nor meaningless words.

    `backward` is the share of wordings that name the right or the lower of two things first.
    """
    if scene.plain:
        text = with_background(scene, subject(scene, rng, backward), rng)
    else:
        text = joined(
            subject(scene, rng, backward) if scene.things else landscape(scene, rng), settings(scene, rng), rng
        )
    if plain:
        return text
    if rng.random() < 0.1:
        text = f"{rng.choice(OPENINGS)} {text}"
    if rng.random() < 0.06:
        text = f"{text}, {rng.choice(ENDINGS)}"
    if rng.random() < 0.06:
        text = garbled(text, rng)
    return text
