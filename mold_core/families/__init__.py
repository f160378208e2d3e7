"""What model families share, for plugins that add one.

- `planned_components`, `EmptyComponent`: load networks where and how the memory plan says.
- `ComponentPipeline`: a pipeline whose networks are loaded, kept and freed like that, with LoRAs.
- `stage`, `StepReporter`: report progress, and stop when the job is cancelled.
- `compute_threads`, `sizes_from_options`, `required`: the number of threads, the sizes of a model, complete requests.
- `images_from_pixels`, `pixels_from_images`, `like_weights`, `to_channels_last`, `seeded_generator`: tensors.
- `RecentValues`: a small cache.

`mold_core.weights` has what computes with weights: the dtype of a device (`fast_dtype`), tensors in files
(`read_weights`), and checks for numbers that are not finite (`check_finite`). torch is imported by the first use of a
name that needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mold_core.families.recent import RecentValues
from mold_core.families.requests import required, sizes_from_options
from mold_core.families.stages import StepReporter, stage
from mold_core.families.threads import compute_threads

if TYPE_CHECKING:
    from mold_core.families.loading import EmptyComponent, load_resident, memory_plan, planned_components
    from mold_core.families.pipeline import ComponentPipeline
    from mold_core.families.tensors import (
        images_from_pixels,
        like_weights,
        pixels_from_images,
        seeded_generator,
        to_channels_last,
    )

__all__ = [
    "ComponentPipeline",
    "EmptyComponent",
    "RecentValues",
    "StepReporter",
    "compute_threads",
    "images_from_pixels",
    "like_weights",
    "load_resident",
    "memory_plan",
    "pixels_from_images",
    "planned_components",
    "required",
    "seeded_generator",
    "sizes_from_options",
    "stage",
    "to_channels_last",
]

_WITH_TORCH = {
    "ComponentPipeline": "pipeline",
    "EmptyComponent": "loading",
    "images_from_pixels": "tensors",
    "like_weights": "tensors",
    "load_resident": "loading",
    "memory_plan": "loading",
    "pixels_from_images": "tensors",
    "planned_components": "loading",
    "seeded_generator": "tensors",
    "to_channels_last": "tensors",
}


def __getattr__(name: str) -> Any:
    if name not in _WITH_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"mold_core.families.{_WITH_TORCH[name]}"), name)
