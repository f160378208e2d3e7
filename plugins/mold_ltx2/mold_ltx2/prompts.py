"""Encode prompts for the transformer: the hidden states of all layers of Gemma 3, then the connectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from mold_core.families import RecentValues, like_weights
from mold_core.weights import LoadedComponents, check_finite
from mold_ltx2.sampling import Prompt

if TYPE_CHECKING:
    from mold_core import ProgressEvent

__all__ = ["GemmaTokenizer", "PromptEncoder"]

_CACHED_PROMPTS = 16

Report = Callable[["ProgressEvent"], object]


class GemmaTokenizer:
    """Converts prompts to at most `length` token ids, after Gemma's start token."""

    def __init__(self, path: Path, length: int) -> None:
        self.length = length
        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(length)

    def encode(self, text: str) -> Tensor:
        """Return the ids of a prompt, int64 [1, n]."""
        return torch.tensor([self._tokenizer.encode(text.strip()).ids])


class PromptEncoder:
    """Encodes prompts and caches the last ones, on the CPU.

    It uses the components "text_encoder" and "connectors", one at a time and only for prompts that are not cached.
    """

    def __init__(self, components: LoadedComponents, tokenizer: GemmaTokenizer) -> None:
        self.tokenizer = tokenizer
        self._components = components
        self._cache: RecentValues[str, Prompt] = RecentValues(_CACHED_PROMPTS)

    def knows(self, text: str) -> bool:
        """Return whether a prompt is cached."""
        return text in self._cache

    def encode(self, texts: Sequence[str], report: Report) -> list[Prompt]:
        """Return encoded prompts, on the CPU. `report` gets the progress of loading."""
        return self._cache.get(texts, lambda missing: self._encode(missing, report))

    def _encode(self, texts: Sequence[str], report: Report) -> list[Prompt]:
        with self._components.use("text_encoder", report) as gemma:
            states = [_states(gemma, self.tokenizer.encode(text)) for text in texts]
            check_finite("text encoder", *states, network=gemma)
        with self._components.use("connectors", report) as connectors:
            return [self._connected(connectors, stacked) for stacked in states]

    def _connected(self, connectors: Any, stacked: Tensor) -> Prompt:
        # PERF: Gemma encodes only the tokens of the prompt. The padding before them, up to the length that the
        # connectors were trained with, is masked and replaced by the connectors' registers, so zeros are enough.
        stacked = like_weights(stacked, connectors)
        missing = self.tokenizer.length - stacked.shape[1]
        mask = F.pad(torch.ones(stacked.shape[:2], dtype=torch.long), (missing, 0)).to(stacked.device)
        padded = F.pad(stacked, (0, 0, missing, 0))
        video, audio, counts = connectors(padded, mask, padding_side="left")
        check_finite("text connectors", video, audio, network=connectors)
        return Prompt(video=video.cpu(), audio=audio.cpu(), mask=counts.cpu())


def _states(gemma: Any, ids: Tensor) -> Tensor:
    """Return the hidden states of all layers, concatenated by channel: [1, n, D·layers]."""
    device = next(gemma.parameters()).device
    states = gemma(input_ids=ids.to(device), output_hidden_states=True, use_cache=False).hidden_states
    return torch.stack(states, dim=-1).flatten(2).cpu()
