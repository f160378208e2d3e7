"""Where results go: a file, several numbered files, the current folder, or standard output."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from mold_core.cli.output import at_terminal, check_output, echo, style, write_result
from mold_core.errors import OutputError, ValidationError

if TYPE_CHECKING:
    from mold_core.wire import ImageData, VideoData

__all__ = ["Target"]

_IMAGES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
_VIDEOS = {".mp4": "mp4", ".gif": "gif", ".png": "apng", ".apng": "apng", ".webp": "webp"}


@attrs.frozen
class Target:
    """Where results go. A `path` of None is standard output; one that is not `named` is a folder."""

    path: Path | None
    named: bool
    format: str

    @classmethod
    def choose(
        cls,
        output: str | None,
        format_: str | None,
        *,
        count: int = 1,
        videos: bool = False,
        default: str | None = None,
    ) -> Target:
        """Return the target, checked before anything is generated.

        `format_` is the requested format, `default` the format of a path without a suffix. Raises ValidationError and
        OutputError.
        """
        suffixes = _VIDEOS if videos else _IMAGES
        format_ = _known(format_, suffixes)
        default = default or ("mp4" if videos else "png")
        if output == "-" or (output is None and not at_terminal()):
            if count != 1:
                raise ValidationError(
                    f"standard output takes one image, and --batch is {count}",
                    field="batch_size",
                    hint="name a file with -o",
                )
            check_output()
            return cls(None, True, format_ or default)
        if output is None:
            _check_directory(Path.cwd())
            return cls(Path.cwd(), False, format_ or default)
        return cls(Path(output), True, _checked(output, format_, suffixes) or default)

    def write(self, files: Sequence[ImageData | VideoData], *, model: str, seed: int, time_ms: int) -> None:
        """Write the results, and print where they are."""
        if self.path is None:
            write_result(files[0].data)
            return
        now, seconds = int(time.time()), time_ms / 1000
        for index, file in enumerate(files):
            saved = self._save(self.path, file, index if len(files) > 1 else None, model, now)
            what = f"{file.width}x{file.height}"
            frames = getattr(file, "frames", None)
            if frames is not None:
                what += f", {frames} frames at {file.fps}"  # type: ignore[union-attr]
            echo(
                f"{style('✓', fg='green')} {saved}  {what}, seed {(seed + index) % 2**64}, {seconds:.1f} s",
                err=not at_terminal(),
            )

    def _save(self, path: Path, file: ImageData | VideoData, index: int | None, model: str, now: int) -> Path:
        from mold_core.gallery import file_name, save

        name = file_name(model, now, index, file.format)
        try:
            if self.named:
                return file.save(path if index is None else path.with_stem(f"{path.stem}-{index}"))
            return save(path, name, file.data)
        except OutputError as error:
            try:
                rescued = save(Path(tempfile.gettempdir()), name, file.data)
            except OutputError:
                raise error from None
            raise OutputError("%s", error, hint=error.hint, local_hint=f"the result was saved as {rescued}") from error


def _known(format_: str | None, suffixes: dict[str, str]) -> str | None:
    format_ = "jpeg" if format_ == "jpg" else format_
    if format_ is not None and format_ not in suffixes.values():
        raise ValidationError(
            f"--format {format_} cannot be used for {'videos' if 'mp4' in suffixes.values() else 'images'}",
            field="output_format",
            value=format_,
            hint=f"use one of {', '.join(dict.fromkeys(suffixes.values()))}",
        )
    return format_


def _checked(output: str, format_: str | None, suffixes: dict[str, str]) -> str | None:
    """Return the format of a named file; None if neither suffix nor --format decides."""
    path = Path(output)
    by_suffix = suffixes.get(path.suffix.lower())
    if path.suffix and by_suffix is None:
        *some, last = suffixes
        raise ValidationError(
            f"--output {output!r} has the unknown suffix {path.suffix}",
            field="output",
            hint=f"use {', '.join(some)} or {last}",
        )
    if format_ and by_suffix and format_ != by_suffix:
        raise ValidationError(
            f"--output {output!r} is a {by_suffix} file and --format says {format_}",
            field="output_format",
            hint="leave one out",
        )
    if output.endswith(os.sep) or os.path.isdir(path):
        raise OutputError(f"--output {output!r} is a directory", field="output", hint="add a file name")
    _check_directory(path.parent)
    return format_ or by_suffix


def _check_directory(directory: Path) -> None:
    if not os.path.isdir(directory):
        raise OutputError(f"the directory {str(directory)!r} does not exist", field="output", hint="create it first")
    if not os.access(directory, os.W_OK):
        raise OutputError(
            f"the directory {str(directory)!r} is not writable", field="output", hint="choose another one"
        )
