"""Start the process that converts a pickle file, and move its result to the target."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import attrs

from mold_core.errors import CheckpointError, OutputError
from mold_core.files import output_error
from mold_core.sandbox import environment
from mold_core.unfinished import unfinished
from mold_core.weights import open_weights

__all__ = ["Conversion", "convert_pickle"]

_PROGRAM = "from mold_core.conversion.process import main; main()"
_MIN_SECONDS = 300
_BYTES_PER_SECOND = 5 << 20
_MAX_OUTPUT_BYTES = 1 << 16


@attrs.frozen(kw_only=True)
class Conversion:
    """The result of converting a pickle file: the path of the safetensors file and its number of tensors.

    `skipped` counts values that are not tensors, such as the number of a training step.
    """

    path: Path
    tensors: int
    skipped: int
    size_bytes: int


def convert_pickle(source: Path, target: Path, *, overwrite: bool = False) -> Conversion:
    """Write the tensors of a file of `torch.save` to a safetensors file, atomically.

    A separate process with limits on memory and time reads the file, with an unpickler that executes no code. Raises
    CheckpointError for a file that contains anything but tensors, is damaged or exceeds the limits; OutputError for a
    target that exists or cannot be written.
    """
    if target.exists() and not overwrite:
        raise OutputError("'%s' already exists", target, field="output", hint="pass --overwrite to replace it")
    _check_source(source)
    try:
        folder = tempfile.TemporaryDirectory(prefix=".mold-convert-", dir=target.absolute().parent)
    except OSError as error:
        raise output_error(target, error) from error
    with folder as name, unfinished(name):
        written = Path(name) / "weights.safetensors"
        output = _run(source, written)
        open_weights(written)  # the process is untrusted: check its output like any other file
        size_bytes = written.stat().st_size
        try:
            os.replace(written, target)
        except OSError as error:
            raise output_error(target, error) from error
    return Conversion(path=target, tensors=output["tensors"], skipped=output["skipped"], size_bytes=size_bytes)


def _check_source(source: Path) -> None:
    try:
        with source.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise CheckpointError("%s: the file cannot be read: %s", source, error) from None
    if not head.startswith((b"PK\x03\x04", b"\x80")):
        raise CheckpointError(
            "%s: this is no pickle file of torch.save", source, hint="mold info FILE says what a file is"
        )


def _run(source: Path, written: Path) -> dict[str, int]:
    seconds = _MIN_SECONDS + source.stat().st_size / _BYTES_PER_SECOND
    command = [sys.executable, "-P", "-c", _PROGRAM, os.path.abspath(source), os.path.abspath(written)]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment()
    ) as process:
        try:
            text, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise CheckpointError("%s: converting takes too long", source) from None
        except BaseException:
            process.kill()
            raise
    try:
        output = json.loads(text[:_MAX_OUTPUT_BYTES])
    except ValueError:
        raise CheckpointError("%s: %s", source, _death(process.returncode)) from None
    if "error" in output:
        raise CheckpointError("%s: %s", source, str(output["error"]))
    return {"tensors": int(output["tensors"]), "skipped": int(output["skipped"])}


def _death(status: int) -> str:
    if status == -getattr(signal, "SIGXCPU", 0):
        return "converting takes too long"
    return "it takes far more memory than its size, or makes torch crash"
