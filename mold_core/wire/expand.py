"""Request and response of prompt expansion."""

from __future__ import annotations

import attrs

from mold_core.wire.fields import wire_field
from mold_core.wire.generate import MAX_PROMPT_BYTES, MAX_SEED
from mold_core.wire.request import Request

__all__ = ["ExpandRequest", "ExpandResponse"]


@attrs.frozen(kw_only=True)
class ExpandRequest(Request["ExpandResponse"]):
    """A short prompt for a language model to expand, in the style that the image model was trained on.

    `model` names the image model. If it is None, `model_family` selects the style; if both are None, the default model
    does.
    """

    prompt: str = wire_field("Short prompt to expand.", not_blank=True, max_length=MAX_PROMPT_BYTES)
    model: str | None = wire_field("Model that the prompts are for.", default=None, not_blank=True, max_length=200)
    model_family: str | None = wire_field(
        "Family of the model that the prompts are for.", default=None, not_blank=True, max_length=200
    )
    variations: int = wire_field("Number of prompts to write.", default=1, minimum=1, maximum=10)
    seed: int | None = wire_field(
        "Seed of the language model; default: random. The response reports it.",
        default=None,
        minimum=0,
        maximum=MAX_SEED,
    )


@attrs.frozen(kw_only=True)
class ExpandResponse:
    """The result of prompt expansion."""

    original: str = wire_field("The prompt of the request.")
    expanded: tuple[str, ...] = wire_field("The expanded prompts.")
    seed_used: int | None = wire_field(
        "Seed that reproduces the prompts; absent if the expander has none.", default=None
    )
    warnings: tuple[str, ...] | None = wire_field("Problems of the prompts, one sentence each.", default=None)
