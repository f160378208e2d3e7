"""Makes the pairs expand-nano learns from: a short wish, and a prompt of flux-nano's grammar that grants it.

A pair starts at its end: a random scene is worded in full, and the wish is what is left when most of it is taken away.
So every prompt is one that flux-nano was trained to read, and every word of a wish that flux-nano knows is in its
prompt.
A few themes ("romantic", "winter holiday") are wished for in words that prompts cannot hold.
"""

from collections.abc import Callable, Mapping, Sequence
from random import Random

from attrs import frozen
from captions import BACKWARD_SHARE, COLOUR_WORDS, NOUNS, PLACE_WORDS, SIZE_WORDS, caption
from scenes import Family, random_scene
from world import COLOURS, DEFAULT_COLOURS, MOON_COLOURS, Scene

# One thing with its surroundings is what flux-nano draws best and what most wishes mean.
MIX: Mapping[Family, float] = {
    "single": 0.5,
    "counted": 0.16,
    "pair": 0.1,
    "landscape": 0.09,
    "shape": 0.06,
    "counted shapes": 0.04,
    "shape pair": 0.05,
}
HELD_OUT_SHARE = 0.08
LONGEST_PROMPT = 24

# Words that carry a sentence but wish for nothing.
_CARRYING = "a an the of to in on at by with and for is there me it one next side top front behind background during "
CARRIERS = frozenset(_CARRYING.split())
ASKING = (
    "draw", "show me", "i want", "i would like", "please draw", "paint", "a picture of", "make", "give me",
    "can you draw", "how about", "maybe", "an image of", "i wish for", "imagine",
)  # fmt: skip
ANYTHING = ("something", "anything", "a picture", "surprise me", "whatever", "something nice", "an idea", "a scene")
GLUE = ("something", "anything", "a scene", "a picture", "somewhere", "a place")


def _said(colour: str) -> tuple[str, ...]:
    return COLOUR_WORDS.get(colour, (colour,))[::-1][:2]


def _kind(*kinds: str) -> Callable[[Scene], bool]:
    return lambda scene: any(thing.kind in kinds for thing in scene.things)


def _place(*places: str) -> Callable[[Scene], bool]:
    return lambda scene: not scene.plain and scene.place in places


def _night(scene: Scene) -> bool:
    return not scene.plain and scene.time == "night"


def _both(*conditions: Callable[[Scene], bool]) -> Callable[[Scene], bool]:
    return lambda scene: all(condition(scene) for condition in conditions)


def _either(*conditions: Callable[[Scene], bool]) -> Callable[[Scene], bool]:
    return lambda scene: any(condition(scene) for condition in conditions)


def _coloured(*colours: str) -> Callable[[Scene], bool]:
    return lambda scene: all(thing.colour in colours for thing in scene.things) and bool(scene.things)


# What words outside of flux-nano's world mean in it.
THEMES: Mapping[str, Callable[[Scene], bool]] = {
    "building": _kind("house", "castle"),
    "buildings": _both(_kind("house", "castle"), lambda scene: scene.count > 1),
    "village": _both(_kind("house"), lambda scene: scene.count > 1),
    "town": _both(_kind("house"), lambda scene: scene.count > 1),
    "vehicle": _kind("car", "boat"),
    "transport": _kind("car", "boat", "balloon"),
    "drive": _both(_kind("car"), _place("road")),
    "traffic": _both(_kind("car"), lambda scene: scene.count > 1),
    "animal": _kind("cat"),
    "animals": _both(_kind("cat"), lambda scene: scene.count > 1),
    "pet": _kind("cat"),
    "plant": _kind("tree", "flower"),
    "garden": _both(_kind("flower", "tree"), _place("field", "hill")),
    "forest": _both(_kind("tree"), lambda scene: scene.count > 1),
    "spring": _both(_kind("flower"), lambda scene: scene.time == "day"),
    "summer": _both(_place("field", "sea", "island"), lambda scene: scene.time == "day"),
    "autumn": _both(_kind("tree"), _coloured("orange", "brown", "red", "yellow")),
    "cold": _place("snow"),
    "christmas": _both(_place("snow"), _either(_kind("tree", "house"), _night)),
    "hot": _place("desert"),
    "holiday": _both(_place("sea", "island"), lambda scene: scene.time == "day"),
    "tropical": _place("island"),
    "harbour": _both(_kind("boat"), _place("sea")),
    "sailing trip": _both(_kind("boat"), _place("sea")),
    "pirate": _both(_kind("boat"), _coloured("black", "brown")),
    "party": _both(_kind("balloon"), lambda scene: scene.count > 1),
    "birthday": _kind("balloon"),
    "flying": _kind("balloon"),
    "fairytale": _both(_kind("castle"), _either(_night, lambda scene: scene.rainbow)),
    "princess": _both(_kind("castle"), _coloured("pink", "white", "purple")),
    "knight": _kind("castle"),
    "spooky": _both(_night, _either(_kind("castle"), _both(_kind("cat", "house", "tree"), _coloured("black")))),
    "halloween": _both(_night, _coloured("black", "orange")),
    "love": _kind("heart"),
    "romantic": _either(_kind("heart"), lambda scene: not scene.plain and scene.time == "sunset"),
    "valentine": _kind("heart"),
    "peaceful": lambda scene: not scene.things or (not scene.plain and scene.time == "sunset"),
    "calm": lambda scene: not scene.things,
    "geometric": lambda scene: scene.plain,
    "abstract": lambda scene: scene.plain,
    "shapes": lambda scene: scene.plain and (scene.count > 1 or len(scene.things) > 1),
    "cheerful": lambda scene: scene.rainbow,
    "magic": lambda scene: scene.rainbow or scene.moon in ("purple", "green", "blue", "pink"),
    "moonlight": lambda scene: scene.moon is not None,
    "late": _night,
    "morning": lambda scene: not scene.plain and scene.time == "day",
    "weather": lambda scene: scene.clouds or scene.rainbow,
    "alps": lambda scene: scene.mountains,
    "skiing": lambda scene: scene.mountains and scene.place == "snow",
}


# Stands in a wish for a word that the tokenizer does not know.
UNKNOWN = "xyzzy"
PAINTS = frozenset(word for colour in (*COLOURS, *MOON_COLOURS) for word in _said(colour))
# A prompt that begins with one of these lacks its article.
BARE = PAINTS | {word for forms in NOUNS.values() for pair in forms for word in pair} | {
    word for words in SIZE_WORDS.values() for word in words
}  # fmt: skip


@frozen
class Told:
    """A scene and the full prompt for it."""

    scene: Scene
    words: tuple[str, ...]


@frozen
class Pair:
    """A wish and a prompt that grants it."""

    wish: str
    prompt: str


def rich(scene: Scene, words: Sequence[str]) -> bool:
    """Says whether a prompt names colours, and the surroundings or the background."""
    if not len(words) <= LONGEST_PROMPT or any("," in word for word in words):
        return False
    coloured = [colour for thing in scene.things for colour in _said(thing.colour) if colour in words]
    if len(coloured) < len({thing.colour for thing in scene.things}):
        return False
    if words[0] in BARE:
        return False
    if scene.plain:
        return scene.background is not None or len(scene.things) > 1
    extras = (scene.moon, scene.mountains, scene.clouds, scene.rainbow, scene.time != "day")
    text = " ".join(words)
    placed = any(phrase in text for phrase in PLACE_WORDS[scene.place])
    if not scene.things:
        return len(words) >= 4 and any(extras)
    return len(words) >= 6 and placed + sum(map(bool, extras)) >= 2


def told(rng: Random, wanted: Callable[[Scene], bool] = lambda scene: True) -> Told:
    """Returns a random scene that is as wanted, worded in full."""
    while True:
        families = list(MIX)
        family = rng.choices(families, list(MIX.values()))[0]
        scene = random_scene(rng, family=family, held_out=family != "landscape" and rng.random() < HELD_OUT_SHARE)
        # Words for a side make prompts long and pictures no richer.
        if not wanted(scene) or (scene.arrangement in ("left", "right") and rng.random() < 0.8):
            continue
        if len({thing.kind for thing in scene.things}) < len(scene.things):
            continue  # two of a kind are a number, not a pair
        words = tuple(caption(scene, rng, plain=True, backward=BACKWARD_SHARE / 2).split())
        if rich(scene, words):
            return Told(scene, words)


class Pairs:
    """Random pairs out of a pool of told scenes; every word of the world is wished for as often as any other."""

    def __init__(self, rng: Random, size: int = 60_000, per_theme: int = 400) -> None:
        self.rng = rng
        pool = [told(rng) for _ in range(size)]
        self.pool = pool
        self.holding: dict[str, list[Told]] = {}
        for one in pool:
            for word in set(one.words) - CARRIERS:
                self.holding.setdefault(word, []).append(one)
        self.themed = {theme: [told(rng, wanted) for _ in range(per_theme)] for theme, wanted in THEMES.items()}
        self.words = sorted(self.holding)
        self.themes = sorted(self.themed)

    def draw(self) -> Pair:
        """Returns a random pair."""
        rng = self.rng
        roll = rng.random()
        if roll < 0.32:
            word = rng.choice(self.words)
            chosen = rng.choice(self.holding[word])
            wish = [word]
        elif roll < 0.62:
            chosen, wish = self._span()
        elif roll < 0.82:
            chosen, wish = self._bag()
        elif roll < 0.93:
            theme = rng.choice(self.themes)
            chosen = rng.choice(self.themed[theme])
            wish = theme.split()
            if rng.random() < 0.4:
                wish = [*wish, rng.choice([word for word in chosen.words if word not in CARRIERS])]
                if rng.random() < 0.3:
                    wish.reverse()
        else:
            chosen, wish = rng.choice(self.pool), rng.choice(ANYTHING).split()
        return Pair(wish=" ".join(self._spoken(wish)), prompt=" ".join(chosen.words))

    def _span(self) -> tuple[Told, list[str]]:
        """Returns a run of words out of a prompt, mostly its beginning."""
        rng = self.rng
        chosen = rng.choice(self.pool)
        first = 0 if rng.random() < 0.55 else rng.randrange(len(chosen.words))
        length = rng.choice((2, 2, 3, 3, 4, 5, 6, 9, LONGEST_PROMPT))
        return chosen, list(chosen.words[first : first + length])

    def _bag(self) -> tuple[Told, list[str]]:
        """Returns two or three words out of a prompt; a colour only with what it colours."""
        rng = self.rng
        while True:
            chosen = rng.choice(self.pool)
            places = sorted(rng.sample(range(len(chosen.words)), min(len(chosen.words), rng.choice((2, 2, 3)))))
            places = [place for place in places if chosen.words[place] not in CARRIERS]
            wish = [chosen.words[place] for place in places]
            if any(chosen.words[place] in PAINTS and place + 1 not in places for place in places):
                continue
            if len(wish) > 1:
                if rng.random() < 0.35:
                    wish.insert(rng.randint(1, len(wish) - 1), rng.choice(("and", "with", "in", "at", "under", "on")))
                elif rng.random() < 0.2:
                    wish = [*rng.choice(GLUE).split(), rng.choice(("with", "in", "at", "")), *wish]
                return chosen, [word for word in wish if word]

    def _spoken(self, wish: list[str]) -> list[str]:
        """Returns a wish as people type it: without articles or with one, with an asking, with words of no meaning."""
        rng = self.rng
        roll = rng.random()
        if roll < 0.35:
            wish = [word for word in wish if word not in ("a", "an", "the")] or wish
        elif roll < 0.6 and wish[0] not in CARRIERS:
            wish = [rng.choice(("a", "a", "an", "the", "some", "my")), *wish]
        if rng.random() < 0.18:
            wish = [*rng.choice(ASKING).split(), *wish]
        if rng.random() < 0.12:
            wish.insert(rng.randint(0, len(wish)), UNKNOWN)
        return wish


def wish_words(pairs: Pairs) -> list[str]:
    """Returns every word a wish or a prompt may hold, in alphabetical order."""
    texts = [*ASKING, *ANYTHING, *GLUE, *THEMES, "some my please with in at under on and a an the"]
    texts += [" ".join(one.words) for one in pairs.pool]
    texts += [word for noun in NOUNS.values() for forms in noun for word in forms]
    texts += [*DEFAULT_COLOURS.values(), *COLOURS, *PAINTS]
    return sorted({word for text in texts for word in text.split()} - {UNKNOWN})
