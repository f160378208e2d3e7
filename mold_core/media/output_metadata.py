"""The metadata of a result: the recorded fields of its request, under their own names."""

from __future__ import annotations

import json
import re
from math import isfinite
from pathlib import PurePath
from typing import Any

import attrs

from mold_core.version import VERSION
from mold_core.wire import GenerateRequest
from mold_core.wire.convert import from_text, to_json
from mold_core.wire.fields import choices_of, doc_of, traits_of, wire_field

__all__ = ["OutputMetadata", "metadata_of", "recorded_fields"]

_MAX_SEED = 2**64 - 1
_MAX_COUNT = 2**31 - 1
_SURROGATE = re.compile("[\ud800-\udfff]")


def recorded_fields(cls: type = GenerateRequest) -> list[attrs.Attribute[Any]]:
    """Return the request fields that metadata records under their own names."""
    return [attribute for attribute in attrs.fields(attrs.resolve_types(cls)) if traits_of(attribute).recorded]


def _with_recorded(_cls: type, fields: list[attrs.Attribute[Any]]) -> list[attrs.Attribute[Any]]:
    """Add the recorded fields of requests that the class does not declare itself."""
    declared = {field.name for field in fields}
    return [*fields, *(_lenient(field) for field in recorded_fields() if field.name not in declared)]


def _lenient(field: attrs.Attribute[Any]) -> attrs.Attribute[Any]:
    """Return a field without bounds and choices, because files of later versions may contain unknown values."""
    declared: Any = str | None if choices_of(field) else field.type
    return field.evolve(type=declared, default=None, metadata=wire_field(doc_of(field)).metadata)


@attrs.frozen(kw_only=True, field_transformer=_with_recorded)
class OutputMetadata:
    """The inputs of a result, sufficient to reproduce it. A field that is None was not used and is not written.

    Lone surrogates, which UTF-8 cannot encode, become U+FFFD when the object is created. All other characters,
    including NUL and line breaks, are preserved.

    Recorded fields of requests that are not declared here are added automatically.
    """

    prompt: str = wire_field("What the image shows.")
    negative_prompt: str | None = wire_field("What it must not show.", default=None)
    original_prompt: str | None = wire_field("The prompt before it was expanded.", default=None)
    model: str = wire_field("Full name of the model.")
    seed: int = wire_field("Seed of the noise.", minimum=0, maximum=_MAX_SEED)
    steps: int = wire_field("Denoising steps.", minimum=0, maximum=_MAX_COUNT)
    guidance: float = wire_field("How strictly the prompt was followed.")
    width: int = wire_field("Width in pixels.", minimum=0, maximum=_MAX_COUNT)
    height: int = wire_field("Height in pixels.", minimum=0, maximum=_MAX_COUNT)
    strength: float | None = wire_field("How far it moved away from a source image.", default=None)
    lora: str | None = wire_field("File name of the LoRA.", default=None)
    lora_scale: float | None = wire_field("Strength of the LoRA.", default=None)
    frames: int | None = wire_field("Frames of a video.", default=None, minimum=0, maximum=_MAX_COUNT)
    fps: int | None = wire_field("Frames per second.", default=None, minimum=0, maximum=_MAX_COUNT)
    upscaler: str | None = wire_field("Full name of the upscaler that enlarged it afterwards.", default=None)
    options: dict[str, Any] | None = wire_field("The family's own parameters.", default=None, hash=False)
    version: str = wire_field("Version of mold that made it.")

    def __attrs_post_init__(self) -> None:
        for attribute in attrs.fields(type(self)):
            value = getattr(self, attribute.name)
            if isinstance(value, str | dict):
                object.__setattr__(self, attribute.name, _storable(value))

    def to_json(self) -> str:
        """Return the fields that are set as one line of JSON, which is safe in XML after escaping."""
        text = json.dumps(to_json(self), ensure_ascii=False, allow_nan=False)
        return re.sub("[\ufffe\uffff]", lambda match: f"\\u{ord(match[0]):04x}", text)

    @classmethod
    def from_json(cls, text: str | bytes) -> OutputMetadata:
        """Return the metadata in JSON text. Unknown keys are ignored. Raises ValidationError."""
        return from_text(cls, text)


def _storable(value: Any) -> Any:
    """Return a text without lone surrogates, or the scalar entries of options that can be stored in a file."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    return {
        _storable(name): _storable(item) if isinstance(item, str) else item
        for name, item in value.items()
        if isinstance(item, str | int) or (isinstance(item, float) and isfinite(item))
    }


def metadata_of(request: GenerateRequest) -> OutputMetadata:
    """Return the metadata to store for a complete request of one image or video."""
    lora = request.lora or (request.loras[0] if request.loras else None)
    recorded: dict[str, Any] = {field.name: getattr(request, field.name) for field in recorded_fields()}
    if request.source_image is None:
        recorded["strength"] = None  # strength applies only to that image
    recorded["options"] = request.options or None
    return OutputMetadata(
        **recorded,
        lora=PurePath(lora.path).name if lora else None,
        lora_scale=lora.scale if lora else None,
        upscaler=request.upscale_model,
        version=VERSION,
    )
