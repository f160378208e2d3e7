"""mold pull hf:ORG/REPO[:FILE]: fetches what is in no catalog, says what it is, and adopts it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mold_core.cli.output import at_terminal, echo, style
from mold_core.errors import DownloadError
from mold_core.text import readable_size

if TYPE_CHECKING:
    from mold_core.catalog import ModelSpec
    from mold_core.catalog.hub import Hub
    from mold_core.cli.state import State

__all__ = ["pull_from_hub"]


def pull_from_hub(state: State, text: str, *, skip_verify: bool) -> None:
    """Fetch the files that a source on the hub names, and make models of them.

    What they are, their licence and their size are printed before anything is fetched. Raises DownloadError.
    """
    from mold_core.catalog import ModelStore
    from mold_core.catalog.hub import ConnectionLost, Hub
    from mold_core.catalog.hub_models import files_to_fetch, hub_model, parse_source, read_repository
    from mold_core.catalog.pull import check_paths, pull
    from mold_core.catalog.together import FILES_AT_ONCE
    from mold_core.cli.adopt import adopt_paths, show_plan
    from mold_core.cli.progress import ProgressLine

    state.refuse_server(f"mold pull {text.partition(':')[0]}:…")
    store = ModelStore(state.settings.models_path)
    if state.settings.offline:
        raise DownloadError(f"MOLD_OFFLINE is set, so {text} is not fetched", hint="unset it to fetch models")
    hub = Hub()
    source = parse_source(text, hub.endpoint)
    try:
        repository = read_repository(hub, source.repo)
    except ConnectionLost as lost:
        raise DownloadError(f"nothing can be fetched: {lost}") from lost
    files = files_to_fetch(repository, source.file)
    spec = hub_model(repository, files)
    check_paths(spec, store)
    _announce(state, hub, spec, gated=repository.gated)
    line = ProgressLine()
    try:
        pull(spec, store, on_event=line, skip_verify=skip_verify, at_once=FILES_AT_ONCE)
    except KeyboardInterrupt:
        line.clear()
        echo(f"note: partial downloads are kept; resume with mold pull {text}", err=True)
        raise
    finally:
        line.clear()
    total = sum(file.size_bytes for file in files)
    echo(f"{style('✓', fg='green')} {spec.name} downloaded, {readable_size(total)}", err=not at_terminal())
    folder = store.models_dir / f"hf-{source.repo}"
    show_plan(adopt_paths(state, [folder]), below=folder)


def _announce(state: State, hub: Hub, spec: ModelSpec, *, gated: bool) -> None:
    """Print what is to be fetched: each file of weights, what it is and its size; and the licence."""
    from mold_core.catalog.hub import ConnectionLost
    from mold_core.recognition import knowledge_of
    from mold_core.recognition.remote import recognise_remote

    knowledge = knowledge_of(state.plugins)
    weights = [file for file in spec.files if file.path.lower().endswith((".safetensors", ".sft", ".gguf"))]
    for file in weights[:8]:
        try:
            remote = hub.look_up(str(file.repo), str(file.filename), gated=file.gated)
        except ConnectionLost:
            break
        found = recognise_remote(hub, remote, knowledge)
        what = found.title if found else "not recognised by its beginning"
        echo(f"{readable_size(file.size_bytes or 0):>9}  {file.filename}: {what}", err=True)
    gate = "; its licence must be accepted on the hub" if gated else ""
    echo(f"licence: {spec.licence}, as the repository {spec.name.removeprefix('hf:')} states it{gate}", err=True)
