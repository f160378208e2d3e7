"""The expander `endpoint`: any OpenAI-compatible server, with an address from the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mold_core import InferenceError, PromptExpander
from mold_core.families import stage
from mold_expand.endpoint import Endpoint
from mold_expand.instructions import BATCH, SINGLE, fill_template, style_of
from mold_expand.responses import prompt_of, prompts_of

if TYPE_CHECKING:
    from mold_core import ExpandContext, Expansion, Run

__all__ = ["EndpointExpander"]


class EndpointExpander(PromptExpander):
    """Writes prompts with a server. One request is for several prompts; missing ones are requested one by one."""

    name = "endpoint"

    def takes(self, backend: str, context: ExpandContext) -> bool:
        """Return whether a backend is an address."""
        return "://" in backend

    def check(self, expansion: Expansion, context: ExpandContext) -> None:
        """Raise SettingsError for an invalid address."""
        _endpoint(expansion, context)

    def expand(self, expansion: Expansion, context: ExpandContext, run: Run) -> list[str]:
        """Return the prompts."""
        endpoint = _endpoint(expansion, context)
        with stage(run, f"Expanding with {endpoint.model}"):
            return _prompts(endpoint, expansion, context, run)


def _prompts(endpoint: Endpoint, expansion: Expansion, context: ExpandContext, run: Run) -> list[str]:
    count = expansion.variations
    prompts: list[str] = []
    if count > 1:
        response = _ask(endpoint, BATCH, expansion, context, run, seed=expansion.seed, count=count)
        prompts = prompts_of(response, count)
    # A model may write too few prompts, or one twice. Each missing prompt is one more request.
    for number in range(count - len(prompts)):
        response = _ask(endpoint, SINGLE, expansion, context, run, seed=expansion.seed + number, count=1)
        prompt = prompt_of(response)
        if prompt is None:
            raise InferenceError(
                f"prompt expansion failed: {endpoint.model} wrote no prompt", hint="try another seed or model"
            )
        prompts.append(prompt)
    return prompts


def _endpoint(expansion: Expansion, context: ExpandContext) -> Endpoint:
    settings = context.settings
    return Endpoint(
        url=expansion.backend,
        model=settings.expand_api_model,
        key=settings.expand_api_key,
        timeout_s=settings.expand_timeout_s,
    )


def _ask(
    endpoint: Endpoint,
    template: str,
    expansion: Expansion,
    context: ExpandContext,
    run: Run,
    *,
    seed: int,
    count: int,
) -> str:
    settings = context.settings
    custom = settings.expand_batch_prompt if count > 1 else settings.expand_system_prompt
    style = style_of(expansion.family, settings.expand_families.get(expansion.family))
    options: dict[str, Any] = {"temperature": settings.expand_temperature, "top_p": settings.expand_top_p}
    if settings.expand_thinking:
        options["chat_template_kwargs"] = {"enable_thinking": True}
    return endpoint.ask(
        [
            {"role": "system", "content": fill_template(custom or template, style, count)},
            {"role": "user", "content": expansion.prompt},
        ],
        check=run.check,
        max_tokens=settings.expand_max_tokens * count,
        seed=seed % 2**31,
        **options,
    )
