"""Names of result files, and saving under them without overwriting."""

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

    Everything in the model's name but ASCII letters, digits, ``.``, ``_`` and ``-`` becomes ``-``; it is cut after 100
    characters. `when_unix` is in whatever unit the caller uses: seconds for ``mold run``, milliseconds for the server.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", model)[:_MAX_MODEL_CHARACTERS]
    place = "" if index is None else f"-{index}"
    return f"mold-{plain}-{when_unix}{place}.{EXTENSIONS[format]}"


def save(
    directory: Path,
    name: str,
    data: bytes | Callable[[BinaryIO], object],
    is_taken: Callable[[str], bool] | None = None,
) -> Path:
    """Write `data` into `directory` under `name` and return the path; the directory is made if it is missing.

    `data` is the content, or a function that writes it into a binary file. An existing file is never touched: where the
    name is taken, by whomever and however late, or `is_taken` says so, ``-1``, ``-2``, … is put before the extension.
    Raises OutputError when the file cannot be written.
    """
    try:
        with suppress(FileExistsError):  # by a file, which write_whole reports
            directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(directory / name, error) from error
    wanted = directory / name
    for number in count():
        path = wanted.with_stem(f"{wanted.stem}-{number}") if number else wanted
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
