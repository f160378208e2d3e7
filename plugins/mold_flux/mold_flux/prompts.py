"""Prompts → what the transformer is conditioned on, remembered by content."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from mold_flux.text_encoders import ClipTextEncoder, ClipTokenizer, T5Encoder, T5Tokenizer

__all__ = ["PromptEncoder"]

_REMEMBERED = 16


class PromptEncoder:
    """Both text encoders with their tokenizers. The last 16 prompts are remembered."""

    def __init__(
        self,
        clip: ClipTextEncoder,
        clip_tokenizer: ClipTokenizer,
        t5: T5Encoder,
        t5_tokenizer: T5Tokenizer,
        device: str,
    ) -> None:
        self.clip = clip
        self.t5 = t5
        self._clip_tokenizer = clip_tokenizer
        self._t5_tokenizer = t5_tokenizer
        self._device = device
        self._remembered: OrderedDict[str, tuple[Tensor, Tensor]] = OrderedDict()

    def knows(self, prompts: Sequence[str]) -> bool:
        """Say whether every prompt is remembered."""
        return all(prompt in self._remembered for prompt in prompts)

    def encode(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return token embeddings [B, L, context_dim] and pooled embeddings [B, pooled_dim] of the prompts.

        Each prompt is encoded by itself, so that its embeddings do not depend on what it is batched with.
        """
        pairs = [self._encode_one(prompt) for prompt in prompts]
        return torch.cat([tokens for tokens, _ in pairs]), torch.cat([pooled for _, pooled in pairs])

    def _encode_one(self, prompt: str) -> tuple[Tensor, Tensor]:
        if prompt in self._remembered:
            self._remembered.move_to_end(prompt)
            return self._remembered[prompt]
        tokens = self.t5(self._t5_tokenizer.encode([prompt]).to(self._device))
        pooled = self.clip(self._clip_tokenizer.encode([prompt]).to(self._device))
        self._remembered[prompt] = (tokens, pooled)
        if len(self._remembered) > _REMEMBERED:
            self._remembered.popitem(last=False)
        return tokens, pooled
