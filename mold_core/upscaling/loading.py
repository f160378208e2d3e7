"""Load the network of an upscaler file by the architecture that recognises it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mold_core.errors import CheckpointError
from mold_core.hookspecs import LoadContext, UpscalerArchitecture, UpscalerNetwork
from mold_core.weights import open_weights

__all__ = ["COMPONENT", "FAMILY", "load_network"]

# The family of upscalers in the catalog, and the component name of their only file.
FAMILY = "upscaler"
COMPONENT = "upscaler"


def load_network(path: Path, architectures: Iterable[UpscalerArchitecture], context: LoadContext) -> UpscalerNetwork:
    """Return the network in a file, loaded by the first architecture that recognises its tensors.

    Raises CheckpointError naming the path for a file that no architecture recognises or that is damaged.
    """
    tensors = open_weights(path, context.loaders)
    known = list(architectures)
    for architecture in known:
        if architecture.recognises(tensors):
            try:
                return architecture.load(tensors, context)
            except CheckpointError as error:
                raise CheckpointError("%s: %s", path, error, hint=error.hint) from None
    names = ", ".join(architecture.name for architecture in known) or "none"
    raise CheckpointError(
        "%s: no upscaler architecture recognises these tensors, the first of which is %r",
        path,
        next(iter(tensors), "missing"),
        hint=f"loaded plugins bring: {names}",
    )
