"""Qwen3's chat format: conversations to tokens, and tokens to text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mold_core import CheckpointError

__all__ = ["Chat"]

_START, _END, _END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
# Control tokens, which are removed from user input.
_MARKS = re.compile(r"<\|[\w]*\|>|</?think>")


class Chat:
    """ChatML with a tokenizer.json. `stop` is the set of tokens that end a response."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exceptions
            raise CheckpointError("%s is no tokenizer.json: %s", path, error) from None
        ends = [self._tokenizer.token_to_id(mark) for mark in (_END, _END_OF_TEXT)]
        if self._tokenizer.token_to_id(_START) is None or ends[0] is None:
            raise CheckpointError(f"%s is no tokenizer of a chat model: it lacks {_START} or {_END}", path)
        self.stop = frozenset(end for end in ends if end is not None)

    def ask(self, user: str, system: str | None = None, *, thinking: bool = False) -> list[int]:
        """Return the tokens of a conversation up to the response, which with `thinking` begins with thoughts."""
        opening = "" if system is None else f"{_START}system\n{_plain(system)}{_END}\n"
        # Qwen3's template turns thinking off with an empty thought.
        thought = "" if thinking else "<think>\n\n</think>\n\n"
        text = f"{opening}{_START}user\n{_plain(user)}{_END}\n{_START}assistant\n{thought}"
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of a response, including thoughts."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=False)
        return text


def _plain(text: str) -> str:
    text = text.encode("utf-8", "replace").decode("utf-8")  # JSON may contain half surrogate pairs
    return _MARKS.sub(" ", text)
