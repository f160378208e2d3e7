"""mold pull: download a model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from mold_core.catalog.hub_models import is_hub_source
from mold_core.cli.completions import model_names
from mold_core.cli.output import at_terminal, echo, style
from mold_core.cli.pull_hub import pull_from_hub
from mold_core.cli.server_flags import server_flags
from mold_core.cli.state import State
from mold_core.text import readable_size

if TYPE_CHECKING:
    from mold_core.catalog import LocalFiles
    from mold_core.wire import PullResponse

__all__ = ["command"]

EPILOG = """\b
Examples:
  mold pull flux-schnell:bf16
  HF_TOKEN=hf_… mold pull flux-dev:bf16       with a token, for gated files
  mold pull hf:city96/FLUX.1-dev-gguf:flux1-dev-Q6_K.gguf
  MOLD_MODELS_DIR=/big/models mold pull flux-schnell:bf16"""


@click.command("pull", epilog=EPILOG)
@click.argument("model", shell_complete=model_names)
@click.option("--skip-verify", is_flag=True, help="Skip the check of sizes and checksums.")
@server_flags
@click.pass_obj
def command(state: State, model: str, skip_verify: bool) -> None:
    """Download MODEL from the Hugging Face hub into the models folder.

    Existing files are kept, and an interrupted download resumes where it stopped. MODEL may also be
    hf:ORG/REPO[:FILE] or an address of the hub, for what is in no catalog: what it is, its licence and its size are
    printed first, and it becomes a model if an installed plugin runs it.
    """
    from mold_core.cli.progress import ProgressLine

    # Warnings of huggingface_hub would break the progress line; mold reports what matters itself.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    if is_hub_source(model):
        pull_from_hub(state, model, skip_verify=skip_verify)
        return
    engine = state.engine
    spec = engine.resolve(model)
    line = ProgressLine()
    try:
        pulled = engine.pull(spec.name, line, skip_verify=skip_verify)
    except KeyboardInterrupt:
        line.clear()
        echo(f"note: partial downloads are kept; resume with mold pull {spec.name}", err=True)
        raise
    finally:
        line.clear()
    if not spec.embedded:
        echo(
            f"{style('✓', fg='green')} {spec.name} downloaded, {readable_size(_size_bytes(pulled))}",
            err=not at_terminal(),
        )


def _size_bytes(pulled: LocalFiles | PullResponse) -> int:
    """Return the size of the downloaded files; a server reports it in its response."""
    size = pulled.size_bytes
    return size if isinstance(size, int) else size()
