"""Reads prompts by the grammar that flux-nano's captions are worded by, and says whether a scene can be meant by them.

It is made from the tables of `captions` and knows no prompt that those cannot word: a subject (a thing, some of a kind,
two different things, a landscape), then surroundings in any order, one of which may stand in front.
"""

import re
from collections.abc import Iterator

import captions
from attrs import frozen
from world import COLOURS, KINDS, MOON_COLOURS, SHAPES


def _any(words: object) -> str:
    return "(?:" + "|".join(sorted(map(re.escape, dict.fromkeys(words)), key=len, reverse=True)) + ")"  # type: ignore[call-overload]


_COLOUR_OF = {word: colour for colour in COLOURS for word in captions.COLOUR_WORDS.get(colour, (colour,))}
_KIND_OF = {word: kind for kind, forms in captions.NOUNS.items() for form in forms for word in form}
_COLOUR = _any(_COLOUR_OF)
_SIZE = _any(word for words in captions.SIZE_WORDS.values() for word in words if word)
_ONE = _any(form[0] for forms in captions.NOUNS.values() for form in forms)
_SOME = _any(form[1] for forms in captions.NOUNS.values() for form in forms)
_SIDE = _any(word for words in captions.SIDE_WORDS.values() for word in words)
_COUNT = _any(word for words in captions.COUNT_WORDS.values() for word in words)
_ARTICLE = "(?:(?:a|an|the|one) )?"
_THING = rf"{_ARTICLE}(?:{_COLOUR} )?{_ONE}"
_SINGLE = re.compile(rf"{_ARTICLE}(?:{_SIZE} )?(?:{_COLOUR} )?(?P<noun>{_ONE})(?: {_SIDE})?")
_COUNTED = re.compile(rf"{_COUNT} (?:{_COLOUR} )?(?P<noun>{_SOME})")
_PAIRS = [
    re.compile(wording.replace("{a}", f"(?P<a>{_THING})").replace("{b}", f"(?P<b>{_THING})"))
    for table in (captions.FORWARD, captions.BACKWARD)
    for wording in dict.fromkeys(word for words in table.values() for word in words)
]
_MOUNTAINS = ("mountains", "the mountains", "a landscape with mountains")
_LANDSCAPE = re.compile(
    _any(word for words in (*captions.PLACE_SUBJECTS.values(), _MOUNTAINS) for word in words)
)  # fmt: skip
_FORM = "(?:(?:crescent|half|full) )?"
_MOON = rf"(?:under|below|with|and) (?:a|an|the) {_FORM}(?:{_any(MOON_COLOURS)} )?{_FORM}moon"
_BACKGROUND = re.compile(rf"(?:(?:on|with) (?:a|an) {_any(COLOURS)} background|on {_any(COLOURS)})")
_AROUND = {
    "place": re.compile(_any(word for words in captions.PLACE_WORDS.values() for word in words)),
    "day": re.compile(_any(captions.TIME_WORDS["day"])),
    "sunset": re.compile(_any(captions.TIME_WORDS["sunset"])),
    "night": re.compile(_any(captions.TIME_WORDS["night"])),
    "moon": re.compile(_MOON),
    "mountains": re.compile(_any(captions.MOUNTAIN_WORDS)),
    "clouds": re.compile(_any(captions.CLOUD_WORDS)),
    "rainbow": re.compile(_any(captions.RAINBOW_WORDS)),
}
# Of each of these a scene has one at most.
_ALONE = (
    {"day", "sunset", "night"}, {"mountains", "clouds", "rainbow"}, {"moon", "day", "sunset"}, {"moon", "rainbow"},
    {"rainbow", "sunset"}, {"rainbow", "night"},
)  # fmt: skip


@frozen
class _Subject:
    form: str
    kinds: tuple[str, ...]


def is_valid(prompt: str) -> bool:
    """Says whether a caption of some scene could be this prompt, but for fillers and commas."""
    text = " ".join(prompt.replace(",", " ").split())
    if re.search(r"\ba(?= [aeiou])|\ban(?= [^aeiou])", text):
        return False
    return any(_fits(subject, around) for subject, around in _readings(text))


def _readings(text: str) -> Iterator[tuple[_Subject, tuple[str, ...]]]:
    """Gives every way to read a text as a subject and what is around it."""
    for front, rest in [("", text), *_first_around(text)]:
        for subject, after in _subjects(rest):
            for around in _arounds(after, subject):
                yield subject, (*([front] if front else []), *around)


def _first_around(text: str) -> Iterator[tuple[str, str]]:
    for name, pattern in _AROUND.items():
        for end in _ends(pattern, text):
            yield name, text[end:].lstrip()


def _ends(pattern: re.Pattern[str], text: str) -> Iterator[int]:
    """Gives every place between words up to which a pattern matches from the start."""
    for end in [match.start() for match in re.finditer(" ", text)] + [len(text)]:
        if pattern.fullmatch(text, 0, end):
            yield end


def _subjects(text: str) -> Iterator[tuple[_Subject, str]]:
    for pattern, form in ((_SINGLE, "single"), (_COUNTED, "counted"), (_LANDSCAPE, "landscape")):
        for end in _ends(pattern, text):
            match = pattern.fullmatch(text, 0, end)
            kinds = () if form == "landscape" or match is None else (_KIND_OF[match["noun"]],)
            yield _Subject(form, kinds), text[end:].lstrip()
    for pattern in _PAIRS:
        for end in _ends(pattern, text):
            match = pattern.fullmatch(text, 0, end)
            if match and _thing(match["a"]) != _thing(match["b"]):
                yield _Subject("pair", (_thing(match["a"])[1], _thing(match["b"])[1])), text[end:].lstrip()


def _thing(words: str) -> tuple[str, str]:
    match = re.fullmatch(rf"{_ARTICLE}(?:(?P<colour>{_COLOUR}) )?(?P<noun>{_ONE})", words)
    assert match is not None
    return _COLOUR_OF.get(match["colour"] or "", ""), _KIND_OF[match["noun"]]


def _arounds(text: str, subject: _Subject) -> Iterator[tuple[str, ...]]:
    if not text:
        yield ()
    if subject.kinds and subject.kinds[0] in SHAPES and _BACKGROUND.fullmatch(text):
        yield ("background",)
    for name, rest in _first_around(text) if text else ():
        for others in _arounds(rest, subject):
            yield (name, *others)


def _fits(subject: _Subject, around: tuple[str, ...]) -> bool:
    if len(set(around)) != len(around) or any(len(alone & set(around)) > 1 for alone in _ALONE):
        return False
    if subject.form == "landscape":
        return "place" not in around
    shapes = {kind in SHAPES for kind in subject.kinds}
    if shapes == {True}:
        return set(around) <= {"background"}
    return shapes == {False} and all(kind in KINDS for kind in subject.kinds)
