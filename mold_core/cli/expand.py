"""mold expand: a short prompt in, detailed prompts out."""

from __future__ import annotations

import sys

import click

from mold_core.cli.completions import model_names
from mold_core.cli.output import echo, echo_json
from mold_core.cli.server_flags import server_flags
from mold_core.cli.state import State

__all__ = ["command", "expand_flags"]

EPILOG = """\b
Examples:
  mold expand "a cat"
  mold expand "a house" -n 4 --seed 7
  mold expand "a lighthouse" -m flux-dev --backend http://localhost:11434 --expand-model qwen2.5:3b
  mold expand "a boat" -n 3 --json | jq -r '.[]'"""


@click.command("expand", epilog=EPILOG)
@click.argument("words", nargs=-1, metavar="[PROMPT]...")
@click.option(
    "-m",
    "--model",
    shell_complete=model_names,
    help="Image model to write prompts for; default: the one that mold run uses.",
)
@click.option("-n", "--variations", type=int, default=1, show_default=True, help="Number of prompts, 1 to 10.")
@click.option("--seed", type=int, help="Random seed; the same seed gives the same prompts.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.option("--backend", help="Where to expand prompts: local, or the URL of an OpenAI-compatible server.")
@click.option("--expand-model", help="Language model: a catalog name for local, else the name on the server.")
@click.option("--device", help="cpu, cuda or mps; default: the fastest available.")
@server_flags
@click.pass_obj
def command(
    state: State,
    words: tuple[str, ...],
    model: str | None,
    variations: int,
    seed: int | None,
    as_json: bool,
    backend: str | None,
    expand_model: str | None,
    device: str | None,
) -> None:
    """Expand PROMPT into one or more detailed prompts, one per line. Without PROMPT, standard input is read.

    mold run --expand does the same before it generates. The prompts suit the image model: a tiny model gets words it
    was trained on.
    """
    from mold_core.cli.progress import ProgressLine
    from mold_core.wire import ExpandRequest

    prompt = " ".join(words) if words else _from_stdin()
    state.use_flags(device=device, **expand_flags(state, backend, expand_model))
    engine = state.engine
    request = ExpandRequest(prompt=prompt, model=model, variations=variations, seed=seed)
    line = ProgressLine()
    try:
        response = engine.expand(request, line)
    finally:
        line.clear()
        engine.close()
    if as_json:
        echo_json(list(response.expanded))
    else:
        for prompt in response.expanded:
            echo(prompt)


def expand_flags(state: State, backend: str | None, expand_model: str | None) -> dict[str, object]:
    """Return the settings that --backend and --expand-model stand for.

    Either of them takes precedence over the expander that an image model provides.
    """
    flags: dict[str, object] = {"expand_backend": backend}
    if backend or expand_model:
        flags["expand_own"] = False
    if expand_model:
        remote = "://" in (backend or state.settings.expand_backend)
        flags["expand_api_model" if remote else "expand_model"] = expand_model
    return flags


def _from_stdin() -> str:
    text = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read().decode("utf-8", "replace").strip()
    if not text:
        raise click.UsageError('no prompt given; try: mold expand "a house"')
    return text
