"""Selects the expander for a prompt expansion request, and runs it."""

from __future__ import annotations

import attrs

from mold_core.catalog import ModelStore, resolve
from mold_core.errors import InferenceError, PluginError
from mold_core.hookspecs import ExpandContext, Expansion, InstalledPlugins, PromptExpander, Run
from mold_core.settings import Settings
from mold_core.wire import ExpandRequest
from mold_core.wire.generate import MAX_PROMPT_BYTES

__all__ = ["Expanding"]


@attrs.frozen(kw_only=True)
class Expanding:
    """A completed ExpandRequest with its expander, and the arguments of the expander."""

    expander: PromptExpander
    expansion: Expansion
    context: ExpandContext

    @classmethod
    def of(
        cls, request: ExpandRequest, settings: Settings, plugins: InstalledPlugins, device: str = "cpu"
    ) -> Expanding:
        """Return it for a completed request, on a device.

        The expander is that of the model, if it has a specific one, else the backend in the settings. Raises
        PluginError if no plugin supports that backend.
        """
        assert request.seed is not None and request.model_family is not None  # the request is completed
        store = ModelStore(settings.models_path)
        context = ExpandContext(
            settings=settings,
            models=plugins.models,
            resolve=lambda name: resolve(name, plugins.models),
            locate=store.locate,
            device=device,
            threads=settings.threads,
            loaders=plugins.loaders,
        )
        specific = resolve(request.model, plugins.models).expander if request.model and settings.expand_own else None
        backend = specific or settings.expand_backend
        expansion = Expansion(
            prompt=request.prompt,
            family=request.model_family,
            variations=request.variations,
            seed=request.seed,
            backend=backend,
        )
        return cls(expander=_expander_for(backend, plugins, context), expansion=expansion, context=context)

    def check(self) -> None:
        """Raise errors that the expander detects before it starts, such as a language model that is not downloaded."""
        self.expander.check(self.expansion, self.context)

    def size_bytes(self) -> int:
        """Return the memory in bytes that the expansion needs on the device."""
        return self.expander.size_bytes(self.expansion, self.context)

    def write(self, run: Run) -> tuple[str, ...]:
        """Return the expanded prompts. Raises InferenceError if the expander returns too few or empty prompts."""
        prompts = tuple(self.expander.expand(self.expansion, self.context, run))
        count = self.expansion.variations
        if len(prompts) != count or not all(isinstance(prompt, str) and prompt.strip() for prompt in prompts):
            raise InferenceError(
                f"the expander {self.expander.name!r} returned {len(prompts)} prompts instead of {count}, or empty ones"
            )
        return tuple(prompt.encode()[:MAX_PROMPT_BYTES].decode("utf-8", "ignore") for prompt in prompts)


def _expander_for(backend: str, plugins: InstalledPlugins, context: ExpandContext) -> PromptExpander:
    expander = plugins.expanders.get(backend)
    if expander is not None:
        return expander
    for expander in plugins.expanders.values():
        if expander.takes(backend, context):
            return expander
    known = ", ".join(plugins.expanders)
    raise PluginError(
        f"no loaded plugin expands prompts with {backend[:80]!r}" if known else "no loaded plugin expands prompts",
        field="expand_backend",
        hint=f"set MOLD_EXPAND_BACKEND to {known}, or a URL" if known else "pip install mold-expand",
    )
