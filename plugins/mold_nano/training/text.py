"""Turns captions into the padded token ids both text encoders read."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

TEXT_TOKENS = 48
CLIP_POSITIONS = 77
T5_PAD, T5_END = 0, 1


class Texts:
    """Both tokenizers of an exported model folder."""

    def __init__(self, folder: Path) -> None:
        self.t5 = Tokenizer.from_file(str(folder / "t5_tokenizer.json"))
        self.clip = Tokenizer.from_file(str(folder / "clip_tokenizer.json"))
        self.clip_end = self.clip.token_to_id("<|endoftext|>")

    def t5_ids(self, captions: list[str]) -> list[list[int]]:
        """Returns each caption's T5 ids, cut to what the engine reads; the end token stays."""
        return [
            encoding.ids if len(encoding.ids) <= TEXT_TOKENS else [*encoding.ids[: TEXT_TOKENS - 1], T5_END]
            for encoding in self.t5.encode_batch(captions)
        ]

    def clip_ids(self, captions: list[str]) -> Tensor:
        """Returns CLIP ids (B, L) padded with the end token to the longest caption."""
        rows = [
            encoding.ids
            if len(encoding.ids) <= CLIP_POSITIONS
            else [*encoding.ids[: CLIP_POSITIONS - 1], self.clip_end]
            for encoding in self.clip.encode_batch(captions)
        ]
        return padded(rows, max(map(len, rows)), self.clip_end)


def padded(rows: list[list[int]], length: int, pad: int) -> Tensor:
    """Returns rows of ids as one tensor (B, length)."""
    return torch.tensor([[*row, *[pad] * (length - len(row))] for row in rows])
