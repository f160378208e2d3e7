"""Prompts to what the transformer attends to: Gemma 3's hidden states of every layer, then the connectors."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from mold_core.weights import LoadedComponents, check_finite
from mold_ltx2.sampling import Prompt

if TYPE_CHECKING:
    from mold_core import ProgressEvent

__all__ = ["GemmaTokenizer", "PromptEncoder"]

_REMEMBERED = 16

Report = Callable[["ProgressEvent"], object]


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
    """Encodes prompts and remembers the last ones, on the CPU.

    Text encoder and connectors are the parts of these names; one is asked for at a time, and only where a prompt is not
    remembered.
    """

    def __init__(self, parts: LoadedComponents, tokenizer: GemmaTokenizer) -> None:
        self.tokenizer = tokenizer
        self._parts = parts
        self._remembered: OrderedDict[str, Prompt] = OrderedDict()

    def knows(self, text: str) -> bool:
        """Whether a prompt needs no work."""
        return text in self._remembered

    def encode(self, texts: Sequence[str], report: Report) -> list[Prompt]:
        """Return prompts as the transformer takes them, on the CPU. `report` is told of what is loaded."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._remembered]
        if missing:
            with self._parts.use("text_encoder", report) as gemma:
                states = [_states(gemma, self.tokenizer.encode(text)) for text in missing]
                check_finite("text encoder", *states, network=gemma)
            with self._parts.use("connectors", report) as connectors:
                for text, stacked in zip(missing, states, strict=True):
                    self._remembered[text] = self._connected(connectors, stacked)
        encoded = [self._remembered[text] for text in texts]
        for text in texts:
            self._remembered.move_to_end(text)
        while len(self._remembered) > _REMEMBERED:
            self._remembered.popitem(last=False)
        return encoded

    def _connected(self, connectors: Any, stacked: Tensor) -> Prompt:
        # PERF: only the words themselves went through Gemma. The places before them, up to the length that the
        # connectors were trained with, are masked there and hold the connectors' own registers after: they may as well
        # be zero.
        weight = next(tensor for tensor in connectors.parameters() if tensor.is_floating_point())
        missing = self.tokenizer.length - stacked.shape[1]
        mask = F.pad(torch.ones(stacked.shape[:2], dtype=torch.long), (missing, 0)).to(weight.device)
        padded = F.pad(stacked.to(weight.device, weight.dtype), (0, 0, missing, 0))
        video, audio, counts = connectors(padded, mask, padding_side="left")
        check_finite("text connectors", video, audio, network=connectors)
        return Prompt(video=video.cpu(), audio=audio.cpu(), mask=counts.cpu())


def _states(gemma: Any, ids: Tensor) -> Tensor:
    """Return the hidden states of every layer, on top of each other [1, n, D·layers]."""
    device = next(gemma.parameters()).device
    states = gemma(input_ids=ids.to(device), output_hidden_states=True, use_cache=False).hidden_states
    return torch.stack(states, dim=-1).flatten(2).cpu()
