"""What happens while a job runs, as typed events: the same from a local engine, another process or over SSE."""

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
    """The job waits; `position` counts from 1, and 0 says that its turn has come."""

    position: int = wire_field("Place in the queue.")


@attrs.frozen(kw_only=True)
class StageStart:
    """A named part of the work begins."""

    name: str = wire_field("What is being done, for people.")


@attrs.frozen(kw_only=True)
class StageDone:
    """A named part of the work is done."""

    name: str = wire_field("The name that its start carried.")
    elapsed_ms: int = wire_field("Duration in milliseconds.")


@attrs.frozen(kw_only=True)
class Info:
    """Something the person should know."""

    message: str = wire_field("One sentence.")


@attrs.frozen(kw_only=True)
class CacheHit:
    """Work that was not needed because its result was still there."""

    resource: str = wire_field("What was reused.")


@attrs.frozen(kw_only=True)
class DenoiseStep:
    """One denoising step is done."""

    step: int = wire_field("Number of the step, from 1.")
    total: int = wire_field("Steps in all.")
    elapsed_ms: int = wire_field("Duration of this step in milliseconds.")


@attrs.frozen(kw_only=True)
class Preview:
    """What the image is going to look like, as far as can be told after a step. Sent only when asked for."""

    step: int = wire_field("Number of the step, from 1.")
    total: int = wire_field("Steps in all.")
    image: bytes = wire_field("A small JPEG file; on the wire in base64.")
    index: int = wire_field("Place of the image in the batch, from 0.", default=0)


@attrs.frozen(kw_only=True)
class WeightLoad:
    """Weights are being read."""

    bytes_loaded: int = wire_field("Bytes so far.")
    bytes_total: int = wire_field("Bytes in all.")
    component: str = wire_field("Which part of the model.")


@attrs.frozen(kw_only=True)
class DownloadProgress:
    """A file is coming in; `batch_*` counts all files together that this pull fetches, also what came earlier."""

    filename: str = wire_field("File being fetched.")
    file_index: int = wire_field("Its number, from 1.")
    total_files: int = wire_field("Files in all.")
    bytes_downloaded: int = wire_field("Bytes of this file so far.")
    bytes_total: int = wire_field("Bytes of this file.")
    batch_bytes_downloaded: int = wire_field("Bytes of all files so far.", default=0)
    batch_bytes_total: int = wire_field("Bytes of all files.", default=0)
    batch_elapsed_ms: int = wire_field("Since the first file began, in milliseconds.", default=0)


@attrs.frozen(kw_only=True)
class DownloadDone:
    """A file has come in and was verified."""

    filename: str = wire_field("The file.")
    file_index: int = wire_field("Its number, from 1.")
    total_files: int = wire_field("Files in all.")
    batch_bytes_downloaded: int = wire_field("Bytes of all files so far.", default=0)
    batch_bytes_total: int = wire_field("Bytes of all files.", default=0)
    batch_elapsed_ms: int = wire_field("Since the first file began, in milliseconds.", default=0)


@attrs.frozen(kw_only=True)
class PullComplete:
    """All files of a model are here."""

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
    """Return the `type` an event carries on the wire: ``DenoiseStep`` → ``denoise_step``.

    A class attribute `wire_type` says it where two events share one name there.
    """
    own: str | None = getattr(event, "wire_type", None)
    if own is not None:
        return own
    name = event.__name__ if isinstance(event, type) else type(event).__name__
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def event_to_json(event: ProgressEvent) -> dict[str, object]:
    """Return an event as the JSON object that SSE carries."""
    word, names = _shape(type(event))  # type: ignore[arg-type]  # classes can be hashed
    return {"type": word, **{name: _plain(getattr(event, name)) for name in names}}


def event_from_json(data: Mapping[str, object]) -> ProgressEvent | None:
    """Return the event that a JSON object of SSE describes; None for one of a type that is not known here.

    Of two events with one type it is the one that can be made of the fields. Raises ValidationError for fields that no
    event of the type has.
    """
    named = _classes_by_type().get(str(data.get("type")), ())
    for cls in named:
        required = (field.name for field in attrs.fields(cls) if field.default is attrs.NOTHING)
        if all(name in data for name in required):
            event: ProgressEvent = from_json(cls, data)
            return event
    return from_json(named[0], data) if named else None  # which says what is missing


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
    """Return the type word and the fields of a class of events, which are flat."""
    assert isinstance(cls, type)
    return event_type(cls), tuple(field.name for field in attrs.fields(cls))
