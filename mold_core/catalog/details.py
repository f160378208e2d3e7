"""What a machine reports about its disk: details of models, LoRAs, removals, disk usage, stored chains.

`mold_core.engine.disk_usage.DiskInventory` creates these objects, a server sends them, and commands print them. Paths
are absolute on this machine, and relative to the models folder in responses of a server.
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

    component: str = wire_field("Component of the model that the file belongs to.")
    path: str = wire_field("Path of the file, also if it is not downloaded yet.")
    here: bool = wire_field("Whether the file exists.")
    size_bytes: int = wire_field("Size in bytes, from the catalog, else from the disk, else 0.", default=0)
    repo: str | None = wire_field("Repository that it is downloaded from.", default=None)
    filename: str | None = wire_field("Name in the repository.", default=None)
    sha256: str | None = wire_field("SHA-256 checksum, hexadecimal.", default=None)
    gated: bool = wire_field("Whether the repository requires accepting a licence.", default=False)


@attrs.frozen(kw_only=True)
class PartDetails:
    """A component of a model, such as a text encoder."""

    name: str = wire_field("Name of the component.")
    file: str | None = wire_field("Name of the file that it is loaded from.", default=None)
    device: str = wire_field("Device that it would be placed on.")
    size_bytes: int = wire_field("Bytes of its weights in memory.")
    working_bytes: int = wire_field("Additional bytes needed while it computes.")


@attrs.frozen(kw_only=True)
class MemoryDetails:
    """Whether a model fits into memory, with which strategies, and which one would be used."""

    parts: tuple[PartDetails, ...] = wire_field("Components of the model.")
    room: dict[str, Any] = wire_field("Available bytes, by device.")
    needs: dict[str, Any] = wire_field("Peak memory of each strategy in bytes, by device.")
    fits: dict[str, Any] = wire_field("Whether the model fits into memory, by strategy.")
    chosen: str | None = wire_field("Strategy that would be used; absent if none fits.", default=None)
    problem: str | None = wire_field("Reason why the model does not fit.", default=None)


@attrs.frozen(kw_only=True)
class ModelDetails:
    """Details of a model on a machine."""

    name: str = wire_field("Full name, base:tag.")
    family: str = wire_field("Name of the family that runs it.")
    description: str = wire_field("Description in one line.", default="")
    licence: str | None = wire_field("SPDX name of the licence of the weights.", default=None)
    defaults: ModelDefaults = wire_field("Defaults for requests.", default=ModelDefaults())
    part_of: str | None = wire_field(
        "Family for whose models it is a component; absent for a model that runs by itself.", default=None
    )
    expander: str | None = wire_field("Prompt expander for this model, if it has a specific one.", default=None)
    embedded: bool = wire_field("Whether its files ship with a plugin.", default=False)
    downloaded: bool = wire_field("Whether all its files are downloaded.")
    abilities: tuple[str, ...] = wire_field("What requests can ask of it, such as image-to-image.", default=())
    parameters: tuple[ParameterInfo, ...] = wire_field("Parameters that it accepts.", default=())
    files: tuple[FileDetails, ...] = wire_field("Files of the model.", default=())
    memory: MemoryDetails | None = wire_field("Whether it fits into memory, if its family reports it.", default=None)


@attrs.frozen(kw_only=True)
class LoraFile:
    """A LoRA that requests can use by name."""

    name: str = wire_field("Name of the LoRA.")
    path: str | None = wire_field("Path of its file; servers do not send it.", default=None)
    size_bytes: int = wire_field("Size of its file in bytes.")


@attrs.frozen(kw_only=True)
class RemovedFile:
    """A file that is deleted with a model."""

    path: str = wire_field("Path of the file.")
    size_bytes: int = wire_field("Size in bytes.")


@attrs.frozen(kw_only=True)
class KeptFile:
    """A file that is not deleted with its model."""

    path: str = wire_field("Path of the file.")
    why: str = wire_field("Reason why it is kept.")


@attrs.frozen(kw_only=True)
class Removal:
    """What removing a model deletes and keeps, and how many bytes it frees."""

    model: str = wire_field("Full name of the model.")
    files: tuple[RemovedFile, ...] = wire_field("Files that are deleted.")
    size_bytes: int = wire_field("Bytes that are freed; files with another hard link free none.")
    kept: tuple[KeptFile, ...] = wire_field("Files that are kept.")


@attrs.frozen(kw_only=True)
class ModelUsage:
    """The disk usage of a model."""

    name: str = wire_field("Full name of the model.")
    bytes: int = wire_field("Size of its files in bytes.")


@attrs.frozen(kw_only=True)
class DiskUsage:
    """Disk usage of mold on a machine, in bytes. Servers do not send the paths of folders."""

    models_dir: str | None = wire_field("Folder of model files.", default=None)
    models_dir_bytes: int = wire_field("Size of the models folder in bytes.")
    output_dir: str | None = wire_field("Folder of results.", default=None)
    output_bytes: int = wire_field("Size of the results in bytes; 0 if results are not saved.")
    output_images: int = wire_field("Number of files in the folder of results.")
    cache_bytes: int = wire_field("Size of caches in bytes.")
    logs_bytes: int = wire_field("Size of logs in bytes.")
    jobs_bytes: int = wire_field("Size of jobs and their stored results in bytes.")
    chains_bytes: int = wire_field("Size of stored clips of chains in bytes.")
    loras_bytes: int = wire_field("Size of LoRAs in bytes.")
    models: tuple[ModelUsage, ...] = wire_field("Downloaded models, largest first.")


@attrs.frozen(kw_only=True)
class ChainDetails:
    """A chain stored on disk, complete or not."""

    id: str = wire_field("Id of the chain.")
    model: str = wire_field("Full name of its model.")
    prompt: str = wire_field("Prompt of the first stage.")
    stages: int = wire_field("Number of stages.")
    saved_at: int = wire_field("Time it was started, in seconds since 1970.")
