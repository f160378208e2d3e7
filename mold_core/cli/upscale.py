"""mold upscale: larger images and videos."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mold_core.cli.completions import model_names
from mold_core.cli.output import at_terminal, echo, style, write_result
from mold_core.cli.server_flags import server_flags
from mold_core.cli.state import State
from mold_core.errors import CancelledError, MoldError
from mold_core.text import visible

if TYPE_CHECKING:
    from mold_core.cli.state import AnyEngine
    from mold_core.cli.upscale_plan import Piece
    from mold_core.wire import ProgressEvent, UpscaleResponse

__all__ = ["command"]

EPILOG = """\b
Examples:
  mold upscale photo.png                            photo_upscaled.png, in the same folder
  mold upscale photo.jpg -o large.jpg --tile-size 256
  mold upscale holiday/ -o large/                   all images in it; again: only missing outputs
  mold upscale 'scans/*.png' -m real-esrgan-x2plus
  mold upscale clip.mp4                             frame by frame, with its sound
  mold run "a black cat" | mold upscale - > cat.png"""


@click.command("upscale", epilog=EPILOG)
@click.argument("sources", nargs=-1, metavar="[FILE|FOLDER|-]...")
@click.option(
    "-m",
    "--model",
    shell_complete=model_names,
    help="Upscaler to use (mold list); default: chosen for the image.",
)
@click.option(
    "-o", "--output", metavar="PATH", help="Output file, or folder for several images; '-' writes to standard output."
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["png", "jpeg", "jpg", "webp"]),
    help="File format; default: the suffix of --output, else png.",
)
@click.option(
    "--tile-size", type=int, help="Tile size in pixels; 0 disables tiling; default: chosen for model and memory."
)
@click.option("--overwrite", is_flag=True, help="Re-create outputs that already exist.")
@click.option("--device", help="cpu, cuda or mps; default: the fastest available.")
@server_flags
@click.pass_obj
def command(
    state: State,
    /,
    sources: tuple[str, ...],
    model: str | None,
    output: str | None,
    output_format: str | None,
    tile_size: int | None,
    overwrite: bool,
    device: str | None,
) -> None:
    """Upscale images (PNG, JPEG, WebP, AVIF, HEIC) and videos (MP4); '-' reads an image from standard input.

    One image is written to `<name>_upscaled.png` in the same folder, or to standard output when that is a pipe. For
    several images or a folder, outputs that already exist are skipped: repeat the command to resume after an
    interruption.
    """
    from mold_core.cli.upscale_plan import plan

    state.use_flags(device=device)
    pieces = plan(sources, output, output_format)
    if any(piece.format == "mp4" for piece in pieces):
        state.stay_here("a video")
    options = {"model": model, "tile_size": tile_size}
    several = len(pieces) > 1 or any(piece.resumable for piece in pieces)
    if not several:
        try:
            _one(state.engine, pieces[0], options)
        finally:
            state.engine.close()
        return
    _many(state.engine, pieces, options, overwrite)


def _one(engine: AnyEngine, piece: Piece, options: dict[str, Any]) -> None:
    line = _line(1)
    try:
        response, data = piece.run(engine, options, line)
    finally:
        line.clear()
    if data is not None:
        write_result(data)
    else:
        _say(piece, response)


def _many(engine: AnyEngine, pieces: list[Piece], options: dict[str, Any], overwrite: bool) -> None:
    """Upscale several images. One that fails is reported, and the others continue."""
    left = [piece for piece in pieces if overwrite or not piece.done()]
    if len(left) < len(pieces):
        echo(f"{len(pieces) - len(left)} of {len(pieces)} already exist", err=True)
    line = _line(len(left))
    failed = 0
    try:
        for line.number, piece in enumerate(left, start=1):
            line.file = visible(piece.name)
            try:
                response, _ = piece.run(engine, options, line)
            except CancelledError:
                raise
            except MoldError as error:
                failed += 1
                line.clear()
                echo(f"{style('✗', fg='red')} {piece.name}: {error}", err=True)
            else:
                line.clear()
                _say(piece, response)
    finally:
        line.clear()
        engine.close()
    if failed:
        raise MoldError(f"{failed} of {len(left)} could not be upscaled")


def _say(piece: Piece, response: UpscaleResponse) -> None:
    image = response.image
    echo(
        f"{style('✓', fg='green')} {piece.target}  {response.original_width}x{response.original_height} →"
        f" {image.width}x{image.height}, {response.model}, {response.upscale_time_ms / 1000:.1f} s",
        err=not at_terminal(),
    )
    for warning in response.warnings or ():
        echo(f"{style('!', fg='yellow')} {warning}", err=True)


def _line(files: int) -> Any:
    """Return a progress line for `files` files."""
    from mold_core.cli.progress import ProgressLine, duration, progress_bar
    from mold_core.wire import DenoiseStep, Queued

    class Line(ProgressLine):
        """One bar over all files; `number` is the current one, from 1."""

        number = 1
        file = ""

        def __init__(self) -> None:
            super().__init__()
            self._spent_s = 0.0

        def _describe(self, event: ProgressEvent) -> str | None:
            if isinstance(event, Queued):
                return None
            if not isinstance(event, DenoiseStep):
                text = super()._describe(event)
                return f"{text}  {self.number}/{files} {self.file}" if text and files > 1 else text
            self._spent_s += event.elapsed_ms / 1000
            share = (self.number - 1 + event.step / event.total) / files
            left = duration(self._spent_s * (1 - share) / share)
            text = f"{progress_bar(round(share * 1000), 1000)} tile {event.step}/{event.total}  {left} left"
            return f"{text}  {self.number}/{files} {self.file}" if files > 1 else text

    return Line()
