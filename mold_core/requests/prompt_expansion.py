"""Which expander writes the prompts of a request, and what it is given to do so."""

from __future__ import annotations

import attrs

from mold_core.catalog import ModelStore, resolve
from mold_core.errors import InferenceError, PluginError
from mold_core.hookspecs import ExpandContext, Expansion, PromptExpander, Run
from mold_core.plugins import Plugins
from mold_core.settings import Settings
from mold_core.wire import ExpandRequest
from mold_core.wire.generate import MAX_PROMPT_BYTES

__all__ = ["Expanding"]


@attrs.frozen(kw_only=True)
class Expanding:
    """The work of one complete ExpandRequest: what the expander is asked, and what it has at hand."""

    expander: PromptExpander
    expansion: Expansion
    context: ExpandContext

    @classmethod
    def of(cls, request: ExpandRequest, settings: Settings, plugins: Plugins, device: str = "cpu") -> Expanding:
        """Return it for a complete request, on a device.

        A model with an expander of its own is served by that, others by the backend of the settings. Raises
        PluginError where no plugin knows that backend.
        """
        assert request.seed is not None and request.model_family is not None  # the request is complete
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
        own = resolve(request.model, plugins.models).expander if request.model and settings.expand_own else None
        backend = own or settings.expand_backend
        expansion = Expansion(
            prompt=request.prompt,
            family=request.model_family,
            variations=request.variations,
            seed=request.seed,
            backend=backend,
        )
        return cls(expander=_expander_for(backend, plugins, context), expansion=expansion, context=context)

    def check(self) -> None:
        """Raise what the expander can tell before it begins, such as a language model that is not here."""
        self.expander.check(self.expansion, self.context)

    def size_bytes(self) -> int:
        """Return the memory it takes on the device while it lasts."""
        return self.expander.size_bytes(self.expansion, self.context)

    def write(self, run: Run) -> tuple[str, ...]:
        """Return the prompts. Raises InferenceError for an expander that does not do what it must."""
        prompts = tuple(self.expander.expand(self.expansion, self.context, run))
        wanted = self.expansion.variations
        if len(prompts) != wanted or not all(isinstance(prompt, str) and prompt.strip() for prompt in prompts):
            raise InferenceError(
                f"expander {self.expander.name!r} wrote {len(prompts)} prompts for {wanted}, or empty ones: a fault"
            )
        return tuple(prompt.encode()[:MAX_PROMPT_BYTES].decode("utf-8", "ignore") for prompt in prompts)


def _expander_for(backend: str, plugins: Plugins, context: ExpandContext) -> PromptExpander:
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
        hint=f"MOLD_EXPAND_BACKEND may be {known}, or an address" if known else "pip install mold-expand",
    )
