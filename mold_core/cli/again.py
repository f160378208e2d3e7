"""mold run --from: an image made again from what its file says, with changes by flags."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mold_core.cli.output import echo, style
from mold_core.errors import ValidationError

if TYPE_CHECKING:
    from mold_core.media.metadata import OutputMetadata

__all__ = ["fields_of", "fill_in"]

# Fields of the metadata that are flags of the same name.
_SAME = ("model", "negative_prompt", "seed", "steps", "guidance", "width", "height", "frames", "fps")


def fields_of(path: str) -> dict[str, Any]:
    """Return the prompt and the flags that made an image or a video, by the names of `mold run`.

    Raises ValidationError. A strength says that the image began with another one, which no file holds: `mold run`
    asks for it.
    """
    from mold_core.wire import LoraWeight

    try:
        metadata = _metadata_of(Path(path))
    except OSError as error:
        raise ValidationError(f"--from {path!r} cannot be read: {error.strerror or error}", field="from") from None
    if metadata is None:
        raise ValidationError(
            f"{path!r} does not say how it was made", field="from", hint="only what mold made with metadata does"
        )
    fields: dict[str, Any] = {name: getattr(metadata, name) for name in _SAME}
    fields["prompt"] = metadata.prompt
    fields["original_prompt"] = metadata.original_prompt
    fields["upscale_model"] = metadata.upscaler
    fields["strength"] = metadata.strength
    if metadata.lora is not None:
        scale = 1.0 if metadata.lora_scale is None else metadata.lora_scale
        fields["loras"] = (LoraWeight(path=metadata.lora.removesuffix(".safetensors"), scale=scale),)
    return {name: value for name, value in fields.items() if value is not None}


def _metadata_of(path: Path) -> OutputMetadata | None:
    from mold_core.media.metadata import read_metadata

    with path.open("rb") as file:
        if file.read(8)[4:] == b"ftyp":
            from mold_core.media.video import read_video_metadata

            file.seek(0)
            return read_video_metadata(file)
    return read_metadata(path)


# What goes with a model: another one has its own.
_OF_MODEL = ("negative_prompt", "steps", "guidance", "width", "height", "frames", "fps", "loras", "upscale_model")


def fill_in(
    flags: dict[str, Any], made: dict[str, Any], model: str | None, words: tuple[str, ...], image: str | None
) -> tuple[str, tuple[str, ...]]:
    """Give the flags that were not given the values of `made`; return the model and the words of the prompt.

    With another `model` its own size, steps and so on hold. Raises ValidationError where the image that the first one
    began with is not named.
    """
    if made.get("strength") is not None and image is None:
        raise ValidationError("this image was made from another one", field="image", hint="name that with --image")
    another = model is not None and model != made["model"]
    for name, value in made.items():
        if name in flags and flags[name] is None and not (another and name in _OF_MODEL):
            flags[name] = value
    if "frames" in made:
        echo(
            f"{style('note:', fg='yellow')} of what made a video, its file holds words, numbers and one LoRA: sounds,"
            " images, videos, further prompts and a pipeline have to be named again",
            err=True,
        )
    if flags["expand"] is None:
        flags["expand"] = False  # the prompt is written out already, where it was
    if not words and "original_prompt" in made:
        flags["original_prompt"] = made["original_prompt"]
    return model or str(made["model"]), (str(made["prompt"]),)
