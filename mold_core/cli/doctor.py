"""mold doctor: check the installation, and suggest a fix for each problem."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import attrs
import click

from mold_core.cli.output import echo, echo_json, style
from mold_core.cli.server_flags import host_flag
from mold_core.cli.state import State
from mold_core.errors import MoldError
from mold_core.gallery import Gallery
from mold_core.settings import Settings
from mold_core.text import readable_size
from mold_core.version import VERSION
from mold_core.weights.compile_problems import compile_problems

__all__ = ["Finding", "command"]

# Package → what does not work without it, and how to install it.
_PACKAGES = {
    "torch": ("local generation", "pip install 'mold-core[torch]'"),
    "falcon": ("mold serve", "pip install 'mold-core[http]'"),
    "av": ("video output", "pip install 'mold-core[video]'"),
    "huggingface_hub": ("mold pull", "pip install 'mold-core[hub]'"),
}

_LOW_DISK_BYTES = 5_000_000_000
_SHOWN_FILES = 100

_MARKS = {"good": ("✓", "green"), "note": ("!", "yellow"), "bad": ("✗", "red")}


@attrs.frozen
class Finding:
    """The outcome of one check, and what to do if it failed."""

    about: str
    state: Literal["good", "note", "bad"]
    words: str
    hint: str | None = None


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@host_flag
@click.pass_obj
def command(state: State, as_json: bool) -> None:
    """Check settings, packages, plugins, gallery, default model and server. Exit status 1 if a check fails."""
    findings = list(_findings(state))
    if as_json:
        echo_json([attrs.asdict(finding) for finding in findings])
    else:
        for finding in findings:
            mark, color = _MARKS[finding.state]
            echo(f"{style(mark, fg=color)} {finding.about:<14} {finding.words}")
            if finding.hint:
                echo(f"  {'':<14} → {finding.hint}")
    if any(finding.state == "bad" for finding in findings):
        raise click.exceptions.Exit(1)


def _findings(state: State) -> Iterator[Finding]:
    yield Finding("mold", "good", f"{VERSION} on Python {platform.python_version()}, {platform.machine()}")
    try:
        settings = state.settings
    except MoldError as error:
        yield Finding("settings", "bad", error.message, error.hint or "fix it with mold config edit")
        return
    yield Finding("settings", "good", f"{settings.config_path}{'' if settings.config_path.exists() else ' (none)'}")
    yield _folder("home", settings.home)
    yield _folder("models", settings.models_path)
    for package, (what, install) in _PACKAGES.items():
        yield _package(package, what, install)
    for info in state.plugins.infos:
        if info.failure:
            yield Finding("plugin", "bad", f"{info.name}: {info.failure}", f"fix or uninstall {info.module}")
    names = [info.name for info in state.plugins.infos if not info.blocked and not info.failure]
    yield Finding("plugins", "good" if names else "note", ", ".join(names) or "none")
    for problem in compile_problems(settings.home / "cache"):
        yield Finding("compiler", "note", problem, "models run, more slowly; MOLD_COMPILE=off compiles nothing")
    yield from _gallery(settings)
    yield from _model(state)
    yield from _server(state)


def _folder(about: str, path: Path) -> Finding:
    """Return whether a folder, or its first existing parent, is writable, and how much space is free."""
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not os.access(existing, os.W_OK):
        return Finding(about, "bad", f"{path} is not writable", "set MOLD_HOME, or MOLD_MODELS_DIR for models")
    free = shutil.disk_usage(existing).free
    little = free < _LOW_DISK_BYTES
    hint = "mold stats shows disk usage, mold clean frees space" if little else None
    return Finding(about, "note" if little else "good", f"{path}, {readable_size(free)} free", hint)


def _gallery(settings: Settings) -> Iterator[Finding]:
    """Yield whether the gallery is usable, and each file in its folders that it cannot show."""
    if settings.output_path is None or not settings.output_path.is_dir():
        return
    try:
        gallery = Gallery.of(settings)
        assert gallery is not None  # output_path is set
        gallery.reconcile()
        skipped = gallery.skipped()
    except MoldError as error:
        yield Finding("gallery", "bad", error.message, error.hint)
        return
    if not os.access(settings.output_path, os.W_OK):
        yield Finding("gallery", "bad", f"{settings.output_path} is not writable", "results cannot be saved there")
    for file in skipped[:_SHOWN_FILES]:
        path = os.path.join(file.folder, file.name)
        yield Finding("gallery", "note", f"{path!r} is not shown: {file.reason}", "repair it, or move it elsewhere")
    if len(skipped) > _SHOWN_FILES:
        yield Finding("gallery", "note", f"{len(skipped) - _SHOWN_FILES} more files are not shown")
    if not skipped:
        yield Finding("gallery", "good", str(settings.output_path))


def _package(package: str, what: str, install: str) -> Finding:
    try:
        return Finding(package, "good", version(package))
    except PackageNotFoundError:
        return Finding(package, "note", f"not installed, needed for {what}", install)


def _model(state: State) -> Iterator[Finding]:
    """Yield which model is the default, whether it is downloaded, and whether it fits into memory."""
    engine = state.local_engine
    try:
        chosen = engine.default_model()
        spec = chosen.spec
        if engine.store.missing(spec):
            yield Finding("default model", "bad", f"{spec.name} is not downloaded", f"mold pull {spec.name}")
            return
        yield Finding("default model", "good", f"{spec.name} ({chosen.reason})")
        report = engine.memory_report(spec.name)
    except (MoldError, ImportError) as error:
        yield Finding("default model", "bad", str(error), "mold list shows the models")
        return
    if report is None:
        return
    available = ", ".join(f"{readable_size(size)} on {device}" for device, size in report.room.items())
    if report.problem:
        yield Finding(
            "memory", "bad", f"{report.problem} (available: {available})", f"mold info {spec.name} shows its components"
        )
    else:
        yield Finding("memory", "good", f"it fits ({report.chosen}); available: {available}")


def _server(state: State) -> Iterator[Finding]:
    """Yield the state of the server that commands would use."""
    try:
        client = state.server
        now = client.status()
    except MoldError as error:
        named = state.settings.host is not None
        yield Finding("server", "bad" if named else "good", error.message, error.hint if named else None)
        return
    if now.version != VERSION:
        yield Finding("server", "note", f"{client.address} runs mold {now.version}", "install the same version on both")
    else:
        yield Finding("server", "good", f"{client.address}, mold {now.version}")
