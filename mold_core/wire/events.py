"""Progress events of jobs, and their JSON form in server-sent events. A local engine yields the same objects."""

from __future__ import annotations

import base64
import re
from collections.abc import Hashable, Mapping
from functools import cache
from typing import Any, TypeAlias

import attrs

from mold_core.wire.chain import (
    ChainDenoiseStep,
    ChainEvent,
    ChainStageDone,
    ChainStageStart,
    ChainStart,
    Stitching,
)
from mold_core.wire.convert import from_json
from mold_core.wire.fields import wire_field

__all__ = [
    "CacheHit",
    "DenoiseStep",
    "DownloadDone",
    "DownloadProgress",
    "Info",
    "Preview",
    "ProgressEvent",
    "PullComplete",
    "Queued",
    "StageDone",
    "StageStart",
    "WeightLoad",
    "event_from_json",
    "event_type",
]


@attrs.frozen(kw_only=True)
class Queued:
    """The job waits in the queue."""

    position: int = wire_field("Position in the queue, from 1; 0 when the job starts.")


@attrs.frozen(kw_only=True)
class StageStart:
    """A stage of the work starts, such as encoding the prompt."""

    name: str = wire_field("Description of the stage.")


@attrs.frozen(kw_only=True)
class StageDone:
    """A stage of the work is done."""

    name: str = wire_field("Name of the stage, as in its stage_start.")
    elapsed_ms: int = wire_field("Duration in milliseconds.")


@attrs.frozen(kw_only=True)
class Info:
    """A message for the user."""

    message: str = wire_field("One sentence.")


@attrs.frozen(kw_only=True)
class CacheHit:
    """A result was reused instead of being computed or fetched again."""

    resource: str = wire_field("What was reused.")


@attrs.frozen(kw_only=True)
class DenoiseStep:
    """A denoising step is done."""

    step: int = wire_field("Number of the step, from 1.")
    total: int = wire_field("Number of steps.")
    elapsed_ms: int = wire_field("Duration of this step in milliseconds.")


@attrs.frozen(kw_only=True)
class Preview:
    """A preview of the image after a denoising step, decoded approximately. Sent only on request."""

    step: int = wire_field("Number of the step, from 1.")
    total: int = wire_field("Number of steps.")
    image: bytes = wire_field("A small JPEG file, in base64.")
    index: int = wire_field("Index of the image in the batch, from 0.", default=0)


@attrs.frozen(kw_only=True)
class WeightLoad:
    """Weights are being read."""

    bytes_loaded: int = wire_field("Bytes read so far.")
    bytes_total: int = wire_field("Bytes to read in total.")
    component: str = wire_field("Component of the model.")


@attrs.frozen(kw_only=True)
class DownloadProgress:
    """A file is being downloaded. `batch_*` counts all files of the pull, including bytes from earlier attempts."""

    filename: str = wire_field("Name of the file.")
    file_index: int = wire_field("Number of the file, from 1.")
    total_files: int = wire_field("Number of files.")
    bytes_downloaded: int = wire_field("Bytes of this file so far.")
    bytes_total: int = wire_field("Size of this file in bytes.")
    batch_bytes_downloaded: int = wire_field("Bytes of all files so far.", default=0)
    batch_bytes_total: int = wire_field("Size of all files in bytes.", default=0)
    batch_elapsed_ms: int = wire_field("Time since the first file started, in milliseconds.", default=0)


@attrs.frozen(kw_only=True)
class DownloadDone:
    """A file is downloaded and verified."""

    filename: str = wire_field("Name of the file.")
    file_index: int = wire_field("Number of the file, from 1.")
    total_files: int = wire_field("Number of files.")
    batch_bytes_downloaded: int = wire_field("Bytes of all files so far.", default=0)
    batch_bytes_total: int = wire_field("Size of all files in bytes.", default=0)
    batch_elapsed_ms: int = wire_field("Time since the first file started, in milliseconds.", default=0)


@attrs.frozen(kw_only=True)
class PullComplete:
    """All files of a model are downloaded."""

    model: str = wire_field("Full name of the model.")


ProgressEvent: TypeAlias = (
    Queued
    | StageStart
    | StageDone
    | Info
    | CacheHit
    | DenoiseStep
    | Preview
    | WeightLoad
    | DownloadProgress
    | DownloadDone
    | PullComplete
    | ChainEvent
)

_CLASSES: tuple[type, ...] = (
    Queued,
    StageStart,
    StageDone,
    Info,
    CacheHit,
    DenoiseStep,
    Preview,
    WeightLoad,
    DownloadProgress,
    DownloadDone,
    PullComplete,
    ChainStart,
    ChainStageStart,
    ChainDenoiseStep,
    ChainStageDone,
    Stitching,
)


def event_type(event: ProgressEvent | type) -> str:
    """Return the `type` of an event in JSON: ``DenoiseStep`` → ``denoise_step``.

    The class attribute `wire_type` overrides it for events that share a type with another one.
    """
    declared: str | None = getattr(event, "wire_type", None)
    if declared is not None:
        return declared
    name = event.__name__ if isinstance(event, type) else type(event).__name__
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def event_to_json(event: ProgressEvent) -> dict[str, object]:
    """Return an event as the JSON object of a server-sent event."""
    word, names = _shape(type(event))  # type: ignore[arg-type]  # classes can be hashed
    return {"type": word, **{name: _plain(getattr(event, name)) for name in names}}


def event_from_json(data: Mapping[str, object]) -> ProgressEvent | None:
    """Return the event that the JSON object of a server-sent event describes, or None for an unknown type.

    If two events share the type, the fields decide. Raises ValidationError for fields that no event of the type has.
    """
    named = _classes_by_type().get(str(data.get("type")), ())
    for cls in named:
        required = (field.name for field in attrs.fields(cls) if field.default is attrs.NOTHING)
        if all(name in data for name in required):
            event: ProgressEvent = from_json(cls, data)
            return event
    return from_json(named[0], data) if named else None  # raises an error that names the missing fields


@cache
def _classes_by_type() -> dict[str, tuple[Any, ...]]:
    found: dict[str, tuple[Any, ...]] = {}
    for cls in _CLASSES:
        found[event_type(cls)] = (*found.get(event_type(cls), ()), cls)
    return found


def _plain(value: object) -> object:
    return base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else value


@cache
def _shape(cls: Hashable) -> tuple[str, tuple[str, ...]]:
    """Return the type and the field names of an event class. Events have no nested objects."""
    assert isinstance(cls, type)
    return event_type(cls), tuple(field.name for field in attrs.fields(cls))
