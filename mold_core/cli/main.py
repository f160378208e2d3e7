"""The `mold` command: finds its subcommands by name, and turns errors into one line and an exit status."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from importlib import import_module
from typing import Any

import click

from mold_core.cli.interrupt import INTERRUPTED, exit_now
from mold_core.cli.output import echo, foreign_code, give_back, prepare_streams, result_descriptor, style
from mold_core.cli.plugin_commands import listed_commands
from mold_core.cli.state import State
from mold_core.errors import CancelledError, MoldError
from mold_core.text import visible

__all__ = ["main", "mold"]

# Command → module in mold_core.cli, imported when needed, and its summary on the help page, in that order.
COMMANDS = {
    "run": ("run", "Generate an image or a video from a prompt."),
    "expand": ("expand", "Expand a short prompt into a detailed one."),
    "upscale": ("upscale", "Upscale images and videos."),
    "list": ("list_models", "List downloaded and available models."),
    "info": ("info", "Show details of a model, or of this installation."),
    "pull": ("pull", "Download a model."),
    "adopt": ("adopt", "Use models in folders of other programs."),
    "convert": ("convert", "Convert pickle files of weights to safetensors."),
    "chain": ("chain", "Generate long videos from scripts."),
    "rm": ("remove", "Delete models from the disk."),
    "clean": ("clean", "Delete unfinished downloads, orphaned files and caches."),
    "gallery": ("gallery", "List, search, show and delete results."),
    "plugins": ("plugins", "List plugins, what they provide, and which failed."),
    "default": ("default", "Show or set the default model."),
    "config": ("config", "Show and change settings."),
    "server": ("server", "Run the HTTP server in the background."),
    "mcp": ("mcp", "Serve tools to MCP hosts on standard input and output."),
    "ps": ("ps", "Show what the server is doing."),
    "unload": ("unload", "Unload models from the server's memory."),
    "jobs": ("jobs", "List, follow and cancel the server's jobs."),
    "stats": ("stats", "Show disk usage."),
    "doctor": ("doctor", "Check the installation."),
    "completions": ("completions", "Print a shell completion script."),
    "version": ("version", "Show the version."),
}

EPILOG = """\b
Examples:
  mold run "a red house under a yellow moon"
  mold run "three green trees" --seed 7 -o trees.png
  mold run -m flux-schnell "a lighthouse in fog" --width 1216 --height 832
  echo "a blue boat on the sea" | mold run > boat.png
  mold list"""


class _LazyGroup(click.Group):
    """A group that imports its commands when needed, and to which plugins add theirs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *sorted(self._listed(ctx).keys() - COMMANDS.keys())]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in COMMANDS:
            command: click.Command = import_module(f"mold_core.cli.{COMMANDS[name][0]}").command
            return command
        self._load_plugins(ctx)
        found = super().get_command(ctx, name)
        if found is not None:
            give_back()
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, help_) for name, (_module, help_) in COMMANDS.items()]
        rows += sorted(
            (visible(name), visible(help_)) for name, help_ in self._listed(ctx).items() if name not in COMMANDS
        )
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            # Click would always write an empty line; it is needed only after a ^C that the terminal has echoed.
            if sys.stderr is not None and sys.stderr.isatty():
                echo(err=True)
            raise CancelledError("interrupted") from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            near = get_close_matches(args[0], self.list_commands(ctx), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"unknown command {args[0]!r}{hint}", ctx) from error

    def _listed(self, ctx: click.Context) -> dict[str, str]:
        if ctx.params.get("no_plugins") or ctx.ensure_object(State).no_plugins:
            return {}
        try:
            return listed_commands(lambda: self._load_plugins(ctx))
        except MoldError:
            return {}  # a broken config.toml must not break the help page; commands report it

    def _load_plugins(self, ctx: click.Context) -> tuple[dict[str, click.Command], list[str]]:
        """Let plugins add their commands, once. Return the commands, and the files of the plugins' modules."""
        state = ctx.ensure_object(State)
        plugins = state.plugins
        if not state.commands_added:
            state.commands_added = True
            with foreign_code():
                failures = plugins.notify("mold_commands", cli=self)
            for name, failure in failures:
                echo(f"warning: plugin {name} could not add its commands: {failure}", err=True)
        modules = [getattr(plugin, "__file__", None) for plugin in plugins.manager.get_plugins()]
        return dict(self.commands), sorted(filter(None, modules))


@click.group(
    cls=_LazyGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
)
@click.option("--no-plugins", is_flag=True, is_eager=True, help="Do not load plugins.")
@click.option("--version", is_flag=True, help="Show the version.")
@click.pass_context
def mold(ctx: click.Context, no_plugins: bool, version: bool) -> None:
    """Generate images and videos from prompts on your own machine.

    The first image needs no download: a tiny model ships with mold.
    """
    ctx.ensure_object(State).no_plugins = no_plugins
    ctx.color = _color()
    if version:
        ctx.invoke(_command(ctx, "version"))
    elif ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def _command(ctx: click.Context, name: str) -> Any:
    assert isinstance(ctx.command, click.Group)
    return ctx.command.get_command(ctx, name)


def main() -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    # NOTE: SIGPIPE stays ignored, Python's default: otherwise a server would die when it responds to a client that has
    # just disconnected, or calls a worker that has just died.
    prepare_streams()
    try:
        status = _run(State(owns_process=True))
    except SystemExit:  # from Click, for an output that nobody reads
        status = 1
    if status and _nobody_reads():
        _end_by_sigpipe()
    if status == INTERRUPTED or any(thread.name.startswith("mold-feed-") for thread in threading.enumerate()):
        # A worker thread may still run C++ code: Python would end the thread and abort the process.
        exit_now(status)
    sys.exit(status)


def _run(state: State | None = None) -> int:
    try:
        status = mold.main(prog_name="mold", standalone_mode=False, obj=state)
        if sys.stdout is not None:
            sys.stdout.flush()
        if isinstance(status, int):  # the status of a click.exceptions.Exit, which Click does not raise here
            return status
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", INTERRUPTED)
    except MoldError as error:
        return _fail(str(error), error.exit_status)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return 1
        # Commands turn expected errors into MoldError; what remains is a standard output that cannot be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), result_descriptor())
        return _fail(f"{error.filename or 'standard output'}: {error.strerror or error}", 1)
    return 0


def _nobody_reads() -> bool:
    """Return whether standard output is a pipe whose reader has closed it, as in ``mold list | head``."""
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(result_descriptor(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _end_by_sigpipe() -> None:
    """End by SIGPIPE, without a message, as other programs in a pipe do."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGPIPE)


def _color() -> bool | None:
    """Return False if NO_COLOR is set (https://no-color.org), None to decide by the kind of output."""
    return False if os.environ.get("NO_COLOR") else None


def _fail(message: str, exit_status: int) -> int:
    if os.environ.get("MOLD_LOG", "").lower() == "debug":
        import traceback

        for line in traceback.format_exc().splitlines():
            echo(line, err=True)
    # A message of several lines, such as an expander's, is joined rather than escaped.
    echo(style("error: ", fg="red") + " ".join(message.split()), err=True, color=_color())
    return exit_status
