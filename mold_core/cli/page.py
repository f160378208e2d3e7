"""docs/cli.md, generated from the help of every command: `python -m mold_core.cli.page > docs/cli.md`."""

from __future__ import annotations

from collections.abc import Iterator

import click

from mold_core.cli.main import COMMANDS, mold
from mold_core.cli.state import State
from mold_core.plugins import load_plugins

__all__ = ["cli_page"]

_WIDTH = 100

_START = """\
# The command line

The `--help` text of every command. [Settings](settings.md) provide the defaults. With `MOLD_HOST` or `--host` a server
does the work; output, files and exit status stay the same: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
Status lines go to standard output on a terminal and to standard error otherwise, so a pipe receives only the result.
`NO_COLOR` is honoured. An error is one line.

This page is generated from the commands: `python -m mold_core.cli.page > docs/cli.md`.
"""


def cli_page() -> str:
    """Return the documentation of all commands, mold serve among them, as Markdown."""
    # The help of commands that plugins add is theirs to document; mold serve comes with mold.
    group = click.Group("mold")
    load_plugins(("http",)).notify("mold_commands", cli=group)
    context = click.Context(mold, info_name="mold", obj=State(), terminal_width=_WIDTH, **mold.context_settings)
    commands = {name: mold.get_command(context, name) for name in COMMANDS} | dict(group.commands)
    parts = [_START]
    for name, command in commands.items():
        assert command is not None
        parts += _sections(context, name, command)
    return "\n".join(parts)


def _sections(parent: click.Context, name: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, parent=parent, info_name=name, terminal_width=_WIDTH, color=False)
    yield f"## {context.command_path}\n\n```\n{command.get_help(context).rstrip()}\n```\n"
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            assert found is not None
            yield from _sections(context, inner, found)


if __name__ == "__main__":
    print(cli_page(), end="")
