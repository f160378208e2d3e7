"""mold adopt: uses the models in folders of other programs where they are."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from mold_core.cli.output import at_terminal, echo, echo_json, style
from mold_core.cli.state import State
from mold_core.errors import ModelNotFoundError, ValidationError
from mold_core.text import readable_size

if TYPE_CHECKING:
    from mold_core.catalog.adopted import Adopted
    from mold_core.recognition.adopting import Found, Plan

__all__ = ["adopt_paths", "command", "show_plan"]

_WATCH_EVERY_S = 5.0

EPILOG = """\b
Examples:
  mold adopt ~/ComfyUI                     every model in it, in place
  mold adopt ~/ComfyUI --dry-run           what would be adopted
  mold adopt ~/.cache/huggingface/hub      what other programs downloaded
  mold adopt /models/extra_model_paths.yaml
  mold adopt list
  mold adopt forget juggernautxl:fp16"""


class _Adopt(click.Group):
    """A group whose other arguments are paths: `mold adopt PATH…` runs the search."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] in self.commands and not os.path.exists(args[0]):
            return super().resolve_command(ctx, args)
        return "search", self.commands["search"], args

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and not {"-h", "--help"} & set(args)):
            args = ["search", *args]
        return super().parse_args(ctx, args)


@click.group("adopt", cls=_Adopt, epilog=EPILOG, subcommand_metavar="PATH… | COMMAND")
def command() -> None:
    """Use models in folders of other programs on this machine: mold adopt PATH…

    Files are recognised by what is in them and stay where they are. PATH is the folder of ComfyUI, A1111, Forge,
    InvokeAI, SwarmUI, Fooocus or the Hugging Face cache, any folder with weights, a file, or an
    extra_model_paths.yaml. Without PATH, the folders that were adopted are searched again.

    mold adopt search --help shows the options.
    """


@command.command("search")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Print what would be adopted, and change nothing.")
@click.option("--copy", is_flag=True, help="Copy the files into the models folder.")
@click.option("--link", is_flag=True, help="Link the files from the models folder.")
@click.option("--watch", is_flag=True, help="Search again every few seconds, until interrupted.")
@click.option("--all", "show_all", is_flag=True, help="Also list files that mold cannot use.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def search_command(
    state: State,
    paths: tuple[Path, ...],
    dry_run: bool,
    copy: bool,
    link: bool,
    watch: bool,
    show_all: bool,
    as_json: bool,
) -> None:
    """Search PATHS and adopt what is in them; without PATHS, the folders that were adopted before."""
    if copy and link:
        raise click.UsageError("--copy and --link exclude each other")
    plan = adopt_paths(state, paths, dry_run=dry_run, copy=copy, link=link)
    if as_json:
        echo_json(_as_json(plan))
    else:
        show_plan(plan, dry_run=dry_run, show_all=show_all)
    while watch and not dry_run:
        time.sleep(_WATCH_EVERY_S)
        before, plan = plan, adopt_paths(state, (), copy=copy, link=link)
        _show_changes(before, plan)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_command(state: State, as_json: bool) -> None:
    """List adopted folders, models and LoRAs."""
    from mold_core.catalog.adopted import read_adopted

    adopted = read_adopted(state.settings.home)
    if as_json:
        echo_json(attrs.asdict(adopted))
        return
    if not adopted.folders:
        echo("Nothing is adopted: mold adopt PATH searches a folder.")
        return
    echo(style("Folders:", bold=True))
    for folder in adopted.folders:
        echo(f"  {folder}{'' if os.path.exists(folder) else '  (not mounted)'}")
    rows = {**{name: _first_file(table) for name, table in adopted.models.items()}, **adopted.loras}
    width = max(map(len, rows), default=0)
    for title, names in (("Models:", adopted.models), ("LoRAs:", adopted.loras)):
        if names:
            echo(style(title, bold=True))
        for name in names:
            away = "" if os.path.exists(rows[name]) else "  (not mounted)"
            echo(f"  {name:<{width}}  {rows[name]}{away}")


@command.command("forget")
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def forget_command(state: State, names: tuple[str, ...]) -> None:
    """Forget adopted models and LoRAs by NAME, or folders by path. No file is deleted."""
    from mold_core.catalog.adopted import read_adopted, write_adopted

    adopted = read_adopted(state.settings.home)
    for name in names:
        adopted, forgotten = _without(adopted, name)
        echo(f"{style('✓', fg='green')} forgotten: {forgotten}; no file was deleted")
    write_adopted(state.settings.home, adopted)


def adopt_paths(
    state: State, paths: Sequence[Path], *, dry_run: bool = False, copy: bool = False, link: bool = False
) -> Plan:
    """Search the folders of before and new ones, store what was found and return it."""
    from mold_core.catalog import user_models
    from mold_core.catalog.adopted import read_adopted, write_adopted
    from mold_core.cli.progress import ProgressLine
    from mold_core.recognition import knowledge_of
    from mold_core.recognition.adopting import plan_adoption
    from mold_core.recognition.cache import RecognitionCache
    from mold_core.recognition.search import search
    from mold_core.recognition.transfer import transferred

    home, plugins = state.settings.home, state.plugins
    requested = [_absolute(path) for path in paths]
    before = read_adopted(home)
    before = attrs.evolve(before, ignored=tuple(path for path in before.ignored if path not in requested))
    folders = [folder for folder in (*before.folders, *requested) if os.path.exists(folder)]
    folders = list(dict.fromkeys(folders))
    if not folders and not before.folders:
        raise ValidationError("nothing is adopted yet", hint="mold adopt PATH searches a folder")
    knowledge = knowledge_of(plugins)
    cache = RecognitionCache(home / "cache" / "recognised.json", knowledge)
    found = search(folders, cache, note=lambda text: echo(f"note: {text}", err=True))
    cache.save()
    catalog = {**plugins.models, **user_models(state.settings, plugins.models)}
    plan = plan_adoption(found, before, folders, knowledge, plugins, catalog)
    if not dry_run:
        if copy or link:
            line = ProgressLine()
            try:
                plan = transferred(plan, state.settings.models_path, copy=copy, report=line)
            finally:
                line.clear()
        write_adopted(home, plan.adopted)
    return plan


def _absolute(path: Path) -> str:
    """Return an existing path as it is remembered. Raises ModelNotFoundError."""
    expanded = Path(os.path.abspath(os.path.expanduser(path)))
    if not os.path.exists(expanded):
        raise ModelNotFoundError("%s: there is no such file or folder", expanded, field="path", value=str(path))
    return str(expanded)


def _without(adopted: Adopted, name: str) -> tuple[Adopted, str]:
    """Return what is left without a model, a LoRA or a folder, and what was forgotten. Raises ModelNotFoundError."""
    path = os.path.abspath(os.path.expanduser(name))
    if path in adopted.folders:
        kept_models = {key: table for key, table in adopted.models.items() if table.get("folder") != path}
        below = path.rstrip(os.sep) + os.sep
        kept_loras = {key: file for key, file in adopted.loras.items() if not file.startswith(below)}
        folders = tuple(folder for folder in adopted.folders if folder != path)
        count = len(adopted.models) + len(adopted.loras) - len(kept_models) - len(kept_loras)
        return attrs.evolve(adopted, folders=folders, models=kept_models, loras=kept_loras), f"{path} ({count} names)"
    if name in adopted.models:
        models = {other: table for other, table in adopted.models.items() if other != name}
        ignored = (*adopted.ignored, _first_file(adopted.models[name]))
        return attrs.evolve(adopted, models=models, ignored=ignored), name
    if name in adopted.loras:
        loras = {other: path for other, path in adopted.loras.items() if other != name}
        return attrs.evolve(adopted, loras=loras, ignored=(*adopted.ignored, adopted.loras[name])), name
    raise ModelNotFoundError(f"{name!r} is not adopted", field="name", value=name, hint="mold adopt list shows all")


def _first_file(table: Mapping[str, Any]) -> str:
    first = next(iter(table["files"].values()))
    return str(first if isinstance(first, str) else first[0])


def show_plan(plan: Plan, *, dry_run: bool = False, show_all: bool = False, below: Path | None = None) -> None:
    """Print what was adopted, or would be; `below`: only what came from a folder."""
    if below is not None:
        plan = _from_folder(plan, str(below))
    would = "Would adopt" if dry_run else "Adopted"
    for title, found in ((f"{would}:", plan.models), (f"{would} LoRAs:", plan.loras)):
        if not found:
            continue
        echo(style(title, bold=True))
        width = max(map(len, found))
        for name, item in found.items():
            recognised = item.recognised
            echo(f"  {name:<{width}}  {readable_size(recognised.size_bytes):>9}  {recognised.title}")
            missing = plan.missing.get(name, ())
            if missing:
                size = readable_size(sum(file.size_bytes or 0 for file in missing))
                names = ", ".join(dict.fromkeys(file.component for file in missing))
                echo(f"  {'':<{width}}  {'':>9}  components of the catalog complete it ({size}): {names}")
    others = (
        ("Components that complete models", plan.components),
        ("Recognised, but no installed plugin runs them", plan.others),
        ("Not recognised or not readable", plan.unknown),
    )
    for title, items in others:
        if items:
            echo(f"{style(title, bold=True)}: {len(items)}")
        for item in items if show_all else ():
            recognised = item.recognised
            echo(f"  {recognised.paths[0]}: {recognised.problem or recognised.title}")
    if not show_all and any(items for _, items in others):
        echo("--all lists these files")
    if not plan.models and not plan.loras:
        echo("No model was found that mold runs.")
    elif not dry_run:
        echo("mold list shows them", err=not at_terminal())


def _from_folder(plan: Plan, folder: str) -> Plan:
    def inside(items: Sequence[Found]) -> tuple[Found, ...]:
        return tuple(item for item in items if item.folder == folder)

    return attrs.evolve(
        plan,
        models={name: item for name, item in plan.models.items() if item.folder == folder},
        loras={name: item for name, item in plan.loras.items() if item.folder == folder},
        components=inside(plan.components),
        others=inside(plan.others),
        unknown=inside(plan.unknown),
    )


def _show_changes(before: Plan, now: Plan) -> None:
    for mark, names in (
        ("+", [*now.adopted.models, *now.adopted.loras]),
        ("-", [*before.adopted.models, *before.adopted.loras]),
    ):
        other = before if mark == "+" else now
        known = {*other.adopted.models, *other.adopted.loras}
        for name in names:
            if name not in known:
                echo(f"{mark} {name}")


def _as_json(plan: Plan) -> dict[str, Any]:
    def files(items: Sequence[Found]) -> list[dict[str, Any]]:
        return [
            {"path": item.recognised.paths[0], "title": item.recognised.title, "problem": item.recognised.problem}
            for item in items
        ]

    return {
        "models": {name: plan.adopted.models[name] for name in plan.models},
        "loras": {name: plan.adopted.loras[name] for name in plan.loras},
        "components": files(plan.components),
        "others": files(plan.others),
        "unknown": files(plan.unknown),
    }
