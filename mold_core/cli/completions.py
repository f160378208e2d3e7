"""mold completions: shell completion of commands, flags and model names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mold_core.cli.state import State
from mold_core.errors import MoldError
from mold_core.text import visible

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["command", "first_word", "model_names"]

EPILOG = """\b
Examples:
  mold completions bash > ~/.local/share/bash-completion/completions/mold
  mold completions zsh > ~/.zfunc/_mold
  mold completions fish > ~/.config/fish/completions/mold.fish"""


# Click's script for bash, extended for names with a colon: bash splits words there (COMP_WORDBREAKS), so the script
# joins the pieces before it calls mold, and removes the text before the last colon from the suggestions.
_BASH = r"""
_mold_completion() {
    local IFS=$'\n' line=$COMP_LINE words=() response type value piece i prefix
    for ((i = 0; i <= COMP_CWORD; i++)); do
        piece=${COMP_WORDS[i]}
        if ((i > 0)) && [[ -n $piece && $line == "$piece"* && ($piece == : || ${words[-1]} == *:) ]]; then
            words[-1]+=$piece
        else
            words+=("$piece")
        fi
        line=${line#*"$piece"}
    done
    response=$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((${#words[@]} - 1)) _MOLD_COMPLETE=bash_complete "$1")
    COMPREPLY=()
    for piece in $response; do
        IFS=',' read -r type value <<< "$piece"
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done
    if [[ ${words[-1]} == *:* && $COMP_WORDBREAKS == *:* ]]; then
        prefix=${words[-1]%:*}:
        COMPREPLY=("${COMPREPLY[@]#"$prefix"}")
    fi
}

complete -o nosort -F _mold_completion mold
"""


@click.command("completions", epilog=EPILOG)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script for SHELL; it completes commands, flags and model names."""
    if shell == "bash":
        click.echo(_BASH.strip())
        return
    from click.shell_completion import get_completion_class

    from mold_core.cli.main import mold

    cls = get_completion_class(shell)
    assert cls is not None  # click.Choice allows only supported shells
    completion = cls(mold, {}, "mold", "_MOLD_COMPLETE")
    click.echo(completion.source_template % completion.source_vars())


def model_names(ctx: click.Context, _parameter: click.Parameter, prefix: str) -> list[CompletionItem]:
    """Return the models whose names start with a prefix, for a shell. No server or network is used."""
    from click.shell_completion import CompletionItem

    try:
        models = ctx.ensure_object(State).plugins.models
    except MoldError:
        return []
    names = dict.fromkeys(visible(name) for spec in models.values() for name in (spec.base, spec.name))
    return [CompletionItem(name) for name in names if name.startswith(prefix)]


def first_word(ctx: click.Context, parameter: click.Parameter, prefix: str) -> list[CompletionItem]:
    """Return models for the first word of `mold run`, which may name one; nothing for the words of the prompt."""
    return [] if ctx.params.get("words") or ctx.params.get("model") else model_names(ctx, parameter, prefix)
