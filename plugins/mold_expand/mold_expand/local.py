"""The expander `local`: a Qwen3 model of the catalog, loaded for each call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mold_core import (
    InferenceError,
    ModelNotFoundError,
    PromptExpander,
    UnknownModelError,
    ValidationError,
)
from mold_core.families import stage
from mold_expand.choosing import faults
from mold_expand.instructions import SINGLE, fill_template, style_of
from mold_expand.responses import prompt_of

if TYPE_CHECKING:
    from mold_core import ExpandContext, Expansion, LocalFiles, ModelSpec, Run
    from mold_expand.chat import Chat
    from mold_expand.qwen3 import Qwen3
    from mold_expand.writing import Sampling

__all__ = ["LocalExpander"]

FAMILY = "qwen3-expand"
_NEXT_ATTEMPT = 0x9E3779B9  # changes the seed for another attempt, far from the seeds of other variations
_EMPTY = 1_000_000
_MAX_PROMPT_TOKENS = 4096  # with the instructions, far below the length that Qwen3 was trained on


class LocalExpander(PromptExpander):
    """Writes prompts with a language model on this machine.

    A model's ``options`` may have ``instructions = false`` (it was trained to write prompts and gets no system prompt),
    ``sampling``, a table of temperature, top_p, top_k and max_tokens that precede the settings, and ``tries``: the
    attempts to write a prompt that repeats nothing and has all words of the idea that are in the model's vocabulary.
    """

    name = "local"
    model_families = frozenset({FAMILY})

    def takes(self, backend: str, context: ExpandContext) -> bool:
        """Return whether a backend is "local" or a language model of the catalog."""
        return backend == self.name or self._find(backend, context) is not None

    def check(self, expansion: Expansion, context: ExpandContext) -> None:
        """Raise ValidationError if the language model is not downloaded."""
        self._files(self._spec(expansion, context), context)

    def size_bytes(self, expansion: Expansion, context: ExpandContext) -> int:
        """Return the memory that writing takes: the size of the files."""
        return self._files(self._spec(expansion, context), context).size_bytes()

    def expand(self, expansion: Expansion, context: ExpandContext, run: Run) -> list[str]:
        """Return the prompts. The model is loaded for the call and freed afterwards."""
        from mold_expand.chat import Chat
        from mold_expand.checkpoints import load_qwen3
        from mold_expand.computing import precision_of, threads_for

        spec = self._spec(expansion, context)
        files = self._files(spec, context)
        with stage(run, f"Expanding with {spec.name}"):
            chat = Chat(files.one("text_tokenizer"))
            ids = _question(chat, spec, expansion, context)
            model = load_qwen3(
                files.one("transformer"),
                context.device,
                precision_of(context.device),
                context.loaders,
                compile=context.settings.compile,
                cache_dir=context.settings.home / "cache",
            )
            with threads_for(model, context):
                prompts = _prompts(model, chat, ids, spec, expansion, context, run)
        if not all(prompts):
            raise InferenceError(
                f"prompt expansion failed: {spec.name} wrote nothing",
                hint="try another seed, or raise MOLD_EXPAND_MAX_TOKENS",
            )
        return [prompt for prompt in prompts if prompt]

    def _spec(self, expansion: Expansion, context: ExpandContext) -> ModelSpec:
        name = context.settings.expand_model if expansion.backend == self.name else expansion.backend
        spec = self._find(name, context)
        if spec is None:
            known = [one.name for one in context.models.values() if one.family in self.model_families]
            raise ValidationError(
                f"{name!r} is no language model that writes prompts",
                field="expand_model",
                value=name,
                hint=f"set MOLD_EXPAND_MODEL to one of {', '.join(known)}",
            )
        return spec

    def _find(self, name: str, context: ExpandContext) -> ModelSpec | None:
        """Return the language model of a name; None if it is not one."""
        try:
            spec = context.resolve(name)
        except UnknownModelError:
            return None
        return spec if spec.family in self.model_families else None

    def _files(self, spec: ModelSpec, context: ExpandContext) -> LocalFiles:
        try:
            return context.locate(spec)
        except ModelNotFoundError as error:
            raise ValidationError(
                f"expansion needs the language model {spec.name}, which is not downloaded",
                field="expand",
                hint=f"mold pull {spec.name} fetches it ({spec.size_bytes / 1e9:.1f} GB); or set MOLD_EXPAND_BACKEND "
                "to the address of an OpenAI-compatible server",
            ) from error


def _prompts(
    model: Qwen3,
    chat: Chat,
    ids: list[int],
    spec: ModelSpec,
    expansion: Expansion,
    context: ExpandContext,
    run: Run,
) -> list[str | None]:
    """Return the prompts. A model with ``tries`` in its options writes prompts with faults again, up to that number."""
    from mold_expand.writing import write

    sampling, max_tokens = _sampling(spec, context)
    tries = spec.options.get("tries", 1)
    words = frozenset(spec.vocabulary.words) if spec.vocabulary else frozenset()
    best: dict[int, tuple[int, str | None]] = {}
    for attempt in range(tries):
        numbers = [number for number in range(expansion.variations) if best.get(number, (1, None))[0]]
        if not numbers:
            break
        responses = write(
            model,
            ids,
            seeds=[(expansion.seed + number) % 2**64 ^ attempt * _NEXT_ATTEMPT for number in numbers],
            max_tokens=max_tokens,
            stop=chat.stop,
            sampling=sampling,
            check=run.check,
        )
        for number, response in zip(numbers, responses, strict=True):
            prompt = prompt_of(chat.text(response))
            count = faults(expansion.prompt, prompt, words) if prompt and tries > 1 else 0 if prompt else _EMPTY
            if number not in best or count < best[number][0]:
                best[number] = (count, prompt)
    return [best[number][1] for number in range(expansion.variations)]


def _question(chat: Chat, spec: ModelSpec, expansion: Expansion, context: ExpandContext) -> list[int]:
    settings = context.settings
    if spec.options.get("instructions", True):
        style = style_of(expansion.family, settings.expand_families.get(expansion.family))
        system = fill_template(settings.expand_system_prompt or SINGLE, style, 1)
        ids = chat.ask(expansion.prompt, system, thinking=settings.expand_thinking)
    else:
        ids = chat.ask(expansion.prompt)
    if len(ids) > _MAX_PROMPT_TOKENS:
        raise ValidationError(
            f"prompt is too long to be expanded: {len(ids):,} tokens with the instructions, of {_MAX_PROMPT_TOKENS:,}",
            field="prompt",
            hint="it needs no expansion, or shorten it",
        )
    return ids


def _sampling(spec: ModelSpec, context: ExpandContext) -> tuple[Sampling, int]:
    from mold_expand.writing import Sampling

    settings = context.settings
    custom: Mapping[str, Any] = spec.options.get("sampling", {})
    sampling = Sampling(
        temperature=custom.get("temperature", settings.expand_temperature),
        top_p=custom.get("top_p", settings.expand_top_p),
        top_k=custom.get("top_k", settings.expand_top_k),
    )
    return sampling, custom.get("max_tokens", settings.expand_max_tokens)
