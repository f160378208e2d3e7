"""Generate several continuations of a text with a language model at once, each with its own seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import torch
from torch import Tensor

from mold_core.families import seeded_generator
from mold_expand.qwen3 import Continuations, Qwen3

__all__ = ["Sampling", "choose", "write"]


@attrs.frozen(kw_only=True)
class Sampling:
    """How the next token is sampled.

    At `temperature` 0 it is the most likely token. Otherwise it is sampled from the `top_k` most likely (0: all), and
    of these from the smallest set that has `top_p` of the probability (arXiv 1904.09751).
    """

    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int = 20


def choose(scores: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Return the next token, given the scores of all tokens, float32 [vocabulary] on the CPU."""
    if sampling.temperature <= 0:
        return int(scores.argmax())
    best, tokens = scores.topk(min(sampling.top_k or len(scores), len(scores)))
    chances = (best / sampling.temperature).softmax(-1)
    summed = chances.cumsum(-1)
    # A token stays if the tokens before it have less than the requested share, so at least one stays.
    count = int((summed - chances < sampling.top_p).sum().clamp(min=1))
    threshold = torch.rand((), generator=generator) * summed[count - 1]
    return int(tokens[min(int(torch.searchsorted(summed[:count], threshold)), count - 1)])


@torch.inference_mode()
def write(
    model: Qwen3,
    ids: Sequence[int],
    *,
    seeds: Sequence[int],
    max_tokens: int,
    stop: frozenset[int],
    sampling: Sampling,
    check: Callable[[], object] = lambda: None,
) -> list[list[int]]:
    """Return one continuation of a text for each seed, of at most `max_tokens`, without its stop token.

    The text is read once. The same seed gives the same continuation, alone or with others, up to the rounding of the
    device. `check` is called before each token and may raise.
    """
    device = model.model.norm.weight.device
    generators = [seeded_generator(seed) for seed in seeds]
    written: list[list[int]] = [[] for _ in seeds]
    check()
    scores, prefix = model.read(torch.tensor(ids, device=device))
    texts = Continuations(prefix, len(seeds), max_tokens)
    scores = scores.expand(len(seeds), -1)
    active = list(range(len(seeds)))
    for _ in range(max_tokens):
        check()
        on_cpu = scores.cpu()
        chosen = [choose(on_cpu[row], sampling, generators[text]) for row, text in enumerate(active)]
        kept = [row for row, token in enumerate(chosen) if token not in stop]
        for row in kept:
            written[active[row]].append(chosen[row])
        if not kept:
            break
        if len(kept) < len(active):
            texts.select(torch.tensor(kept, device=device))
            active = [active[row] for row in kept]
        scores = model.continue_texts(torch.tensor([chosen[row] for row in kept], device=device), texts)
    return written
