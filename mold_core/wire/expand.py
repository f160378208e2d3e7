"""The request for a fuller prompt, and its answer."""

from __future__ import annotations

import attrs

from mold_core.wire.fields import wire_field
from mold_core.wire.generate import MAX_PROMPT_BYTES, MAX_SEED
from mold_core.wire.request import Request

__all__ = ["ExpandRequest", "ExpandResponse"]


@attrs.frozen(kw_only=True)
class ExpandRequest(Request["ExpandResponse"]):
    """A short prompt that a language model writes out, in the manner that suits the model it is meant for.

    `model` names that model; where it is None, `model_family` says at least its family, and where both are, prompts are
    written for the default model.
    """

    prompt: str = wire_field("The wish, in a few words.", not_blank=True, max_length=MAX_PROMPT_BYTES)
    model: str | None = wire_field("Model the prompts are for.", default=None, not_blank=True, max_length=200)
    model_family: str | None = wire_field("Family the prompts are for.", default=None, not_blank=True, max_length=200)
    variations: int = wire_field("How many prompts to write.", default=1, minimum=1, maximum=10)
    seed: int | None = wire_field(
        "Seed of the choice of words; random when absent, always reported.", default=None, minimum=0, maximum=MAX_SEED
    )


@attrs.frozen(kw_only=True)
class ExpandResponse:
    """What became of a short prompt."""

    original: str = wire_field("The prompt that was given.")
    expanded: tuple[str, ...] = wire_field("The prompts that were written.")
    seed_used: int | None = wire_field("Seed that gives the same prompts again, where there is one.", default=None)
    warnings: tuple[str, ...] | None = wire_field("What to know about the prompts, in words.", default=None)
