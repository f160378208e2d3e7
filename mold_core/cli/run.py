"""mold run: a prompt in, a picture out."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from mold_core.cli.expand import expand_flags
from mold_core.cli.loras import lora_weight
from mold_core.cli.memory_flags import memory_flags, take_memory_flags
from mold_core.cli.pictures import source_fields
from mold_core.cli.state import State
from mold_core.errors import OutputError, ValidationError

if TYPE_CHECKING:
    from mold_core.catalog import DefaultModel
    from mold_core.engine import Engine
    from mold_core.wire import GenerateRequest, GenerateResponse, ImageData

__all__ = ["command"]

_SUFFIX_FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}

EPILOG = """\b
Examples:
  mold run "a red house under a yellow moon"
  mold run flux-nano three green trees --seed 7
  mold run "a white cat" --batch 4 -o cat.png       cat-0.png … cat-3.png
  mold run "a castle on an island" > castle.webp --format webp
  mold run "the house at night" --image house.png --strength 0.9
  mold run "a blue house" --image house.png --mask wall.png --strength 1
  mold run "a castle" --lora sepia --lora ~/Downloads/ink.safetensors:0.6
  mold run --expand "a house" --batch 4 -o house.png
  echo "a blue boat on the sea at night" | mold run -o boat.png"""


@click.command("run", epilog=EPILOG, short_help="Make a picture from words.")
@click.argument("words", nargs=-1, metavar="[MODEL] [PROMPT]...")
@click.option("-m", "--model", help="Model to use (mold list).")
@click.option("-o", "--output", metavar="PATH", help="File to write; '-' is standard output.")
@click.option("--width", type=int, help="Width in pixels.")
@click.option("--height", type=int, help="Height in pixels.")
@click.option("--steps", type=int, help="Denoising steps.")
@click.option("--guidance", type=float, help="How strictly the prompt is followed.")
@click.option("--seed", type=int, help="Same seed, same picture.")
@click.option(
    "--batch", "batch_size", type=int, default=1, show_default=True, help="Pictures to make, seeds counting up."
)
@click.option("-n", "--negative-prompt", help="What not to show, for models that know the idea.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["png", "jpeg", "jpg", "webp"]),
    help="File format; default: by the suffix of --output, else png.",
)
@click.option("-i", "--image", metavar="PATH", help="Picture to start from; '-' is standard input.")
@click.option(
    "--strength", type=float, help="How far to move away from --image: 0 keeps it, 1 forgets it; default 0.75."
)
@click.option("--mask", metavar="PATH", help="Paint only the white parts of --image anew, and keep the black ones.")
@click.option(
    "--lora",
    "loras",
    metavar="NAME[:SCALE]",
    multiple=True,
    help="LoRA to draw with, by name (mold list --loras) or file; scale 0 to 2. May be given several times.",
)
@click.option("--expand/--no-expand", default=None, help="Write the prompt out in full first (mold expand).")
@click.option("--expand-backend", help="What expands: local, or the address of an OpenAI-compatible server.")
@click.option("--expand-model", help="Language model: of the catalog for local, else its name at the server.")
@click.option("--no-metadata", is_flag=True, help="Do not write the prompt and settings into the file.")
@click.option("--device", help="cpu, cuda or mps; default: the best there is.")
@memory_flags
@click.pass_obj
def command(
    state: State,
    /,
    words: tuple[str, ...],
    output: str | None,
    device: str | None,
    image: str | None,
    mask: str | None,
    loras: tuple[str, ...],
    expand_backend: str | None,
    expand_model: str | None,
    **flags: Any,
) -> None:
    """Make a picture from PROMPT, or from standard input when no words are given.

    Without -o the picture is saved in the current directory, or written to standard output when that is a pipe.
    """
    state.use_flags(device=device, **take_memory_flags(flags), **expand_flags(state, expand_backend, expand_model))
    engine = state.engine
    model, prompt_words = _split_model(engine, flags.pop("model"), words)
    pictures = source_fields(image, flags.pop("strength"), mask)
    flags["loras"] = tuple(map(lora_weight, loras)) or None
    prompt = " ".join(prompt_words) if prompt_words else _prompt_from_stdin(taken=image == "-")
    target = _Target.choose(output, flags.pop("output_format"), flags["batch_size"])
    chosen = None if model else _announce_default(engine)
    request = _request(prompt, model or (chosen.spec.name if chosen else None), target, **pictures, **flags)
    response = _generate(engine, request)
    target.write(response)
    if model:
        from mold_core.catalog import remember_model

        remember_model(state.settings.home, response.model)


def _split_model(engine: Engine, named: str | None, words: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    """Return the model and the words of the prompt; the first word is a model if it is the name of one."""
    if named or not words:
        return named, words
    first = words[0]
    models = engine.plugins.models
    if first in models or any(spec.base == first for spec in models.values()):
        return first, words[1:]
    if ":" in first and not any(char.isspace() for char in first) and len(words) > 1 and not first.endswith(":"):
        engine.resolve(first)  # raises, with the nearest names
    return None, words


def _prompt_from_stdin(taken: bool) -> str:
    if taken or sys.stdin is None or sys.stdin.isatty():
        raise click.UsageError('there is no prompt; try: mold run "a red house under a yellow moon"')
    text = sys.stdin.buffer.read().decode("utf-8", "replace").strip()
    if not text:
        raise click.UsageError("there is no prompt: no words were given and standard input is empty")
    return text


def _announce_default(engine: Engine) -> DefaultModel:
    chosen = engine.default_model()
    if chosen.reason == "embedded":
        click.echo(
            f"{click.style('note:', fg='yellow')} using {chosen.spec.name}, the tiny model inside mold; "
            f"'mold list' shows large ones, 'mold pull NAME' fetches one",
            err=True,
        )
    return chosen


def _request(
    prompt: str, model: str | None, target: _Target, *, no_metadata: bool, batch_size: int, **flags: Any
) -> GenerateRequest:
    from mold_core.wire import GenerateRequest

    return GenerateRequest(
        prompt=prompt,
        model=model,
        batch_size=batch_size,
        output_format=target.format,  # type: ignore[arg-type]
        embed_metadata=False if no_metadata else None,
        **flags,
    )


def _generate(engine: Engine, request: GenerateRequest) -> GenerateResponse:
    from mold_core.cli.progress import ProgressLine

    line = ProgressLine()
    try:
        return engine.generate(request, line)
    finally:
        line.clear()
        engine.close()


@attrs.frozen
class _Target:
    """Where results go: a file, several numbered files, or standard output (`path` None)."""

    path: Path | None
    named: bool
    format: str

    @classmethod
    def choose(cls, output: str | None, format_: str | None, batch_size: int) -> _Target:
        """Decide before any work is done, so that nothing is computed that cannot be kept."""
        to_stdout = output == "-" or (output is None and not sys.stdout.isatty())
        format_ = "jpeg" if format_ == "jpg" else format_
        if to_stdout:
            if batch_size != 1:
                raise ValidationError(
                    f"--batch {batch_size} makes several pictures and standard output takes one",
                    field="batch_size",
                    hint="name a file with -o",
                )
            return cls(None, True, format_ or "png")
        if output is None:
            _check_directory(Path.cwd())
            return cls(Path.cwd(), False, format_ or "png")
        path = Path(output)
        by_suffix = _SUFFIX_FORMATS.get(path.suffix.lower())
        if path.suffix and by_suffix is None:
            raise ValidationError(
                f"--output {output!r} ends in {path.suffix}", field="output", hint="use .png, .jpg, .jpeg or .webp"
            )
        if format_ and by_suffix and format_ != by_suffix:
            raise ValidationError(
                f"--output {output!r} is a {by_suffix} file and --format says {format_}",
                field="output_format",
                hint="leave one of them out",
            )
        if output.endswith(os.sep) or os.path.isdir(path):
            raise OutputError(f"{output!r} is a directory", field="output", hint="name a file in it")
        _check_directory(path.parent)
        return cls(path, True, format_ or by_suffix or "png")

    def write(self, response: GenerateResponse) -> None:
        """Write the pictures and say where they are."""
        if self.path is None:
            sys.stdout.buffer.write(response.images[0].data)
            sys.stdout.buffer.flush()
            return
        now = int(time.time())
        for image in response.images:
            saved = self._save(self.path, image, len(response.images), response.model, now)
            seconds = response.generation_time_ms / 1000
            click.echo(
                f"{click.style('✓', fg='green')} {saved}  {image.width}x{image.height}, "
                f"seed {(response.seed_used + image.index) % 2**64}, {seconds:.1f} s",
                err=not sys.stdout.isatty(),
            )

    def _save(self, path: Path, image: ImageData, count: int, model: str, now: int) -> Path:
        if self.named:
            numbered = path if count == 1 else path.with_stem(f"{path.stem}-{image.index}")
            return image.save(numbered)
        from mold_core.gallery import file_name, save

        return save(path, file_name(model, now, image.index if count > 1 else None, image.format), image.data)


def _check_directory(directory: Path) -> None:
    if not os.path.isdir(directory):
        raise OutputError(f"the directory {str(directory)!r} does not exist", field="output", hint="make it first")
    if not os.access(directory, os.W_OK):
        raise OutputError(f"the directory {str(directory)!r} is not writable", field="output", hint="choose another")
