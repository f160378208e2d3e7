"""Expands the arguments of `mold upscale` (files, folders, patterns, pipes) to a list of inputs and outputs."""

from __future__ import annotations

import glob
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from mold_core.cli.output import at_terminal, check_output
from mold_core.errors import OutputError, ValidationError

if TYPE_CHECKING:
    from mold_core.cli.state import AnyEngine
    from mold_core.wire import ProgressEvent, UpscaleResponse

__all__ = ["Piece", "plan"]

_FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
_SOURCES = (*_FORMATS, ".avif", ".heic", ".heif")
_VIDEOS = (".mp4", ".m4v", ".mov")
_SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "mp4": ".mp4"}


@attrs.frozen(kw_only=True)
class Piece:
    """One image or video. `source` None is standard input, `target` None standard output.

    A `resumable` piece is skipped if its target exists.
    """

    source: Path | None
    target: Path | None
    format: str
    resumable: bool = False

    @property
    def name(self) -> str:
        """The source, for messages."""
        return str(self.source) if self.source else "standard input"

    def done(self) -> bool:
        """Return whether the target exists and is at least as new as the source."""
        if self.source is None or self.target is None or not self.target.is_file():
            return False
        return self.target.stat().st_mtime >= self.source.stat().st_mtime

    def run(
        self, engine: AnyEngine, options: dict[str, Any], on_event: Callable[[ProgressEvent], object]
    ) -> tuple[UpscaleResponse, bytes | None]:
        """Upscale it. Return the response, and the bytes if they go to standard output."""
        from mold_core.upscaling.requests import FileUpscaleRequest
        from mold_core.upscaling.run import read_file
        from mold_core.wire import UpscaleRequest

        fields = dict(options)
        if self.format != "mp4":
            fields["output_format"] = self.format
        if self.source is not None and self.target is not None:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            return engine.upscale(FileUpscaleRequest(source=self.source, target=self.target, **fields), on_event), None
        data = sys.stdin.buffer.read() if self.source is None else read_file(self.source)
        if not data:
            raise ValidationError(f"{self.name} is empty", field="image")
        response = engine.upscale(UpscaleRequest(image=data, **fields), on_event)
        if self.target is None:
            return response, response.image.data
        response.image.save(self.target)
        return response, None


def plan(sources: tuple[str, ...], output: str | None, format: str | None) -> list[Piece]:
    """Return the pieces of work. Raises ValidationError, OutputError or UsageError before any work starts."""
    format = "jpeg" if format == "jpg" else format
    if not sources:
        if sys.stdin is None or sys.stdin.isatty():
            raise click.UsageError("no image given; try: mold upscale photo.png")
        sources = ("-",)
    if sources == ("-",) or (len(sources) == 1 and _is_one_file(sources[0])):
        return [_single(None if sources == ("-",) else Path(sources[0]), output, format)]
    if "-" in sources:
        raise ValidationError("standard input cannot be combined with files", field="image")
    if output == "-":
        raise ValidationError("standard output takes one image", field="output", hint="name a folder with -o")
    pieces = [piece for source in sources for piece in _pieces(source, output, format)]
    outputs = {piece.target.absolute() for piece in pieces if piece.target}
    # A pattern also matches the outputs of the previous run.
    pieces = [piece for piece in pieces if piece.source is None or piece.source.absolute() not in outputs]
    _refuse_collisions(pieces)
    return pieces


def _is_one_file(source: str) -> bool:
    return not os.path.isdir(source) and (os.path.exists(source) or not glob.has_magic(source))


def _single(source: Path | None, output: str | None, format: str | None) -> Piece:
    video = source is not None and source.suffix.lower() in _VIDEOS
    if video and format:
        raise ValidationError(f"--format {format} is for images; videos are written as MP4", field="output_format")
    if output == "-" or (output is None and not at_terminal()):
        if video and output == "-":
            raise ValidationError("a video cannot be written to standard output", field="output", hint="name a file")
        if not video:
            check_output()
            return Piece(source=source, target=None, format=format or "png")
    if output is None:
        chosen = "mp4" if video else format or "png"
        target = _next_to(source, chosen) if source else Path(f"mold-upscaled-{int(time.time())}{_SUFFIXES[chosen]}")
        return Piece(source=source, target=target, format=chosen)
    if output.endswith(os.sep) or os.path.isdir(output):
        if source is None:
            raise OutputError(f"--output {output!r} is a directory", field="output", hint="add a file name")
        chosen = "mp4" if video else format or "png"
        return Piece(source=source, target=Path(output) / f"{source.stem}{_SUFFIXES[chosen]}", format=chosen)
    return Piece(source=source, target=Path(output), format="mp4" if video else _by_suffix(Path(output), format))


def _by_suffix(path: Path, format: str | None) -> str:
    """Return the format of a named file. Raises ValidationError if suffix and --format contradict."""
    by_suffix = _FORMATS.get(path.suffix.lower())
    if path.suffix and by_suffix is None:
        raise ValidationError(
            f"--output {str(path)!r} has the unknown suffix {path.suffix}",
            field="output",
            hint="use .png, .jpg, .jpeg or .webp",
        )
    if format and by_suffix and format != by_suffix:
        raise ValidationError(
            f"--output {str(path)!r} is a {by_suffix} file and --format says {format}",
            field="output_format",
            hint="leave one out",
        )
    return format or by_suffix or "png"


def _pieces(source: str, output: str | None, format: str | None) -> list[Piece]:
    """Return the pieces of a file, a folder or a pattern."""
    if output is not None and os.path.isfile(output):
        raise OutputError(
            f"--output {output!r} is a file, and there are several images", field="output", hint="name a folder"
        )
    if os.path.isdir(source):
        return _folder(Path(source), output, format)
    paths = [source] if os.path.exists(source) else sorted(glob.glob(source, recursive=True))
    if not paths:
        raise ValidationError(f"no such file: {source!r}", field="image")
    return [_piece(Path(path), output, None, format) for path in paths if os.path.isfile(path)]


def _folder(folder: Path, output: str | None, format: str | None) -> list[Piece]:
    target = Path(output) if output else folder.absolute().with_name(f"{folder.absolute().name}_upscaled")
    inside = target.absolute()
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in (*_SOURCES, *_VIDEOS)
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and inside not in path.absolute().parents
        and path.is_file()
    )
    if not found:
        raise ValidationError(f"no images in {str(folder)!r}", field="image")
    return [_piece(path, str(target), path.relative_to(folder).parent, format) for path in found]


def _piece(path: Path, output: str | None, below: Path | None, format: str | None) -> Piece:
    chosen = "mp4" if path.suffix.lower() in _VIDEOS else format or "png"
    if output is None:
        return Piece(source=path, target=_next_to(path, chosen), format=chosen, resumable=True)
    target = Path(output) / (below or "") / f"{path.stem}{_SUFFIXES[chosen]}"
    return Piece(source=path, target=target, format=chosen, resumable=True)


def _next_to(path: Path, format: str) -> Path:
    return path.with_name(f"{path.stem}_upscaled{_SUFFIXES[format]}")


def _refuse_collisions(pieces: list[Piece]) -> None:
    by_target: dict[Path, Piece] = {}
    for piece in pieces:
        assert piece.target is not None  # several never go to standard output
        other = by_target.setdefault(piece.target.absolute(), piece)
        if other is not piece and other.source != piece.source:
            raise ValidationError(
                f"{other.name} and {piece.name} would both become {str(piece.target)!r}",
                field="output",
                hint="upscale them separately",
            )
        if piece.source is not None and piece.target.absolute() == piece.source.absolute():
            raise ValidationError(
                f"{piece.name} would be overwritten by its own output", field="output", hint="name another folder"
            )
