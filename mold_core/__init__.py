"""mold makes images and video on people's own machines. These are its public names; everything else may change.

Names are imported when they are first used, so that `import mold_core` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mold_core.version import VERSION as __version__

if TYPE_CHECKING:
    from mold_core.catalog import LocalFiles, ModelDefaults, ModelFile, ModelSpec, Vocabulary, read_catalog
    from mold_core.engine import Engine, Job, ModelEntry
    from mold_core.errors import (
        CancelledError,
        ChainError,
        CheckpointError,
        DownloadError,
        DuplicateError,
        InferenceError,
        InsufficientMemoryError,
        MalformedError,
        ModelNotFoundError,
        MoldError,
        OutputError,
        PluginError,
        QueueFullError,
        ResultNotFoundError,
        SettingsError,
        UnknownModelError,
        ValidationError,
    )
    from mold_core.hookspecs import (
        Frames,
        LoadContext,
        ModelFamily,
        Parameter,
        Pipeline,
        Run,
        SizeRules,
        hookimpl,
    )
    from mold_core.media import decode_image
    from mold_core.placement import MemoryPlan, MemoryWishes, ModelPart, plan_memory
    from mold_core.plugins import Plugins, load_plugins
    from mold_core.settings import Settings
    from mold_core.wire import (
        CacheHit,
        ChainRequest,
        ChainResponse,
        ChainStage,
        DenoiseStep,
        DownloadDone,
        DownloadProgress,
        ExpandRequest,
        ExpandResponse,
        GenerateRequest,
        GenerateResponse,
        ImageData,
        Info,
        Keyframe,
        LoraWeight,
        Preview,
        ProgressEvent,
        PullComplete,
        Queued,
        StageDone,
        StageStart,
        TimeRange,
        UpscaleRequest,
        UpscaleResponse,
        VideoData,
        WeightLoad,
    )

_HOMES = {
    "mold_core.catalog": ("LocalFiles", "ModelDefaults", "ModelFile", "ModelSpec", "Vocabulary", "read_catalog"),
    "mold_core.engine": ("Engine", "Job", "ModelEntry"),
    "mold_core.errors": (
        "CancelledError",
        "ChainError",
        "CheckpointError",
        "DownloadError",
        "DuplicateError",
        "InferenceError",
        "InsufficientMemoryError",
        "MalformedError",
        "ModelNotFoundError",
        "MoldError",
        "OutputError",
        "PluginError",
        "QueueFullError",
        "ResultNotFoundError",
        "SettingsError",
        "UnknownModelError",
        "ValidationError",
    ),
    "mold_core.hookspecs": (
        "Frames",
        "LoadContext",
        "ModelFamily",
        "Parameter",
        "Pipeline",
        "Run",
        "SizeRules",
        "hookimpl",
    ),
    "mold_core.media": ("decode_image",),
    "mold_core.placement": ("MemoryPlan", "MemoryWishes", "ModelPart", "plan_memory"),
    "mold_core.plugins": ("Plugins", "load_plugins"),
    "mold_core.settings": ("Settings",),
    "mold_core.wire": (
        "CacheHit",
        "ChainRequest",
        "ChainResponse",
        "ChainStage",
        "DenoiseStep",
        "DownloadDone",
        "DownloadProgress",
        "ExpandRequest",
        "ExpandResponse",
        "GenerateRequest",
        "GenerateResponse",
        "ImageData",
        "Info",
        "Keyframe",
        "LoraWeight",
        "Preview",
        "ProgressEvent",
        "PullComplete",
        "Queued",
        "StageDone",
        "StageStart",
        "TimeRange",
        "UpscaleRequest",
        "UpscaleResponse",
        "VideoData",
        "WeightLoad",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "CacheHit",
    "CancelledError",
    "ChainError",
    "ChainRequest",
    "ChainResponse",
    "ChainStage",
    "CheckpointError",
    "DenoiseStep",
    "DownloadDone",
    "DownloadError",
    "DownloadProgress",
    "DuplicateError",
    "Engine",
    "ExpandRequest",
    "ExpandResponse",
    "Frames",
    "GenerateRequest",
    "GenerateResponse",
    "ImageData",
    "InferenceError",
    "Info",
    "InsufficientMemoryError",
    "Job",
    "Keyframe",
    "LoadContext",
    "LocalFiles",
    "LoraWeight",
    "MalformedError",
    "MemoryPlan",
    "MemoryWishes",
    "ModelDefaults",
    "ModelEntry",
    "ModelFamily",
    "ModelFile",
    "ModelNotFoundError",
    "ModelPart",
    "ModelSpec",
    "MoldError",
    "OutputError",
    "Parameter",
    "Pipeline",
    "PluginError",
    "Plugins",
    "Preview",
    "ProgressEvent",
    "PullComplete",
    "QueueFullError",
    "Queued",
    "ResultNotFoundError",
    "Run",
    "Settings",
    "SettingsError",
    "SizeRules",
    "StageDone",
    "StageStart",
    "TimeRange",
    "UnknownModelError",
    "UpscaleRequest",
    "UpscaleResponse",
    "ValidationError",
    "VideoData",
    "Vocabulary",
    "WeightLoad",
    "__version__",
    "decode_image",
    "hookimpl",
    "load_plugins",
    "plan_memory",
    "read_catalog",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'mold_core' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
