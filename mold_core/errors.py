"""Every error mold raises on purpose, as one tree.

    MoldError                     INTERNAL_ERROR       500   exit 1
    ├── ValidationError           VALIDATION_ERROR     422   exit 2   a field has a value that cannot be used
    │   └── MalformedError        BAD_REQUEST          400   exit 2   the text is not JSON, TOML, … at all
    ├── SettingsError             SETTINGS_ERROR       500   exit 2   a flag, variable or config.toml entry is wrong
    ├── UnknownModelError         UNKNOWN_MODEL        400   exit 1   no plugin knows the name
    ├── ModelNotFoundError        MODEL_NOT_FOUND      404   exit 1   the name is known, its files are not here
    ├── CheckpointError           CHECKPOINT_ERROR     500   exit 1   a weight file is damaged or of another model
    ├── DownloadError             DOWNLOAD_ERROR       502   exit 1   a file of a model could not be fetched
    ├── InsufficientMemoryError   INSUFFICIENT_MEMORY  503   exit 1   the model does not fit
    ├── QueueFullError            QUEUE_FULL           503   exit 1
    ├── InferenceError            INFERENCE_ERROR      500   exit 1   a plugin failed while it made the image
    │   └── WorkerError           WORKER_DIED          500   exit 1   the process that ran the job died
    ├── ChainError                CHAIN_FAILED         502   exit 1   a clip failed; those before it are kept
    ├── JobNotFoundError          JOB_NOT_FOUND        404   exit 1   no job has the id, or it is no longer kept
    ├── OutputError               OUTPUT_ERROR         500   exit 1   a result could not be written
    │   └── InsufficientStorageError  INSUFFICIENT_STORAGE 507 exit 1  the disk has no room to keep a job
    ├── ResultNotFoundError       RESULT_NOT_FOUND     404   exit 1   the gallery has nothing of that name
    ├── PluginError               PLUGIN_ERROR         500   exit 1   a plugin cannot be used
    │   └── DuplicateError        DUPLICATE            500   exit 1   two plugins claim one name
    ├── ServerError               SERVER_ERROR         502   exit 1   a server refused what it was asked for
    │   └── UnreachableError      UNREACHABLE          502   exit 1   there is no server, or it was lost
    └── CancelledError            CANCELLED            409   exit 130

The message is one sentence for the person who caused it: what was asked, what is possible, what to do next.

Each error has that sentence twice. The private one, `str(error)`, is for the owner of the machine: the command line,
the library, the log. The public one, `public_text`, is what a server sends. They differ in the parts that are given
beside the message, as in ``CheckpointError("%s: %s", path, error)``: a path is public as its last name, an exception of
others as its type. So a sentence never holds the text of a path or of a foreign exception itself.
"""

from __future__ import annotations

import os
from pathlib import PurePath

__all__ = [
    "CancelledError",
    "ChainError",
    "CheckpointError",
    "DownloadError",
    "DuplicateError",
    "InferenceError",
    "InsufficientMemoryError",
    "InsufficientStorageError",
    "JobNotFoundError",
    "MalformedError",
    "ModelNotFoundError",
    "MoldError",
    "OutputError",
    "PluginError",
    "QueueFullError",
    "ResultNotFoundError",
    "ServerError",
    "SettingsError",
    "UnknownModelError",
    "UnreachableError",
    "ValidationError",
    "WorkerError",
]


class MoldError(Exception):
    """The root. `code` travels on the wire, `http_status` and `exit_status` are what servers and the CLI answer with.

    `message` is the sentence, with a ``%s`` for each of `parts` where there are any. `field` is the path of the culprit
    (``loras[1].scale``), `value` what it held, `hint` the way out, `local_hint` one that only somebody at the machine
    can take and that may name its folders; all optional, and all already part of the sentence that `str()` gives.
    """

    code = "INTERNAL_ERROR"
    http_status = 500
    exit_status = 1

    def __init__(
        self,
        message: str,
        *parts: object,
        field: str | None = None,
        value: object = None,
        hint: str | None = None,
        local_hint: str | None = None,
    ) -> None:
        self.message = message % tuple(map(_private, parts)) if parts else message
        self.public_message = message % tuple(map(_public, parts)) if parts else message
        super().__init__(self.message)
        self.hides = any(map(_hides, parts))
        self.field = field
        self.value = value
        self.hint = hint
        self.local_hint = local_hint

    def __str__(self) -> str:
        return "; ".join(filter(None, (self.message, self.hint, self.local_hint)))

    @property
    def public_text(self) -> str:
        """What may leave the machine: no absolute path, no words of a foreign exception."""
        more = "the server's log has the details" if self.hides else None
        return "; ".join(filter(None, (self.public_message, more, self.hint)))

    def __reduce__(self) -> tuple[object, ...]:
        # NOTE: exceptions with keyword-only arguments do not pickle by themselves; workers in other processes need it.
        return _rebuild, (type(self), self.args, self.__dict__)

    def to_json(self) -> dict[str, str]:
        """Return the error envelope of the HTTP API, which holds what is public."""
        return {"error": self.public_text, "code": self.code}


def _private(part: object) -> str:
    """Return a part of a message as the owner of the machine reads it."""
    if isinstance(part, MoldError):
        return part.message
    if isinstance(part, OSError) and part.strerror:
        return part.strerror
    return f"{type(part).__name__}: {_words(part)}" if isinstance(part, BaseException) else str(part)


def _public(part: object) -> str:
    """Return a part of a message as everyone may read it."""
    if isinstance(part, MoldError):
        return part.public_message
    if isinstance(part, OSError) and part.errno:
        return os.strerror(part.errno)
    if isinstance(part, BaseException):
        return type(part).__name__
    return (part.name or "a folder") if isinstance(part, PurePath) else str(part)


def _hides(part: object) -> bool:
    """Say whether the public form of a part leaves out what somebody who looks for a fault needs."""
    if isinstance(part, MoldError):
        return part.hides
    return isinstance(part, BaseException) and not isinstance(part, OSError)


def _words(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # also that is foreign code
        return "it cannot say why"


def _rebuild(cls: type[MoldError], args: tuple[object, ...], state: dict[str, object]) -> MoldError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(state)
    error.args = args
    return error


class ValidationError(MoldError):
    """A value that cannot be used. `problems` lists every one found, each starting with its path."""

    code = "VALIDATION_ERROR"
    http_status = 422
    exit_status = 2

    def __init__(
        self,
        message: str,
        *parts: object,
        field: str | None = None,
        value: object = None,
        hint: str | None = None,
        local_hint: str | None = None,
        problems: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, *parts, field=field, value=value, hint=hint, local_hint=local_hint)
        self.problems = problems or (self.public_message,)


class MalformedError(ValidationError):
    """Text that cannot be parsed at all."""

    code = "BAD_REQUEST"
    http_status = 400


class SettingsError(MoldError):
    """A setting with a value that cannot be used; the message says where the value came from."""

    code = "SETTINGS_ERROR"
    exit_status = 2


class UnknownModelError(MoldError):
    """A model name that no installed plugin brings."""

    code = "UNKNOWN_MODEL"
    http_status = 400


class ModelNotFoundError(MoldError):
    """A known model whose files are not on this machine."""

    code = "MODEL_NOT_FOUND"
    http_status = 404


class CheckpointError(MoldError):
    """A weight file that is damaged, incomplete or made for another model."""

    code = "CHECKPOINT_ERROR"


class DownloadError(MoldError):
    """A file of a model that could not be fetched, or is not the one the catalog means."""

    code = "DOWNLOAD_ERROR"
    http_status = 502


class InsufficientMemoryError(MoldError):
    """A model that does not fit in the memory of the device."""

    code = "INSUFFICIENT_MEMORY"
    http_status = 503


class QueueFullError(MoldError):
    """More jobs than the queue may hold."""

    code = "QUEUE_FULL"
    http_status = 503


class InferenceError(MoldError):
    """A plugin failed during its work; the cause is chained."""

    code = "INFERENCE_ERROR"


class WorkerError(InferenceError):
    """A worker process that died while it ran the job."""

    code = "WORKER_DIED"


class JobNotFoundError(MoldError):
    """A job that never was, or that is no longer kept."""

    code = "JOB_NOT_FOUND"
    http_status = 404


class ChainError(MoldError):
    """A clip of a chain that failed; the message says which, what is kept and how to go on from it."""

    code = "CHAIN_FAILED"
    http_status = 502


class OutputError(MoldError):
    """A result that could not be written."""

    code = "OUTPUT_ERROR"


class InsufficientStorageError(OutputError):
    """No room on the disk for what a job would make; nothing was computed."""

    code = "INSUFFICIENT_STORAGE"
    http_status = 507


class ResultNotFoundError(MoldError):
    """A name that the gallery does not have, or whose file is gone."""

    code = "RESULT_NOT_FOUND"
    http_status = 404


class PluginError(MoldError):
    """A plugin that cannot be used."""

    code = "PLUGIN_ERROR"


class DuplicateError(PluginError):
    """Two plugins that claim the same name; the message names both owners."""

    code = "DUPLICATE"


class CancelledError(MoldError):
    """A job that was cancelled."""

    code = "CANCELLED"
    http_status = 409
    exit_status = 130


class ServerError(MoldError):
    """What a server answered that is no error of an engine: no key, too often, not allowed, not understood.

    `code` is the server's own word where it had one.
    """

    code = "SERVER_ERROR"
    http_status = 502


class UnreachableError(ServerError):
    """A server that is not there or was lost. `refused`: nothing listens at its address."""

    code = "UNREACHABLE"

    refused = False
