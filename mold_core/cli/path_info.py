"""mold info PATH: what a weight file or the files of a folder are, and whether mold runs them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mold_core.cli.output import echo, echo_json, style
from mold_core.errors import ModelNotFoundError
from mold_core.text import readable_size

if TYPE_CHECKING:
    from mold_core.cli.state import State
    from mold_core.recognition import Recognised
    from mold_core.recognition.verdict import Verdict

__all__ = ["is_path", "show_path"]

_SUFFIXES = (".safetensors", ".sft", ".gguf", ".ckpt", ".pt", ".pth", ".bin", ".param")


def is_path(text: str) -> bool:
    """Return whether an argument is meant as a path and not as the name of a model."""
    return (
        any(mark in text for mark in filter(None, (os.sep, os.altsep)))
        or text.startswith(("~", "."))
        or (text.lower().endswith(_SUFFIXES))
    )


def show_path(state: State, text: str, *, as_json: bool) -> None:
    """Print what the weights at a path are. Raises ModelNotFoundError where there are none."""
    path = Path(os.path.expanduser(text))
    found = list(_judged(state, path))
    if not found:
        what = "there are no weights in this folder" if os.path.isdir(path) else "there is no such file or folder"
        raise ModelNotFoundError(f"%s: {what}", path, field="model", value=text)
    if as_json:
        reports = [_as_json(recognised, verdict) for recognised, verdict in found]
        echo_json(reports[0] if os.path.isfile(path) else reports)
    elif os.path.isfile(path) or len(found) == 1:
        _show_one(*found[0])
    else:
        for recognised, verdict in found:
            _show_line(path, recognised, verdict)


def _judged(state: State, path: Path) -> Iterator[tuple[Recognised, Verdict]]:
    from mold_core.catalog import ModelStore
    from mold_core.recognition import knowledge_of, recognise_shards
    from mold_core.recognition.verdict import verdict_on
    from mold_core.recognition.walk import walk

    knowledge, store = knowledge_of(state.plugins), ModelStore(state.settings.models_path)
    groups = [weights.paths for weights in walk(path)] if os.path.exists(path) else []
    if not groups and os.path.isfile(path):
        groups = [(path,)]
    for paths in groups:
        recognised = recognise_shards(paths, knowledge)
        yield recognised, verdict_on(recognised, knowledge, state.plugins, store)


def _show_one(recognised: Recognised, verdict: Verdict) -> None:
    network = recognised.main
    others = len(recognised.paths) - 1
    rows: dict[str, Any] = {
        "file": recognised.paths[0] + (f" and {others} more" if others else ""),
        "what": recognised.title,
        "size": _size(recognised),
        "details": "; ".join(network.details) if network else "",
        **{key: str(value) for key, value in recognised.metadata.items()},
        "mold": verdict.reason,
    }
    facts = {label: value for label, value in rows.items() if value}
    width = max(map(len, facts))
    for label, value in facts.items():
        echo(f"{style(label.ljust(width), dim=True)}  {value}")
    if len(recognised.networks) > 1:
        echo()
        for item in recognised.networks:
            echo(f"  {item.kind:<14} {readable_size(item.size_bytes):>9}  {item.title}, {item.format}")
    if verdict.needs:
        echo()
        for need in verdict.needs:
            mark = style("✓", fg="green") if need.path else style("✗", fg="red")
            size = readable_size(need.size_bytes) if need.size_bytes else ""
            source = need.path or (f"missing; from {need.source}" if need.source else "missing")
            echo(f"{mark} {need.component:<15} {size:>9}  {source}")
        echo()
        echo("mold adopt FOLDER makes a model of it, with the components that it finds there")


def _show_line(folder: Path, recognised: Recognised, verdict: Verdict) -> None:
    mark = {True: style("✓", fg="green"), False: style("✗", fg="red"), None: "·"}[verdict.runs]
    try:
        name = Path(recognised.paths[0]).relative_to(folder)
    except ValueError:
        name = Path(recognised.paths[0])
    reason = f" ({verdict.reason})" if verdict.runs is False and not recognised.problem else ""
    echo(f"{mark} {readable_size(recognised.size_bytes):>9}  {name}: {recognised.title}{reason}")


def _size(recognised: Recognised) -> str:
    tensors = sum(network.tensors for network in recognised.networks)
    facts = [readable_size(recognised.size_bytes), f"{tensors} tensors" if tensors else "", recognised.container]
    return ", ".join(filter(None, facts))


def _as_json(recognised: Recognised, verdict: Verdict) -> dict[str, Any]:
    import attrs

    return {"title": recognised.title, **attrs.asdict(recognised), "verdict": attrs.asdict(verdict)}
