"""What people type into a search box, as a question that SQLite understands."""

from __future__ import annotations

import re

__all__ = ["match_expression"]

_MAX_TERMS = 32
_TERM = re.compile(r'"([^"]*)"?|([^\s"]+)')


def match_expression(text: str) -> str | None:
    """Return an FTS5 expression: every word must occur, whole or as a beginning, and what is in quotes as it stands.

    Returns None where the text holds no word. Nothing in it is an operator: `-`, `*`, `OR`, `:` are punctuation.
    """
    terms = []
    for exact, word in _TERM.findall(text)[:_MAX_TERMS]:
        term = exact or word
        # FTS5 takes a phrase without a letter or digit for one that nothing matches.
        if any(char.isalnum() for char in term):
            terms.append('"{}"{}'.format(term.replace("\0", " "), "" if exact else "*"))
    return " AND ".join(terms) or None
