"""Count the faults in a prompt of a small language model. Of several prompts, the one with the fewest is used."""

from __future__ import annotations

import re
from collections.abc import Collection
from itertools import pairwise

__all__ = ["faults"]

_WORD = re.compile(r"[^\W_]+")
_SHORT = frozenset(("a", "an", "the", "one", "of", "on", "in", "at", "to", "by", "and", "with"))


def faults(idea: str, prompt: str, vocabulary: Collection[str]) -> int:
    """Return the number of words of the idea that a prompt lacks, of those in `vocabulary`, plus its repetitions.

    A repetition is a second occurrence of two consecutive words, such as "red house", without articles and the like.
    """
    words = _WORD.findall(prompt.lower())
    lacking = {word for word in _WORD.findall(idea.lower()) if word in vocabulary} - set(words)
    pairs = [pair for pair in pairwise(words) if not _SHORT.intersection(pair)]
    return len(lacking) + len(pairs) - len(set(pairs))
