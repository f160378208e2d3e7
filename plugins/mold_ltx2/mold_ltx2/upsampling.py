"""Run the networks that upsample latents in space or time."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from mold_core.families import like_weights
from mold_core.weights import LoadedComponents, check_finite
from mold_ltx2.decoding import Autoencoders
from mold_ltx2.upsampling_files import UpsamplerKind

__all__ = ["Upsamplers"]


class Upsamplers:
    """The upsamplers of a model; each is a component, named by its kind."""

    def __init__(
        self, kinds: Iterable[UpsamplerKind], components: LoadedComponents, autoencoders: Autoencoders
    ) -> None:
        self.kinds = frozenset(kinds)
        self._components = components
        self._autoencoders = autoencoders

    def __contains__(self, kind: object) -> bool:
        return kind in self.kinds

    def apply(self, kind: UpsamplerKind, latents: Tensor) -> Tensor:
        """Return video latents [1, C, F, H, W] upsampled to H·s x W·s, or in time to 2F - 1.

        Both are in the scale of the transformer. Raises KeyError for a kind that the model lacks.
        """
        plain = self._autoencoders.plain(latents)
        with self._components.use(kind, lambda event: None) as network, torch.inference_mode():
            larger = network(like_weights(plain, network)).to(latents.device).float()
            check_finite(f"{kind} upsampler", larger, network=network)
        return self._autoencoders.normalised(larger)
