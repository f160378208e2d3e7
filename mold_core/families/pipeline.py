"""A pipeline of networks that are loaded, kept and freed as a memory plan says."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from mold_core.hookspecs import Pipeline
from mold_core.weights import LoadedComponents, LoraCache, LoraNames

if TYPE_CHECKING:
    from mold_core.hookspecs import Run
    from mold_core.placement.memory_plan import MemoryPlan
    from mold_core.wire import LoraWeight

__all__ = ["ComponentPipeline"]


class ComponentPipeline(Pipeline):
    """All of a pipeline but `generate`.

    `budget_device` is the device whose memory budget the model counts against. `lora_names` maps the names in LoRA
    files to layers; without it, the model takes no LoRAs.
    """

    def __init__(
        self, components: LoadedComponents, *, budget_device: str, lora_names: LoraNames | None = None
    ) -> None:
        self.components = components
        self.loras = None if lora_names is None else LoraCache(lora_names)
        self._budget_device = budget_device

    @property
    def size_bytes(self) -> int:
        """Memory that weights and cached LoRAs take on the device now, in bytes."""
        loras_bytes = 0 if self.loras is None else self.loras.size_bytes
        return self.components.size_bytes(self._budget_device) + loras_bytes

    @property
    def peak_bytes(self) -> int:
        """The most that weights and computing take on the device during a job, in bytes."""
        return self.components.plan.peak_bytes(self._budget_device)

    def replan(self, plan: MemoryPlan) -> None:
        """Keep memory free for larger requests from now on."""
        self.components.plan = plan

    def close(self) -> None:
        """Free the weights."""
        if self.loras is not None:
            self.loras.clear()
        self.components.close()

    def text_variant(self, loras: Sequence[LoraWeight]) -> Hashable:
        """Return what tells apart prompts that are encoded with different LoRAs: () if none is for a text encoder."""
        return () if self.loras is None else self.loras.text_variant(loras)

    @contextmanager
    def network(
        self, name: str, run: Run, *, loras: Sequence[LoraWeight] = (), dtype: torch.dtype | None = None
    ) -> Iterator[Any]:
        """Provide a network during the block, with LoRAs beside its layers that compute in `dtype`."""
        with self.components.use(name, run.report) as network:
            if self.loras is None:
                yield network
                return
            device = self.components.plan.component(name).device
            dtype = dtype or next(network.parameters()).dtype
            with self.loras.attached(name, network, loras, run, dtype=dtype, device=device):
                yield network
