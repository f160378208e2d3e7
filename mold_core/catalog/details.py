"""What a machine reports about its disk: models in detail, LoRAs, removals, disk usage, chains begun.

`mold_core.engine.disk_usage.DiskInventory` creates these, a server sends them, and commands show them. Paths are
absolute on their own machine, and relative to its models folder in a server's responses.
"""

from __future__ import annotations

from typing import Any

import attrs

from mold_core.catalog.model import ModelDefaults
from mold_core.wire import ParameterInfo
from mold_core.wire.fields import wire_field

__all__ = [
    "ChainDetails",
    "DiskUsage",
    "FileDetails",
    "KeptFile",
    "LoraFile",
    "MemoryDetails",
    "ModelDetails",
    "ModelUsage",
    "PartDetails",
    "Removal",
    "RemovedFile",
]


@attrs.frozen(kw_only=True)
class FileDetails:
    """One file of a model."""

    component: str = wire_field("Role of the file.")
    path: str = wire_field("Where it lies or would lie.")
    here: bool = wire_field("Whether it is there.")
    size_bytes: int = wire_field("Its size, by the catalog or else the disk; 0 where neither tells.", default=0)
    repo: str | None = wire_field("Repository it is fetched from.", default=None)
    filename: str | None = wire_field("Its name there.", default=None)
    sha256: str | None = wire_field("Its checksum.", default=None)
    gated: bool = wire_field("Whether the repository asks for an accepted licence.", default=False)


@attrs.frozen(kw_only=True)
class PartDetails:
    """A part of a model that is loaded as a whole."""

    name: str = wire_field("Its name.")
    file: str | None = wire_field("Name of the file it is loaded from.", default=None)
    device: str = wire_field("Where it would be.")
    size_bytes: int = wire_field("Its weights in memory.")
    working_bytes: int = wire_field("What computing with it takes besides.")


@attrs.frozen(kw_only=True)
class MemoryDetails:
    """Whether a model fits into memory, in which ways, and which one would be taken."""

    parts: tuple[PartDetails, ...] = wire_field("Its parts.")
    room: dict[str, Any] = wire_field("Bytes that it may take, by device.")
    needs: dict[str, Any] = wire_field("Bytes that each strategy takes at most, by device.")
    fits: dict[str, Any] = wire_field("Whether it can be held so, by strategy.")
    chosen: str | None = wire_field("The strategy that would be taken; none where nothing fits.", default=None)
    problem: str | None = wire_field("Why it does not fit.", default=None)


@attrs.frozen(kw_only=True)
class ModelDetails:
    """All that is known of a model on a machine."""

    name: str = wire_field("Full name, base:tag.")
    family: str = wire_field("Family that runs it.")
    description: str = wire_field("One line for people.", default="")
    licence: str | None = wire_field("SPDX name of the licence of the weights.", default=None)
    defaults: ModelDefaults = wire_field("Defaults of requests.", default=ModelDefaults())
    part_of: str | None = wire_field("Family whose models it is a part of, where it is none by itself.", default=None)
    expander: str | None = wire_field("What expands prompts for it, where it has something of its own.", default=None)
    embedded: bool = wire_field("Whether its files come with a plugin.", default=False)
    downloaded: bool = wire_field("Whether all its files are there.")
    abilities: tuple[str, ...] = wire_field("What it can be asked for.", default=())
    parameters: tuple[ParameterInfo, ...] = wire_field("The parameters it takes.", default=())
    files: tuple[FileDetails, ...] = wire_field("Its files.", default=())
    memory: MemoryDetails | None = wire_field("Whether it fits, where its family tells.", default=None)


@attrs.frozen(kw_only=True)
class LoraFile:
    """A LoRA (LoRA) by name."""

    name: str = wire_field("Its name.")
    path: str | None = wire_field("Its file; only the machine itself knows.", default=None)
    size_bytes: int = wire_field("Size of its file.")


@attrs.frozen(kw_only=True)
class RemovedFile:
    """A file that goes with a model."""

    path: str = wire_field("Where it lies.")
    size_bytes: int = wire_field("Its size.")


@attrs.frozen(kw_only=True)
class KeptFile:
    """A file of a removed model that stays."""

    path: str = wire_field("Where it lies.")
    why: str = wire_field("Why it stays, in words.")


@attrs.frozen(kw_only=True)
class Removal:
    """What removing a model deletes, how many bytes that frees, and what stays."""

    model: str = wire_field("Full name of the model.")
    files: tuple[RemovedFile, ...] = wire_field("What goes.")
    size_bytes: int = wire_field("What that frees: less than the sizes where another name keeps the bytes.")
    kept: tuple[KeptFile, ...] = wire_field("What stays.")


@attrs.frozen(kw_only=True)
class ModelUsage:
    """A model and the room it takes."""

    name: str = wire_field("Full name.")
    bytes: int = wire_field("Size of its files.")


@attrs.frozen(kw_only=True)
class DiskUsage:
    """What takes room on the disk. Folders are named only by the machine itself."""

    models_dir: str | None = wire_field("The folder of models.", default=None)
    models_dir_bytes: int = wire_field("What lies in it.")
    output_dir: str | None = wire_field("The folder of results.", default=None)
    output_bytes: int = wire_field("What lies in it; 0 where no results are kept.")
    output_images: int = wire_field("How many files lie in it.")
    cache_bytes: int = wire_field("Caches.")
    logs_bytes: int = wire_field("Logs.")
    jobs_bytes: int = wire_field("Jobs and their results.")
    chains_bytes: int = wire_field("Clips of chains.")
    loras_bytes: int = wire_field("Adapters.")
    models: tuple[ModelUsage, ...] = wire_field("The models that are there, the largest first.")


@attrs.frozen(kw_only=True)
class ChainDetails:
    """A chain that was begun."""

    id: str = wire_field("Its name.")
    model: str = wire_field("Its model.")
    prompt: str = wire_field("The prompt of its first stage.")
    stages: int = wire_field("Stages it has.")
    saved_at: int = wire_field("When it was begun, in seconds since 1970.")
