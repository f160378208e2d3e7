"""Generates the tables of models in the documentation from the catalogs of the plugins.

``python -m mold_core.cli.models_page docs/models.md`` updates the tables of a page in place. A table is between
the lines ``<!-- models of the family NAME -->`` and ``<!-- end of the table -->``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from mold_core.catalog.model import ModelSpec
from mold_core.files import write_whole

__all__ = ["models_table", "update_tables"]

_TABLE = re.compile(r"(<!-- models of the family (\S+) -->\n).*?(<!-- end of the table -->)", re.DOTALL)
_HEAD = (
    "| model | what it is | steps | its own files | with the shared ones | licence | accept the licence at |\n"
    "|---|---|--:|--:|--:|---|---|\n"
)


def update_tables(page: str, models: Iterable[ModelSpec]) -> str:
    """Return a page of documentation with updated tables of models."""
    known = [spec for spec in models if not spec.embedded]

    def table(found: re.Match[str]) -> str:
        return f"{found[1]}\n{models_table(spec for spec in known if spec.family == found[2])}\n{found[3]}"

    return _TABLE.sub(table, page)


def models_table(models: Iterable[ModelSpec]) -> str:
    """Return a Markdown table of models: steps, size, licence, and the page where the licence is accepted."""
    return _HEAD + "".join(_row(spec) for spec in models)


def _row(spec: ModelSpec) -> str:
    unshared_bytes = sum(file.size_bytes or 0 for file in spec.files if not file.path.startswith("shared/"))
    gates = dict.fromkeys(file.repo for file in spec.files if file.gated and file.repo)
    pages = ", ".join(f"[{repo}](https://huggingface.co/{repo})" for repo in gates) or "–"
    return (
        f"| `{spec.name}` | {spec.description} | {spec.defaults.steps or '–'} | {unshared_bytes / 1e9:.1f} GB "
        f"| {spec.size_bytes / 1e9:.1f} GB | {spec.licence or 'not stated'} | {pages} |\n"
    )


if __name__ == "__main__":
    from mold_core.plugins import load_plugins

    for name in sys.argv[1:]:
        updated = update_tables(Path(name).read_text("utf-8"), load_plugins().models.values())
        write_whole(name, updated.encode())
