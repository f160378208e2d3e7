"""mold stats: what lies on the disk."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from mold_core.cli.list_models import readable_size
from mold_core.cli.state import State

__all__ = ["command"]

# Folders in MOLD_HOME beside those of models and results.
_OTHERS = ("cache", "logs", "jobs", "chains", "loras")


@click.command("stats")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(state: State, as_json: bool) -> None:
    """Show how much room models, results, caches, logs and jobs take on the disk."""
    settings, store = state.settings, state.local_engine.store
    sizes = {
        spec.name: store.files_of(spec).size_bytes()
        for spec in state.local_engine.catalog().values()
        if spec.files and not spec.embedded and store.has(spec)
    }
    models = sorted(sizes.items(), key=lambda item: -item[1])
    models_bytes, _ = _usage(settings.models_path)
    output = settings.output_path
    output_bytes, output_files = _usage(output) if output else (0, 0)
    others = {name: _usage(settings.home / name)[0] for name in _OTHERS}
    if as_json:
        content = {
            "models_dir": str(settings.models_path),
            "models_dir_bytes": models_bytes,
            "output_dir": str(output) if output else None,
            "output_bytes": output_bytes,
            "output_images": output_files,
            **{f"{name}_bytes": size for name, size in others.items()},
            "models": [{"name": name, "bytes": size} for name, size in models],
        }
        click.echo(json.dumps(content, indent=2))
        return
    rows = [
        ("models", models_bytes, str(settings.models_path)),
        *(("", size, name) for name, size in models),
        ("results", output_bytes, f"{output}, {output_files} files" if output else "none are kept"),
        *((name, size, str(settings.home / name)) for name, size in others.items()),
    ]
    for label, size, where in rows:
        click.echo(f"{click.style(f'{label:<8}', dim=True)} {readable_size(size):>9}  {where}")


def _usage(folder: Path) -> tuple[int, int]:
    """Return bytes and number of the files in a folder and below; links are not followed."""
    size = count = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                size += os.lstat(os.path.join(where, name)).st_size
            except OSError:
                continue
            count += 1
    return size, count
