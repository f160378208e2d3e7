"""Every error that mold raises on purpose, as one tree.

    MoldError                     INTERNAL_ERROR       500   exit 1
    ├── ValidationError           VALIDATION_ERROR     422   exit 2   a field has a value that cannot be used
    │   └── MalformedError        BAD_REQUEST          400   exit 2   the text is not JSON, TOML, … at all
    ├── SettingsError             SETTINGS_ERROR       500   exit 2   a flag, variable or config.toml entry is wrong
    ├── UnknownModelError         UNKNOWN_MODEL        400   exit 1   no plugin knows the name
    ├── ModelNotFoundError        MODEL_NOT_FOUND      404   exit 1   the model is not downloaded
    ├── CheckpointError           CHECKPOINT_ERROR     500   exit 1   a weight file is damaged or of another model
    ├── DownloadError             DOWNLOAD_ERROR       502   exit 1   a file of a model could not be downloaded
    ├── InsufficientMemoryError   INSUFFICIENT_MEMORY  503   exit 1   the model does not fit
    ├── QueueFullError            QUEUE_FULL           503   exit 1
    ├── InferenceError            INFERENCE_ERROR      500   exit 1   a plugin failed while it generated the image
    │   └── WorkerError           WORKER_DIED          500   exit 1   the process that ran the job died
    ├── ChainError                CHAIN_FAILED         502   exit 1   a clip failed; finished clips are kept
    ├── JobNotFoundError          JOB_NOT_FOUND        404   exit 1   the id is unknown, or the job has expired
    ├── OutputError               OUTPUT_ERROR         500   exit 1   a result could not be written
    │   └── InsufficientStorageError  INSUFFICIENT_STORAGE 507 exit 1  too little disk space to store a job
    ├── ResultNotFoundError       RESULT_NOT_FOUND     404   exit 1   the gallery has no result with the name
    ├── PluginError               PLUGIN_ERROR         500   exit 1   a plugin cannot be used
    │   └── DuplicateError        DUPLICATE            500   exit 1   two plugins claim one name
    ├── ServerError               SERVER_ERROR         502   exit 1   a server refused a request
    │   └── UnreachableError      UNREACHABLE          502   exit 1   there is no server, or the connection was lost
    └── CancelledError            CANCELLED            409   exit 130

The message is one sentence for the person who caused the error: what was requested, what is possible, what to do next.

Each error has two versions of that sentence. The private one, `str(error)`, is for the owner of the machine: command
line, library, log. The public one, `public_text`, is sent by servers. They differ in the arguments of the message, as
in ``CheckpointError("%s: %s", path, error)``: in public, a path is shortened to its last name, and a foreign exception
to its type. So paths and foreign exceptions must be arguments, never part of the message itself.
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
    """The root of the tree. Servers respond with `code` and `http_status`, the command line with `exit_status`.

    `message` is the sentence, with a ``%s`` for each of `args`. Optional: `field` is the path of the wrong field
    (``loras[1].scale``), `value` its value, `hint` what to do, and `local_hint` what to do on the machine itself, which
    may name folders. `str()` includes both hints.
    """

    code = "INTERNAL_ERROR"
    http_status = 500
    exit_status = 1

    def __init__(
        self,
        message: str,
        *args: object,
        field: str | None = None,
        value: object = None,
        hint: str | None = None,
        local_hint: str | None = None,
    ) -> None:
        self.message = message % tuple(map(_private, args)) if args else message
        self.public_message = message % tuple(map(_public, args)) if args else message
        super().__init__(self.message)
        self.hides = any(map(_hides, args))
        self.field = field
        self.value = value
        self.hint = hint
        self.local_hint = local_hint

    def __str__(self) -> str:
        return "; ".join(filter(None, (self.message, self.hint, self.local_hint)))

    @property
    def public_text(self) -> str:
        """The message for clients, without absolute paths and texts of foreign exceptions."""
        more = "the server's log has the details" if self.hides else None
        return "; ".join(filter(None, (self.public_message, more, self.hint)))

    def __reduce__(self) -> tuple[object, ...]:
        # NOTE: exceptions with keyword-only arguments need this to be pickled, for workers in other processes.
        return _rebuild, (type(self), self.args, self.__dict__)

    def to_json(self) -> dict[str, str]:
        """Return the JSON error of the HTTP API, with the public message."""
        return {"error": self.public_text, "code": self.code}


def _private(arg: object) -> str:
    """Return an argument of a message for the owner of the machine."""
    if isinstance(arg, MoldError):
        return arg.message
    if isinstance(arg, OSError) and arg.strerror:
        return arg.strerror
    return f"{type(arg).__name__}: {_text_of(arg)}" if isinstance(arg, BaseException) else str(arg)


def _public(arg: object) -> str:
    """Return an argument of a message for everyone."""
    if isinstance(arg, MoldError):
        return arg.public_message
    if isinstance(arg, OSError) and arg.errno:
        return os.strerror(arg.errno)
    if isinstance(arg, BaseException):
        return type(arg).__name__
    return (arg.name or "a folder") if isinstance(arg, PurePath) else str(arg)


def _hides(arg: object) -> bool:
    """Return whether the public form of an argument omits details that are needed to find the cause."""
    if isinstance(arg, MoldError):
        return arg.hides
    return isinstance(arg, BaseException) and not isinstance(arg, OSError)


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # __str__ of a foreign exception may fail
        return "no description"


def _rebuild(cls: type[MoldError], args: tuple[object, ...], state: dict[str, object]) -> MoldError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(state)
    error.args = args
    return error


class ValidationError(MoldError):
    """A field has an invalid value. `problems` lists all problems, each starting with the path of its field."""

    code = "VALIDATION_ERROR"
    http_status = 422
    exit_status = 2

    def __init__(
        self,
        message: str,
        *args: object,
        field: str | None = None,
        value: object = None,
        hint: str | None = None,
        local_hint: str | None = None,
        problems: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, *args, field=field, value=value, hint=hint, local_hint=local_hint)
        self.problems = problems or (self.public_message,)


class MalformedError(ValidationError):
    """A text is not valid JSON, TOML or another expected format."""

    code = "BAD_REQUEST"
    http_status = 400


class SettingsError(MoldError):
    """A setting has an invalid value; the message names the source of the value."""

    code = "SETTINGS_ERROR"
    exit_status = 2


class UnknownModelError(MoldError):
    """A model name is not in the catalog of any installed plugin."""

    code = "UNKNOWN_MODEL"
    http_status = 400


class ModelNotFoundError(MoldError):
    """A known model is not downloaded."""

    code = "MODEL_NOT_FOUND"
    http_status = 404


class CheckpointError(MoldError):
    """A weight file is damaged, incomplete or for another model."""

    code = "CHECKPOINT_ERROR"


class DownloadError(MoldError):
    """A file of a model could not be downloaded, or differs from the catalog."""

    code = "DOWNLOAD_ERROR"
    http_status = 502


class InsufficientMemoryError(MoldError):
    """A model does not fit into the memory of the device."""

    code = "INSUFFICIENT_MEMORY"
    http_status = 503


class QueueFullError(MoldError):
    """The queue has its maximum number of jobs."""

    code = "QUEUE_FULL"
    http_status = 503


class InferenceError(MoldError):
    """A plugin failed; the cause is chained."""

    code = "INFERENCE_ERROR"


class WorkerError(InferenceError):
    """The worker process died while it ran the job."""

    code = "WORKER_DIED"


class JobNotFoundError(MoldError):
    """A job id is unknown, or the job has expired."""

    code = "JOB_NOT_FOUND"
    http_status = 404


class ChainError(MoldError):
    """A clip of a chain failed; the message names the clip, the kept clips and how to resume."""

    code = "CHAIN_FAILED"
    http_status = 502


class OutputError(MoldError):
    """A result could not be written."""

    code = "OUTPUT_ERROR"


class InsufficientStorageError(OutputError):
    """The disk has too little free space for the result of a job; nothing was computed."""

    code = "INSUFFICIENT_STORAGE"
    http_status = 507


class ResultNotFoundError(MoldError):
    """A name is not in the gallery, or its file does not exist."""

    code = "RESULT_NOT_FOUND"
    http_status = 404


class PluginError(MoldError):
    """A plugin cannot be used."""

    code = "PLUGIN_ERROR"


class DuplicateError(PluginError):
    """Two plugins provide the same name; the message names both."""

    code = "DUPLICATE"


class CancelledError(MoldError):
    """A job was cancelled."""

    code = "CANCELLED"
    http_status = 409
    exit_status = 130


class ServerError(MoldError):
    """A server refused a request for a reason other than an error of its engine: API key, rate limit, permission.

    `code` is the code in the response, if it has one.
    """

    code = "SERVER_ERROR"
    http_status = 502


class UnreachableError(ServerError):
    """A server cannot be reached, or the connection was lost. `refused`: nothing listens at its address."""

    code = "UNREACHABLE"

    refused = False
