"""Chain scripts: TOML files that people write by hand or save from the page.

schema = "mold.chain.v1"

[chain]
model = "my-video-model"
seed = 7

[[stage]]
prompt = "a boat on the sea"
frames = 97
source_image_path = "boat.png"
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from mold_core.config_file import decoded, parsed
from mold_core.errors import MoldError, SettingsError, ValidationError
from mold_core.wire import ChainRequest, ChainStage
from mold_core.wire.convert import from_json, to_json
from mold_core.wire.fields import is_optional_empty

__all__ = ["SCHEMA", "read_script", "script_of", "write_script"]

SCHEMA = "mold.chain.v1"

_MAX_BYTES = 64 * 1024 * 1024
_OF_STAGES = ("stages", "prompt", "total_frames", "clip_frames", "source_image")
_IMAGE_KEYS = ("source_image", "source_image_path", "source_image_b64")


def read_script(path: Path) -> ChainRequest:
    """Return the chain that a file describes. Paths of images are relative to the file.

    Raises ValidationError with the file, the key and a hint.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValidationError(f"a script may have at most {_MAX_BYTES:,} bytes")
        table = parsed(decoded(path.read_bytes(), path), path)
    except OSError as error:
        raise ValidationError("%s cannot be read: %s", path, (error.strerror or "it is not a file").lower()) from None
    except SettingsError as error:
        raise ValidationError("%s", error) from None
    try:
        return _request(table, path.parent)
    except MoldError as error:
        raise ValidationError("%s: %s", path, error, field=error.field, hint=error.hint) from None


def write_script(request: ChainRequest) -> str:
    """Return a chain with stages as the text of a script. Images are included as base64."""
    chain = {
        field.name: value
        for field in attrs.fields(ChainRequest)
        if field.name not in _OF_STAGES
        and (value := getattr(request, field.name)) != field.default
        and not is_optional_empty(field, value)
    }
    blocks = [f'schema = "{SCHEMA}"\n', "[chain]\n" + "".join(_lines(chain))]
    for stage in request.stages:
        values = {
            ("source_image_b64" if field.name == "source_image" else field.name): getattr(stage, field.name)
            for field in attrs.fields(ChainStage)
            if getattr(stage, field.name) != field.default
        }
        blocks.append("[[stage]]\n" + "".join(_lines(values)))
    return "\n".join(blocks)


def script_of(request: ChainRequest, stages: Sequence[ChainStage]) -> dict[str, Any]:
    """Return a chain with its stages as the JSON types of a script, without images."""
    chain = {field.name: getattr(request, field.name) for field in attrs.fields(ChainRequest)}
    shown = {name: value for name, value in chain.items() if name not in _OF_STAGES and value is not None}
    return {
        "schema": SCHEMA,
        "chain": to_json(shown),
        "stage": [to_json(attrs.evolve(stage, source_image=None)) for stage in stages],
    }


def _request(table: Mapping[str, Any], folder: Path) -> ChainRequest:
    if table.get("schema") != SCHEMA:
        raise ValidationError(
            f"schema must be {SCHEMA!r}, not {table.get('schema')!r}", field="schema", hint="write it as the first line"
        )
    unknown = sorted(table.keys() - {"schema", "chain", "stage"})
    if unknown:
        raise ValidationError(f"unknown key {unknown[0]!r}", field=unknown[0], hint="known: schema, chain, stage")
    chain, stages = table.get("chain", {}), table.get("stage", [])
    if not isinstance(chain, dict):
        raise ValidationError("chain must be a table", field="chain", hint="write [chain]")
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise ValidationError("stage must be a list of tables", field="stage", hint="write [[stage]] before each")
    body = {**chain, "stages": [_stage(index, stage, folder) for index, stage in enumerate(stages)]}
    return from_json(ChainRequest, body, strict_keys=True)


def _stage(index: int, stage: dict[str, Any], folder: Path) -> dict[str, Any]:
    image_keys = [key for key in _IMAGE_KEYS if key in stage]
    if len(image_keys) > 1:
        raise ValidationError(
            f"stages[{index}] has {' and '.join(image_keys)}", field=f"stages[{index}]", hint="keep one of them"
        )
    body = {key: value for key, value in stage.items() if key not in _IMAGE_KEYS}
    if "source_image_path" in stage:
        body["source_image"] = _image(index, stage["source_image_path"], folder)
    elif image_keys:
        body["source_image"] = stage[image_keys[0]]
    return body


def _image(index: int, name: object, folder: Path) -> bytes:
    field = f"stages[{index}].source_image_path"
    if not isinstance(name, str):
        raise ValidationError(f"{field} must be text, not {name!r}", field=field)
    try:
        return (folder / name).expanduser().read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not a path"
        raise ValidationError(f"{field}: {name!r} cannot be read: {reason.lower()}", field=field) from None


def _lines(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        yield f"{name} = {_toml(value)}\n"


def _key(name: str) -> str:
    """Return a key as TOML: quoted unless it is a bare key."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _toml(value: Any) -> str:
    if isinstance(value, bytes):
        return f'"{base64.b64encode(value).decode()}"'
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if attrs.has(type(value)):
        value = attrs.asdict(value, recurse=False)
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(name)} = {_toml(item)}" for name, item in value.items()) + " }"
    # TOML has the strings, numbers and booleans of JSON, except that it requires an escape for U+007F.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
