"""mold expand: a short wish in, full prompts out."""

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
    help="Model the prompts are for; default: the one that mold run would use.",
)
@click.option("-n", "--variations", type=int, default=1, show_default=True, help="Prompts to write, 1 to 10.")
@click.option("--seed", type=int, help="Same seed, same prompts.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.option("--backend", help="What expands: local, or the address of an OpenAI-compatible server.")
@click.option("--expand-model", help="Language model: of the catalog for local, else its name at the server.")
@click.option("--device", help="cpu, cuda or mps; default: the best there is.")
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
    """Write PROMPT, or standard input when no words are given, out as one or more full prompts, one a line.

    It is what mold run --expand does first. Prompts suit the model they are for: a tiny model gets words it knows.
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
    """Return the settings that --backend and --expand-model mean.

    A backend or a language model that is named stands before a model's own expander.
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
        raise click.UsageError('there is no prompt; try: mold expand "a house"')
    return text
