"""What is wrong with an answer of a small language model: of several, the one with the fewest faults is taken."""

from __future__ import annotations

import re
from collections.abc import Collection
from itertools import pairwise

__all__ = ["faults"]

_WORD = re.compile(r"[^\W_]+")
_SHORT = frozenset(("a", "an", "the", "one", "of", "on", "in", "at", "to", "by", "and", "with"))


def faults(wish: str, prompt: str, vocabulary: Collection[str]) -> int:
    """Return how many words of the wish a prompt lacks, of those in `vocabulary`, and how often it repeats itself.

    A prompt repeats itself where two words that follow each other ("red house") do so again; articles and the like do
    not count.
    """
    words = _WORD.findall(prompt.lower())
    lacking = {word for word in _WORD.findall(wish.lower()) if word in vocabulary} - set(words)
    pairs = [pair for pair in pairwise(words) if not _SHORT.intersection(pair)]
    return len(lacking) + len(pairs) - len(set(pairs))
