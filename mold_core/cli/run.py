"""mold run: generate an image or a video from a prompt."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mold_core.cli.again import fields_of, fill_in
from mold_core.cli.chain import run_script
from mold_core.cli.completions import first_word, model_names
from mold_core.cli.expand import expand_flags
from mold_core.cli.images import source_fields
from mold_core.cli.loras import lora_weight
from mold_core.cli.memory_flags import memory_flags, take_memory_flags
from mold_core.cli.options import CommandOfModel, parse_options
from mold_core.cli.output import echo, style
from mold_core.cli.plugin_flags import lora_flags, setting_flags
from mold_core.cli.server_flags import server_flags
from mold_core.cli.state import State
from mold_core.cli.targets import Target
from mold_core.cli.videos import chain_of, makes_videos, take_video_flags, video_flags
from mold_core.errors import ValidationError
from mold_core.wire import OUTPUT_FORMATS

if TYPE_CHECKING:
    from mold_core.catalog import DefaultModel
    from mold_core.cli.state import AnyEngine
    from mold_core.wire import ChainRequest, ChainResponse, GenerateRequest, GenerateResponse, Request

__all__ = ["command"]

EPILOG = """\b
Examples:
  mold run "a red house under a yellow moon"
  mold run flux-nano three green trees --seed 7
  mold run "a black cat" --batch 4 -o cat.png       cat-0.png … cat-3.png
  mold run "a castle on an island" > castle.webp --format webp
  mold run "the house at night" --image house.png --strength 0.9 --steps 8
  mold run "a black cat" --upscale auto             512 pixels from flux-nano's 128
  mold run "a blue house" --image house.png --mask wall.png --strength 1
  mold run "a castle" --lora sepia --lora ~/Downloads/ink.safetensors:0.6
  mold run --from house.png --seed 8                the same settings, another seed
  mold run ltx-2-19b-distilled "a boat at sea" --frames 400      a video of five clips
  mold run --script video.toml --dry-run             print the plan of a video
  mold run --expand "a house" --batch 4 -o house.png
  echo "a blue boat on the sea at night" | mold run -o boat.png"""


@click.command(
    "run",
    cls=CommandOfModel,
    epilog=EPILOG,
    plugin_flags={"temporal_upscale": lora_flags, "memory_strategy": setting_flags},
)
@click.argument("words", nargs=-1, metavar="[MODEL] [PROMPT]...", shell_complete=first_word)
@click.option("-m", "--model", shell_complete=model_names, help="Model to use; mold list shows all.")
@click.option("-o", "--output", metavar="PATH", help="Output file; '-' writes to standard output.")
@click.option("--width", type=int, help="Image width in pixels.")
@click.option("--height", type=int, help="Image height in pixels.")
@click.option("--steps", type=int, help="Number of denoising steps.")
@click.option("--guidance", type=float, help="Guidance scale: how strictly the image follows the prompt.")
@click.option("--seed", type=int, help="Random seed; the same seed gives the same image.")
@click.option(
    "--batch", "batch_size", type=int, default=1, show_default=True, help="Number of images, each with the next seed."
)
@click.option("-n", "--negative-prompt", help="What to keep out of the image, for models that support it.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice([*OUTPUT_FORMATS, "jpg"]),
    help="File format; default: the suffix of --output, else png, or mp4 for a video.",
)
@click.option("-i", "--image", metavar="PATH", help="Input image for image-to-image; '-' reads standard input.")
@click.option("--strength", type=float, help="How much to change --image: 0 keeps it, 1 ignores it; default 0.75.")
@click.option(
    "--mask", metavar="PATH", help="Inpainting mask: white areas of --image are regenerated, black areas are kept."
)
@click.option(
    "--lora",
    "loras",
    metavar="NAME[:SCALE]",
    multiple=True,
    help="LoRA to apply, by name (mold list --loras) or file; scale 0 to 2. Repeatable.",
)
@click.option(
    "-p",
    "--param",
    "options",
    metavar="NAME=VALUE",
    multiple=True,
    help="Model-specific parameter; mold info MODEL lists them. Repeatable.",
)
@click.option("--expand/--no-expand", default=None, help="Expand the prompt with a language model first (mold expand).")
@click.option("--expand-backend", help="Where to expand prompts: local, or the URL of an OpenAI-compatible server.")
@click.option("--expand-model", help="Language model: a catalog name for local, else the name on the server.")
@click.option(
    "--upscale", "upscale_model", metavar="MODEL", help="Upscale the result with this upscaler; 'auto' chooses one."
)
@click.option(
    "--from", "from_", metavar="FILE", help="Re-create a result from the metadata in FILE; other flags override it."
)
@click.option(
    "--preview", "shown", is_flag=True, help="Also show the image in the terminal; MOLD_PREVIEW=1 makes it the default."
)
@click.option(
    "--preview-as",
    type=click.Choice(["kitty", "iterm2", "sixel", "blocks"]),
    help="Protocol for --preview; default: the best one the terminal supports.",
)
@click.option("--no-metadata", is_flag=True, help="Leave the prompt and settings out of the file.")
@click.option(
    "--script", type=click.Path(path_type=Path), metavar="FILE", help="Generate the video that a TOML script describes."
)
@click.option("--dry-run", is_flag=True, help="With --script: print the plan without generating.")
@click.option("--device", help="cpu, cuda or mps; default: the fastest available.")
@video_flags
@memory_flags
@server_flags
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
    from_: str | None,
    shown: bool,
    preview_as: str | None,
    expand_backend: str | None,
    expand_model: str | None,
    script: Path | None,
    dry_run: bool,
    **flags: Any,
) -> None:
    """Generate an image or a video from PROMPT. Without PROMPT, the prompt is read from standard input.

    Without -o the file goes to the current directory, or to standard output when that is a pipe.
    """
    state.use_flags(device=device, **take_memory_flags(flags), **expand_flags(state, expand_backend, expand_model))
    recorded = {} if from_ is None else fields_of(from_)
    flags["loras"] = tuple(map(lora_weight, loras)) or None
    if any(os.path.isabs(lora.path) for lora in flags["loras"] or ()):
        state.stay_here("a --lora that is a file")
    if script is not None:
        _refuse_with_script()
        run_script(state, script, output, seed=flags["seed"], dry_run=dry_run)
        return
    if dry_run:
        raise ValidationError("--dry-run prints the plan of a script", field="dry_run", hint="pass one with --script")
    engine = state.engine
    model, prompt_words = _split_model(engine, flags.pop("model"), words)
    if from_ is not None:
        model, words_before = fill_in(flags, recorded, model and engine.resolve(model).name, prompt_words, image)
        prompt_words = prompt_words or words_before
    images = source_fields(image, flags.pop("strength"), mask)
    prompt = " ".join(prompt_words) if prompt_words else _prompt_from_stdin(taken=image == "-")
    chained = take_video_flags(flags)
    spec = engine.resolve(model) if model else engine.default_model().spec
    options = parse_options(flags["options"], engine.parameters(spec)) if flags["options"] else {}
    flags["options"] = {**_recorded_options(recorded, spec.name), **options}
    videos = makes_videos(engine, spec)
    target = Target.choose(output, flags.pop("output_format"), count=flags["batch_size"], videos=videos)
    if not model:
        _announce_default(engine)
    request = _request(prompt, spec.name, target, **images, **flags)
    chain = chain_of(engine, request, spec, chained)
    if chain is not None and state.lost is not None:
        raise state.lost  # hours of work must not start on another machine than the named one
    files = _generate(engine, chain or request, target)
    if target.path is not None:
        _show(files, shown, preview_as)
    if model:
        from mold_core.catalog import remember_model

        remember_model(state.settings.home, spec.name)


def _recorded_options(recorded: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return the options in the metadata of --from, unless they are for another model."""
    return dict(recorded.get("options", {})) if recorded.get("model") == model else {}


def _refuse_with_script() -> None:
    """Raise ValidationError for flags that a script sets itself."""
    context = click.get_current_context()
    allowed = {"script", "dry_run", "output", "seed", "device", "host", "local"}
    for parameter in context.command.params:
        is_set = context.get_parameter_source(parameter.name or "") is click.core.ParameterSource.COMMANDLINE
        if is_set and parameter.name not in allowed:
            what = parameter.opts[0] if isinstance(parameter, click.Option) else "a prompt"
            raise ValidationError(
                f"{what} cannot be combined with --script, which sets everything but the seed",
                field=parameter.name,
                hint="edit the script, or leave one out",
            )


def _show(files: list[Any], flag: bool, named: str | None) -> None:
    """Show images in the terminal if flags or MOLD_PREVIEW request it."""
    from mold_core.cli.preview import requested_protocol, show_image

    protocol = requested_protocol(flag, named, os.environ)
    if protocol is None:
        return
    for file in files:
        show_image(file.data, protocol=protocol)


def _split_model(engine: AnyEngine, named: str | None, words: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    """Return the model and the words of the prompt; the first word is a model if it is the name of one."""
    if named or not words:
        return named, words
    first = words[0]
    models = engine.catalog()
    if first in models or any(spec.base == first for spec in models.values()):
        return first, words[1:]
    if ":" in first and not any(char.isspace() for char in first) and len(words) > 1 and not first.endswith(":"):
        engine.resolve(first)  # raises, with the nearest names
    return None, words


def _prompt_from_stdin(taken: bool) -> str:
    if taken or sys.stdin is None or sys.stdin.isatty():
        raise click.UsageError('no prompt given; try: mold run "a red house under a yellow moon"')
    text = sys.stdin.buffer.read().decode("utf-8", "replace").strip()
    if not text:
        raise click.UsageError("no prompt given, and standard input is empty")
    return text


def _announce_default(engine: AnyEngine) -> DefaultModel:
    chosen = engine.default_model()
    if chosen.reason == "embedded":
        echo(
            f"{style('note:', fg='yellow')} using {chosen.spec.name}, the tiny model inside mold; "
            f"'mold list' shows large ones, 'mold pull NAME' downloads one",
            err=True,
        )
    return chosen


def _request(
    prompt: str, model: str, target: Target, *, no_metadata: bool, batch_size: int, **flags: Any
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


def _generate(engine: AnyEngine, request: GenerateRequest | ChainRequest, target: Target) -> list[Any]:
    """Run a request, write the results to the target, and return them."""
    from mold_core.cli.progress import ProgressLine
    from mold_core.wire import ChainResponse

    line = ProgressLine()
    work: Request[GenerateResponse | ChainResponse] = request
    try:
        response = engine.run(work, line)
    finally:
        line.clear()
        engine.close()
    if isinstance(response, ChainResponse) or response.video is not None:
        files: list[Any] = [response.video]
    else:
        files = list(response.images)
    target.write(files, model=response.model, seed=response.seed_used, time_ms=response.generation_time_ms)
    return files
