"""Encode prompts for the transformer, and cache the result by content."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from mold_core.families import RecentValues
from mold_core.weights import check_finite
from mold_flux.text_encoders import ClipTokenizer, T5Tokenizer

__all__ = ["PromptEncoder", "Use"]

_CACHED_PROMPTS = 16

# Provides a network by its name during a `with` block.
Use = Callable[[str], AbstractContextManager[Any]]


class PromptEncoder:
    """Both text encoders with their tokenizers. Caches the last 16 prompts, on the CPU.

    `use` provides the encoders "t5_encoder" and "clip_encoder", one at a time and only for prompts that are not cached.
    """

    def __init__(self, clip_tokenizer: ClipTokenizer, t5_tokenizer: T5Tokenizer) -> None:
        self._clip_tokenizer = clip_tokenizer
        self._t5_tokenizer = t5_tokenizer
        self._cache: RecentValues[tuple[Hashable, str], tuple[Tensor, Tensor]] = RecentValues(_CACHED_PROMPTS)

    def knows(self, prompts: Sequence[str], variant: Hashable = ()) -> bool:
        """Return whether every prompt is cached, as this variant of the encoders embeds it."""
        return all((variant, prompt) in self._cache for prompt in prompts)

    def encode(self, prompts: Sequence[str], use: Use, variant: Hashable = ()) -> tuple[Tensor, Tensor]:
        """Return token embeddings [B, L, context_dim] and pooled embeddings [B, pooled_dim] of the prompts.

        Each prompt is encoded by itself, so its embeddings do not depend on the batch. `variant` identifies the
        encoders that `use` provides: with other LoRAs the embeddings differ.
        """
        pairs = self._cache.get(
            [(variant, prompt) for prompt in prompts], lambda keys: self._embed([prompt for _, prompt in keys], use)
        )
        return torch.cat([tokens for tokens, _ in pairs]), torch.cat([pooled for _, pooled in pairs])

    def _embed(self, prompts: Sequence[str], use: Use) -> Iterable[tuple[Tensor, Tensor]]:
        with use("t5_encoder") as t5:
            tokens = [_run(t5, self._t5_tokenizer.encode([prompt])) for prompt in prompts]
            check_finite("T5 text encoder", *tokens, network=t5)
        with use("clip_encoder") as clip:
            pooled = [_run(clip, self._clip_tokenizer.encode([prompt])) for prompt in prompts]
            check_finite("CLIP text encoder", *pooled, network=clip)
        return zip(tokens, pooled, strict=True)


def _run(encoder: nn.Module, ids: Tensor) -> Tensor:
    """Return an encoder's embeddings of ids [1, T], on the CPU."""
    weight = next(encoder.parameters())
    embeddings: Tensor = encoder(ids.to(weight.device))
    return embeddings.cpu()
