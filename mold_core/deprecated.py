"""The old spellings of public names, for plugins and clients written against mold 0.1. Nothing else uses them.

Each use warns with a DeprecationWarning that gives the new name. A package whose names changed asks `old_name` from its
module-level ``__getattr__``; a class or function whose members or arguments changed has a decorator.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any, ClassVar, ParamSpec, TypeVar

__all__ = [
    "CLIP_RULES",
    "MEMBERS",
    "NAMES",
    "VerbWorker",
    "old_name",
    "renamed_arguments",
    "renamed_fields",
    "warn_renamed",
]

_Class = TypeVar("_Class", bound=type)
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

# Names of packages: package → old name → new name.
NAMES: dict[str, dict[str, str]] = {
    "mold_core": {
        "Film": "DecodedClip",
        "MemoryWishes": "MemoryPolicy",
        "ModelPart": "ModelComponent",
    },
    "mold_core.hookspecs": {"Film": "DecodedClip"},
    "mold_core.weights": {
        "Adapter": "Lora",
        "AdapterNames": "LoraNames",
        "AdapterShelf": "LoraCache",
        "LoadedParts": "LoadedComponents",
        "PartLoader": "ComponentLoader",
        "PartSizes": "ComponentSizes",
        "adapted": "with_loras_applied",
        "dequantise": "dequantize",
        "fill": "load_weights",
        "read_adapter": "read_lora",
        "unfilled": "empty_modules",
    },
}

# Members of the objects that plugins return: protocol → new name → old name.
MEMBERS: dict[str, dict[str, str]] = {
    "ModelFamily": {"components": "parts", "placement_components": "places", "resolve_inputs": "fitted"},
}

# What mold 0.1 assumed of every chain renderer; renderers declare these now.
CLIP_RULES: dict[str, int] = {"frame_stride": 8, "default_clip_frames": 97, "max_clip_frames": 97}


def old_name(package: str, name: str) -> Any:
    """Return the object that a package has under a new name. Raises AttributeError for an unknown name."""
    new = NAMES[package].get(name)
    if new is None:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    warn_renamed(f"{package}.{name}", new)
    return getattr(import_module(package), new)


def warn_renamed(old: str, new: str, stacklevel: int = 4) -> None:
    """Warn that a name is deprecated."""
    warnings.warn(f"{old} is called {new} since mold 0.2", DeprecationWarning, stacklevel=stacklevel)


def renamed_arguments(**new_names: str) -> Callable[[Callable[_Arguments, _Result]], Callable[_Arguments, _Result]]:
    """Return a decorator that accepts keyword arguments under their old names, given as ``old="new"``."""

    def decorate(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
        @wraps(function)
        def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
            for old in new_names.keys() & kwargs.keys():
                owner = function.__qualname__.removesuffix(".__init__")
                warn_renamed(f"argument {old!r} of {owner}", new_names[old], stacklevel=3)
                kwargs[new_names[old]] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate


def renamed_fields(**new_names: str) -> Callable[[_Class], _Class]:
    """Return a class decorator that accepts old names of fields and methods, also as arguments of the class."""

    def decorate(cls: _Class) -> _Class:
        setattr(cls, "__init__", renamed_arguments(**new_names)(vars(cls)["__init__"]))  # noqa: B010
        for old, new in new_names.items():
            setattr(cls, old, _alias(f"{cls.__name__}.{old}", new))
        return cls

    return decorate


def _alias(old: str, new: str) -> property:
    def read(self: object) -> Any:
        warn_renamed(old, new, stacklevel=3)
        return getattr(self, new)

    return property(read, doc=f"The old name of `{new}`.")


class VerbWorker:
    """Adapts a worker with the methods of mold 0.1 to `run(task, run)`."""

    # Class of task → method, and the fields of the task that are its arguments.
    _VERBS: ClassVar[dict[str, tuple[str, tuple[str, ...]]]] = {
        "GenerateTask": ("generate", ("spec", "requests")),
        "RenderClipTask": ("render_clip", ("spec", "work")),
        "EncodeClipTask": ("encode_clip", ("spec", "work")),
        "ExpandTask": ("expand", ("request",)),
        "UpscaleTask": ("upscale", ("spec", "request")),
    }

    def __init__(self, worker: Any) -> None:
        object.__setattr__(self, "_worker", worker)
        warn_renamed("a worker's verb generate, expand, …", "run(task, run)")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._worker, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._worker, name, value)

    def run(self, task: Any, run: Any) -> Any:
        """Call the method for a task. Raises TypeError for a task that mold 0.1 did not have."""
        if type(task).__name__ not in self._VERBS:
            raise TypeError(f"a worker for mold 0.1 cannot run a {type(task).__name__}; it needs run(task, run)")
        verb, fields = self._VERBS[type(task).__name__]
        options = {"beside": task.meanwhile} if verb == "render_clip" else {}
        return getattr(self._worker, verb)(*(getattr(task, field) for field in fields), run, **options)
