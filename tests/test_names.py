"""Names and prose use the words of the field; private words of mold do not come back."""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Words that no module, class, function, argument, variable or attribute may carry.
PRIVATE = frozenset(
    """
    abilities anew asker askers bench beside blaming brings brought bury errand errands feeder film films fitted keeper
    notices panels picture pictures recipe recipes shelf taker tell telling tells told unfilled whereabouts wishes
    """.split()  # noqa: SIM905 - as a list it takes thirty lines
)

# Words that have another, ordinary meaning as well: the number of names that carry one may only shrink.
MOST = {
    "adapter": 2,
    "adapters": 0,
    "answer": 2,
    "answers": 0,
    "asked": 3,
    "fill": 2,
    "filled": 1,
    "given": 4,
    "gone": 0,
    "held": 4,
    "made": 6,
    "own": 10,
    "part": 27,
    "parts": 29,
    "pinned": 3,
    "place": 15,
    "places": 7,
    "room": 6,
    "shown": 9,
    "wanted": 7,
}

# Identifier → why it keeps its private word.
KEPT = {
    "abilities": "a field of /api/models/NAME, and a public method of Engine",
}

# Modules that hold old names on purpose.
EXEMPT = ("mold_core/deprecated.py",)

# Scripts that trained the models of mold_nano. They are not installed.
SCRIPTS = "plugins/mold_nano/training/"

# Names of families and of their components.
FAMILIES = re.compile(r"\bt5\b|clip_l|8n\+1|ltx|flux", re.IGNORECASE)

# Where the core may name them: in examples of help pages and of the description of routes.
EXAMPLES = ("mold_core/cli/", "mold_http/routes/")

# Modules that describe files of any maker, also of families that no plugin runs.
DESCRIBES_ANY = ("mold_core/weights/lora_description.py",)

# Words that no help text, page, docstring or comment may use.
PROSE = re.compile(r"\b(films?|pictures?|anew|errands?|shelf|keeper|wish|wishes|askers?|whereabouts)\b", re.IGNORECASE)

# Words of literary sentences in docstrings and comments: their number may only shrink.
LITERARY = {
    "at once": 12,
    "brings|brought": 1,
    "goes on|go on": 1,
    "meanwhile": 2,
    "nobody|somebody|whoever": 1,
    "shall": 0,
    "tells?|told": 9,
    "wants?": 1,
}


@cache
def modules() -> dict[str, ast.Module]:
    """Return every module of the packages and plugins, by its path."""
    paths = [path for folder in ("mold_core", "mold_http", "plugins") for path in sorted((ROOT / folder).rglob("*.py"))]
    found = {path.relative_to(ROOT).as_posix(): path for path in paths}
    return {
        name: ast.parse(path.read_text("utf-8"))
        for name, path in found.items()
        if name not in EXEMPT and not name.startswith(SCRIPTS)
    }


def names_in(path: str, module: ast.Module) -> Iterator[str]:
    """Yield the name of a module and every name that it binds."""
    yield from Path(path).with_suffix("").parts
    for node in ast.walk(module):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name
            case ast.arg(arg=name):
                yield name


def words_of(name: str) -> set[str]:
    """Return the words of a name in snake_case, UPPER_CASE or CamelCase."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


@cache
def names() -> frozenset[tuple[str, str]]:
    """Return every module with every name in it."""
    return frozenset((path, name) for path, module in modules().items() for name in names_in(path, module))


def test_no_name_carries_a_private_word() -> None:
    found = sorted(f"{path}: {name}" for path, name in names() if words_of(name) & PRIVATE and name not in KEPT)
    assert found == []


def private_words(text: str) -> list[str]:
    """Return the lines of a text that use private words outside of `code`."""
    return [line.strip() for line in text.splitlines() if PROSE.search(re.sub(r"`[^`]*`", "", line))]


@pytest.mark.parametrize("word", MOST)
def test_no_more_names_carry_an_ambiguous_word(word: str) -> None:
    found = sorted(f"{path}: {name}" for path, name in names() if word in words_of(name))
    assert len(found) <= MOST[word], found


def test_every_exception_is_still_needed() -> None:
    assert set(KEPT) <= {name for _, name in names()}


@cache
def prose() -> frozenset[tuple[str, str]]:
    """Return the docstrings and comments of every module."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = set()
    for path, module in modules().items():
        for node in ast.walk(module):
            if isinstance(node, documented):
                found.add((path, ast.get_docstring(node) or ""))
        with (ROOT / path).open("rb") as file:
            tokens = tokenize.tokenize(file.readline)
            found.update((path, token.string) for token in tokens if token.type == tokenize.COMMENT)
    return frozenset(found)


def test_docstrings_and_comments_use_the_words_of_the_field() -> None:
    assert sorted(f"{path}: {line}" for path, text in prose() for line in private_words(text)) == []


@pytest.mark.parametrize("words", LITERARY)
def test_no_more_docstrings_and_comments_are_literary(words: str) -> None:
    pattern = re.compile(rf"\b({words})\b", re.IGNORECASE)
    found = sorted(
        f"{path}: {line.strip()}" for path, text in prose() for line in text.splitlines() if pattern.search(line)
    )
    assert len(found) <= LITERARY[words], f"{len(found)}: {found}"


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))])
def test_pages_and_help_texts_use_the_words_of_the_field(page: str) -> None:
    # The help of every command is in docs/cli.md, which another test compares with the commands.
    assert private_words((ROOT / page).read_text("utf-8")) == []


def test_the_core_knows_no_family() -> None:
    files = (path for folder in ("mold_core", "mold_http") for path in sorted((ROOT / folder).rglob("*")))
    sources = {
        path.relative_to(ROOT).as_posix(): path for path in files if path.suffix in (".py", ".js", ".html", ".css")
    }
    found = [
        f"{name}: {line.strip()}"
        for name, path in sources.items()
        if name not in DESCRIBES_ANY
        for line in path.read_text("utf-8").splitlines()
        if FAMILIES.search(line) and not (name.startswith(EXAMPLES) and is_example(line))
    ]
    assert found == []


def is_example(line: str) -> bool:
    """Return whether a line belongs to the example of a command or of a request."""
    return bool(re.search(r"^  (\w+=\S+ )?mold |curl|-d '|[\"']model[\"']:", line))
