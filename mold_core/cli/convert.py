"""mold convert: pickle files of weights to safetensors."""

from __future__ import annotations

from pathlib import Path

import click

from mold_core.cli.output import echo, style
from mold_core.errors import MoldError, ValidationError
from mold_core.text import readable_size

__all__ = ["command"]

EPILOG = """\b
Examples:
  mold convert 4x-UltraSharp.pth                     4x-UltraSharp.safetensors, in the same folder
  mold convert model.ckpt -o models/model.safetensors"""


@click.command("convert", epilog=EPILOG)
@click.argument("sources", nargs=-1, required=True, metavar="FILE...")
@click.option("-o", "--output", metavar="PATH", help="Output file, or folder for several files.")
@click.option("--overwrite", is_flag=True, help="Replace outputs that already exist.")
def command(sources: tuple[str, ...], output: str | None, overwrite: bool) -> None:
    """Convert weight files that contain pickled objects (.pth, .pt, .ckpt) to safetensors, on this machine.

    Such files can run code when they are loaded. mold reads them in a separate process with limits on memory and time,
    by a reader that only builds tensors, and refuses files that contain anything else.
    """
    from mold_core.conversion import convert_pickle

    paths = [Path(source).expanduser() for source in sources]
    if output is not None and len(paths) > 1 and not Path(output).is_dir():
        raise ValidationError(f"--output {output!r} must be a folder for several files", field="output")
    failed = 0
    for path in paths:
        try:
            made = convert_pickle(path, _target(path, output), overwrite=overwrite)
        except MoldError as error:
            if len(paths) == 1:
                raise
            failed += 1
            echo(f"{style('✗', fg='red')} {error}", err=True)
            continue
        skipped = f", {made.skipped} other values left out" if made.skipped else ""
        size = readable_size(made.size_bytes)
        echo(f"{style('✓', fg='green')} {made.path}  {made.tensors} tensors, {size}{skipped}")
    if failed:
        raise MoldError(f"{failed} of {len(paths)} could not be converted")


def _target(source: Path, output: str | None) -> Path:
    name = f"{source.stem}.safetensors"
    if output is None:
        return source.with_name(name)
    path = Path(output).expanduser()
    return path / name if path.is_dir() else path
