"""Names result files, and saves them without overwriting others."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import BinaryIO

from mold_core.errors import OutputError
from mold_core.files import output_error, write_whole
from mold_core.media.formats import EXTENSIONS
from mold_core.wire.generate import OutputFormat

__all__ = ["file_name", "save"]

_MAX_MODEL_CHARACTERS = 100


def file_name(model: str, when_unix: int, index: int | None, format: OutputFormat) -> str:
    """Return ``mold-<model>-<when_unix>[-<index>].<extension>``, safe on every file system and in a URL.

    Characters of the model's name except ASCII letters, digits, ``.``, ``_`` and ``-`` become ``-``; it is truncated to
    100 characters. `when_unix` is in seconds for ``mold run`` and in milliseconds for the server.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", model)[:_MAX_MODEL_CHARACTERS]
    suffix = "" if index is None else f"-{index}"
    return f"mold-{plain}-{when_unix}{suffix}.{EXTENSIONS[format]}"


def save(
    directory: Path,
    name: str,
    data: bytes | Callable[[BinaryIO], object],
    is_taken: Callable[[str], bool] | None = None,
) -> Path:
    """Write `data` to the file `name` in `directory` and return its path. A missing directory is created.

    `data` is the content, or a function that writes it into a binary file. An existing file is never overwritten: if
    the name exists, or `is_taken` returns True for it, ``-1``, ``-2``, … is added before the extension. Raises
    OutputError if the file cannot be written.
    """
    try:
        with suppress(FileExistsError):  # a file instead of a folder; write_whole reports it
            directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(directory / name, error) from error
    target = directory / name
    for number in count():
        path = target.with_stem(f"{target.stem}-{number}") if number else target
        if os.path.lexists(path) or (is_taken is not None and is_taken(path.name)):
            continue
        try:
            write_whole(path, data, replace=False)
        except OutputError as error:
            if not isinstance(error.__cause__, FileExistsError):
                raise
        else:
            return path
    raise AssertionError("count() does not end")
