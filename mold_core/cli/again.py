"""mold run --from: re-create a result from the metadata in its file, with changes by flags."""

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
    """Return the fields that generated an image or a video, under the field names of a request.

    Raises ValidationError. A strength means that the image was generated from an input image. No file holds that one,
    so `mold run` requires --image.
    """
    from mold_core.media.output_metadata import recorded_fields
    from mold_core.wire import LoraWeight

    try:
        metadata = _metadata_of(Path(path))
    except OSError as error:
        raise ValidationError(f"--from {path!r} cannot be read: {error.strerror or error}", field="from") from None
    if metadata is None:
        raise ValidationError(
            f"{path!r} has no metadata of mold",
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
    flags: dict[str, Any], recorded: dict[str, Any], model: str | None, words: tuple[str, ...], image: str | None
) -> tuple[str, tuple[str, ...]]:
    """Fill in the flags that were not passed from `recorded`; return the model and the words of the prompt.

    With another `model`, size, steps and options keep that model's defaults. Raises ValidationError if the recorded
    image had an input image and `image` is None.
    """
    from mold_core.wire import GenerateRequest
    from mold_core.wire.fields import traits_of

    if recorded.get("strength") is not None and image is None:
        raise ValidationError(
            "this image was generated from an input image", field="image", hint="pass it with --image"
        )
    another = model is not None and model != recorded["model"]
    of_model = {field.name for field in attrs.fields(GenerateRequest) if traits_of(field).of_model}
    for name, value in recorded.items():
        if name in flags and flags[name] is None and not (another and name in of_model):
            flags[name] = value
    if "frames" in recorded:
        echo(
            f"{style('note:', fg='yellow')} the metadata of a video holds its prompt, numbers and one LoRA; pass input"
            " images, audio, videos, further prompts and the pipeline again",
            err=True,
        )
    if flags["expand"] is None:
        flags["expand"] = False  # an expanded prompt is recorded as such
    if not words and "original_prompt" in recorded:
        flags["original_prompt"] = recorded["original_prompt"]
    return model or str(recorded["model"]), (str(recorded["prompt"]),)
