"""mold run --from: an image made again from what its file says, with changes by flags."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from mold_core.cli.output import echo, style
from mold_core.errors import ValidationError

if TYPE_CHECKING:
    from mold_core.media.metadata import OutputMetadata

__all__ = ["fields_of", "fill_in"]


def fields_of(path: str) -> dict[str, Any]:
    """Return the recorded fields that made an image or a video, by the names of a request.

    Raises ValidationError. A strength says that the image began with another one, which no file holds: `mold run`
    asks for it.
    """
    from mold_core.media.output_metadata import recorded_fields
    from mold_core.wire import LoraWeight

    try:
        metadata = _metadata_of(Path(path))
    except OSError as error:
        raise ValidationError(f"--from {path!r} cannot be read: {error.strerror or error}", field="from") from None
    if metadata is None:
        raise ValidationError(
            f"{path!r} does not say how it was made",
            field="from",
            hint="only files that mold wrote with metadata can be used",
        )
    fields: dict[str, Any] = {field.name: getattr(metadata, field.name) for field in recorded_fields()}
    fields["upscale_model"] = metadata.upscaler
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


def fill_in(
    flags: dict[str, Any], made: dict[str, Any], model: str | None, words: tuple[str, ...], image: str | None
) -> tuple[str, tuple[str, ...]]:
    """Set the flags that were not given to the values of `made`; return the model and the words of the prompt.

    With another `model` its own size, steps and options hold. Raises ValidationError when the result was made from
    another image and `image` does not name that.
    """
    from mold_core.wire import GenerateRequest
    from mold_core.wire.fields import traits_of

    if made.get("strength") is not None and image is None:
        raise ValidationError("this image was made from another one", field="image", hint="name that with --image")
    another = model is not None and model != made["model"]
    of_model = {field.name for field in attrs.fields(GenerateRequest) if traits_of(field).of_model}
    for name, value in made.items():
        if name in flags and flags[name] is None and not (another and name in of_model):
            flags[name] = value
    if "frames" in made:
        echo(
            f"{style('note:', fg='yellow')} the metadata of a video holds words, numbers and one LoRA: name audio,"
            " images, videos, further prompts and the pipeline again",
            err=True,
        )
    if flags["expand"] is None:
        flags["expand"] = False  # the prompt is written out already, where it was
    if not words and "original_prompt" in made:
        flags["original_prompt"] = made["original_prompt"]
    return model or str(made["model"]), (str(made["prompt"]),)
