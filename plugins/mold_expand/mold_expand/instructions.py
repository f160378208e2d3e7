"""System prompts for language models: templates, and the style of prompts for each family."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import attrs

__all__ = ["BATCH", "SINGLE", "Style", "fill_template", "style_of"]

_STYLES = Path(__file__).parent / "styles.toml"

SINGLE = """\
You turn a short wish for a picture into one prompt for an image generator.
Keep everything the wish names, exactly as it is meant, and add nothing that contradicts it. Enrich it with what it
leaves open: setting, composition, light, colours, materials and textures, mood, point of view. Choose concrete things
over praise.
{MODEL_NOTES}
Write at most {WORD_LIMIT} words, in the language of the wish. Answer with the prompt alone: no title, no quotation
marks, no explanation, no alternatives."""

BATCH = """\
You turn a short wish for a picture into {N} prompts for an image generator.
Every prompt keeps everything the wish names and adds nothing that contradicts it. Enrich each with what the wish leaves
open: setting, composition, light, colours, materials and textures, mood, point of view. Any two prompts differ in at
least two of these, so that the pictures look different. Choose concrete things over praise.
{MODEL_NOTES}
Write at most {WORD_LIMIT} words for each, in the language of the wish. Answer with a JSON array of {N} strings and
nothing else."""


@attrs.frozen
class Style:
    """The style of prompts for a family."""

    word_limit: int
    notes: str


@lru_cache(maxsize=1)
def _styles() -> Mapping[str, Style]:
    tables = tomllib.loads(_STYLES.read_text("utf-8"))
    return {family: Style(table["word_limit"], table["notes"]) for family, table in tables.items()}


def style_of(family: str, custom: Mapping[str, object] | None = None) -> Style:
    """Return the style of a family; `custom` may replace its `word_limit` and `style_notes`, from the settings."""
    styles = _styles()
    style = styles.get(family, styles["default"])
    limit, notes = (custom or {}).get("word_limit"), (custom or {}).get("style_notes")
    return Style(
        limit if isinstance(limit, int) else style.word_limit, notes if isinstance(notes, str) else style.notes
    )


def fill_template(template: str, style: Style, count: int) -> str:
    """Return a template with values for {WORD_LIMIT}, {MODEL_NOTES} and {N}; other braces stay."""
    for name, value in (("WORD_LIMIT", style.word_limit), ("MODEL_NOTES", style.notes), ("N", count)):
        template = template.replace(f"{{{name}}}", str(value))
    return template
