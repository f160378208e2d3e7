"""Prompts → what the transformer is conditioned on, remembered by content."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from mold_core.weights import check_finite
from mold_flux.text_encoders import ClipTokenizer, T5Tokenizer

__all__ = ["PromptEncoder"]

_REMEMBERED = 16

Use = Callable[[str], AbstractContextManager[nn.Module]]


class PromptEncoder:
    """Both text encoders with their tokenizers. The last 16 prompts are remembered, on the CPU.

    The encoders are those that `use` gives for "t5_encoder" and "clip_encoder"; one is asked for at a time, and only
    where a prompt is not remembered.
    """

    def __init__(self, clip_tokenizer: ClipTokenizer, t5_tokenizer: T5Tokenizer) -> None:
        self._clip_tokenizer = clip_tokenizer
        self._t5_tokenizer = t5_tokenizer
        self._remembered: OrderedDict[tuple[Hashable, str], tuple[Tensor, Tensor]] = OrderedDict()

    def knows(self, prompts: Sequence[str], variant: Hashable = ()) -> bool:
        """Say whether every prompt is remembered, as this variant of the encoders embeds it."""
        return all((variant, prompt) in self._remembered for prompt in prompts)

    def encode(self, prompts: Sequence[str], use: Use, variant: Hashable = ()) -> tuple[Tensor, Tensor]:
        """Return token embeddings [B, L, context_dim] and pooled embeddings [B, pooled_dim] of the prompts.

        Each prompt is encoded by itself, so that its embeddings do not depend on what it is batched with. `variant`
        tells apart what `use` gives: with other LoRAs the embeddings are others.
        """
        new = [prompt for prompt in dict.fromkeys(prompts) if (variant, prompt) not in self._remembered]
        if new:
            with use("t5_encoder") as t5:
                tokens = [_run(t5, self._t5_tokenizer.encode([prompt])) for prompt in new]
                check_finite("T5 text encoder", *tokens, network=t5)
            with use("clip_encoder") as clip:
                pooled = [_run(clip, self._clip_tokenizer.encode([prompt])) for prompt in new]
                check_finite("CLIP text encoder", *pooled, network=clip)
            keys = [(variant, prompt) for prompt in new]
            self._remembered.update(zip(keys, zip(tokens, pooled, strict=True), strict=True))
        pairs = [self._remembered[variant, prompt] for prompt in prompts]
        for prompt in prompts:
            self._remembered.move_to_end((variant, prompt))
        while len(self._remembered) > _REMEMBERED:
            self._remembered.popitem(last=False)
        return torch.cat([tokens for tokens, _ in pairs]), torch.cat([pooled for _, pooled in pairs])


def _run(encoder: nn.Module, ids: Tensor) -> Tensor:
    """Return an encoder's embeddings of ids [1, T], on the CPU."""
    weight = next(encoder.parameters())
    embeddings: Tensor = encoder(ids.to(weight.device))
    return embeddings.cpu()
