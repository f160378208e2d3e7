"""The hooks of mold-nano: models inside the wheel."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from mold_core import hookimpl

if TYPE_CHECKING:
    from mold_core import ModelSpec, Signature, Vocabulary

__all__ = ["mold_models", "mold_signatures"]

_HERE = Path(__file__).parent
CATALOG = _HERE / "models" / "catalog.toml"
SIGNATURES = _HERE / "signatures.toml"
VOCABULARY = _HERE / "vocabulary.toml"
VIDEO_TOKENIZER = _HERE / "models" / "ltx2-nano" / "tokenizer.json"


@hookimpl
def mold_models() -> list[ModelSpec]:
    """Return the models whose files are in this package."""
    import attrs

    from mold_core import read_catalog

    specs = read_catalog(CATALOG, embedded=True)
    return [attrs.evolve(spec, vocabulary=_videos() if spec.family == "ltx2" else _images()) for spec in specs]


@hookimpl
def mold_signatures() -> list[Signature]:
    """Return the signatures by which copies of these models are recognised."""
    from mold_core import read_signatures

    return read_signatures(SIGNATURES)


def _images() -> Vocabulary:
    from mold_core import Vocabulary

    table = tomllib.loads(VOCABULARY.read_text("utf-8"))
    summary = (
        f"a {_either(table['objects'])}, one to three of a kind or two kinds together, in colours such as "
        f"{_either(table['colours'][:3])}, with a place and a time of day; and flat shapes: {_either(table['shapes'])}"
    )
    return Vocabulary(words=tuple(table["words"]), summary=summary)


def _videos() -> Vocabulary:
    from mold_core import Vocabulary

    tokens = json.loads(VIDEO_TOKENIZER.read_text("utf-8"))["model"]["vocab"]
    summary = (
        "a ball bouncing, a boat sailing or a car driving, left to right or right to left, a ball bouncing up and "
        "down, or a balloon rising, sinking or floating; in colours such as red, orange or yellow, with a place and a "
        "time of day"
    )
    return Vocabulary(words=tuple(word for word in tokens if not word.startswith("<")), summary=summary)


def _either(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"
