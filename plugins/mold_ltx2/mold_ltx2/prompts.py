"""Prompts to what the transformer attends to: Gemma 3's hidden states of every layer, then the connectors."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from mold_ltx2.sampling import Prompt

__all__ = ["GemmaTokenizer", "PromptEncoder"]

_REMEMBERED = 16


class GemmaTokenizer:
    """Words to token ids, at most `length` of them, begun as Gemma wants it."""

    def __init__(self, path: Path, length: int) -> None:
        self.length = length
        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(length)

    def encode(self, text: str) -> Tensor:
        """Return the ids of a prompt, int64 [1, n]."""
        return torch.tensor([self._tokenizer.encode(text.strip()).ids])


class PromptEncoder:
    """Encodes prompts and remembers the last ones."""

    def __init__(self, gemma: nn.Module, tokenizer: GemmaTokenizer, connectors: Any, device: str) -> None:
        self.gemma = gemma
        self.tokenizer = tokenizer
        self.connectors = connectors
        self._device = device
        self._remembered: OrderedDict[str, Prompt] = OrderedDict()

    def knows(self, text: str) -> bool:
        """Whether a prompt needs no work."""
        return text in self._remembered

    def encode(self, text: str) -> Prompt:
        """Return a prompt as the transformer takes it."""
        if text not in self._remembered:
            self._remembered[text] = self._encode(text)
            while len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)
        self._remembered.move_to_end(text)
        return self._remembered[text]

    def _encode(self, text: str) -> Prompt:
        # PERF: only the words themselves go through Gemma. The places before them, up to the length that the connectors
        # were trained with, are masked there and hold the connectors' own registers after: they may as well be zero.
        ids = self.tokenizer.encode(text).to(self._device)
        states = self.gemma(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
        stacked = torch.stack(states, dim=-1).flatten(2)
        missing = self.tokenizer.length - ids.shape[1]
        mask = F.pad(torch.ones_like(ids), (missing, 0))
        video, audio, counts = self.connectors(F.pad(stacked, (0, 0, missing, 0)), mask, padding_side="left")
        return Prompt(video=video, audio=audio, mask=counts)
