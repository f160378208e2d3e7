"""Converts a search text to an SQLite full-text query."""

from __future__ import annotations

import re

__all__ = ["match_expression"]

_MAX_TERMS = 32
_TERM = re.compile(r'"([^"]*)"?|([^\s"]+)')


def match_expression(text: str) -> str | None:
    """Return an FTS5 expression in which every word must match as a prefix, and quoted text exactly.

    Returns None if the text has no words. The text has no operators: `-`, `*`, `OR`, `:` are treated as text.
    """
    terms = []
    for exact, word in _TERM.findall(text)[:_MAX_TERMS]:
        term = exact or word
        # In FTS5 a phrase without letters and digits matches nothing.
        if any(char.isalnum() for char in term):
            terms.append('"{}"{}'.format(term.replace("\0", " "), "" if exact else "*"))
    return " AND ".join(terms) or None
