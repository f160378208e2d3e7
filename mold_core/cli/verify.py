"""mold info MODEL --verify: check the files of a model against the catalog."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mold_core.cli.output import echo, echo_json, style
from mold_core.cli.state import State
from mold_core.errors import CheckpointError, SettingsError
from mold_core.text import readable_size, visible

if TYPE_CHECKING:
    from mold_core.catalog.verify import FileVerdict

__all__ = ["verify_model"]

_REDRAW_S = 0.25


def verify_model(state: State, name: str, *, as_json: bool) -> None:
    """Check every file of a model and print the verdicts. Raises CheckpointError if a file is wrong."""
    from mold_core.catalog.verify import verify_files

    if state.settings.host and not state.local:
        raise SettingsError("--verify reads files of this machine only", field="host", hint="add --local")
    engine = state.local_engine
    spec = engine.resolve(name)
    progress = _Progress(live=not as_json)
    verdicts = []
    for verdict in verify_files(spec, engine.store, progress):
        progress.clear()
        verdicts.append(verdict)
        if not as_json:
            _show(verdict)
    if as_json:
        import attrs

        echo_json([attrs.asdict(verdict) for verdict in verdicts])
    wrong = sum(not verdict.right for verdict in verdicts)
    if wrong:
        raise CheckpointError(
            f"{wrong} of {len(verdicts)} files of {spec.name} are missing or damaged",
            hint=f"mold pull {spec.name} downloads them again",
        )


def _show(verdict: FileVerdict) -> None:
    mark = style("✓", fg="green") if verdict.right else style("✗", fg="red")
    echo(f"{mark} {readable_size(verdict.size_bytes):>9}  {verdict.path}  {verdict.words}")


class _Progress:
    """Shows the progress of reading a file on a terminal."""

    def __init__(self, live: bool) -> None:
        self._stream = sys.stderr
        self._live = live and self._stream.isatty()
        self._drawn_at = 0.0

    def __call__(self, path: Path, bytes_read: int, bytes_total: int) -> None:
        if self._live and time.monotonic() - self._drawn_at > _REDRAW_S:
            self._drawn_at = time.monotonic()
            share = 100 * bytes_read // max(bytes_total, 1)
            self._stream.write(f"\r\x1b[2K{share:3d} %  {visible(path.name)}")
            self._stream.flush()

    def clear(self) -> None:
        if self._live and self._drawn_at:
            self._stream.write("\r\x1b[2K")
            self._stream.flush()
