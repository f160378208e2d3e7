"""mold completions: what makes a shell complete commands, flags and model names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mold_core.cli.state import State
from mold_core.errors import MoldError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["command", "model_names"]

EPILOG = """\b
Examples:
  mold completions bash > ~/.local/share/bash-completion/completions/mold
  mold completions zsh > ~/.zfunc/_mold
  mold completions fish > ~/.config/fish/completions/mold.fish"""


@click.command("completions", epilog=EPILOG)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the script that lets SHELL complete commands, flags and the names of models."""
    from click.shell_completion import get_completion_class

    from mold_core.cli.main import mold

    cls = get_completion_class(shell)
    assert cls is not None  # the choice has looked
    completion = cls(mold, {}, "mold", "_MOLD_COMPLETE")
    click.echo(completion.source_template % completion.source_vars())


def model_names(ctx: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Return the models whose names begin so, for a shell; nothing is asked of a server or the network."""
    from click.shell_completion import CompletionItem

    try:
        models = ctx.ensure_object(State).plugins.models
    except MoldError:
        return []
    names = dict.fromkeys(name for spec in models.values() for name in (spec.base, spec.name))
    return [CompletionItem(name) for name in names if name.startswith(begun)]
