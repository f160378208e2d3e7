"""Catalog entries of models (name, family, files, defaults), and their TOML form in plugins."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from mold_core.errors import PluginError, ValidationError
from mold_core.wire.convert import from_json
from mold_core.wire.fields import wire_field

__all__ = ["ModelDefaults", "ModelEntry", "ModelFile", "ModelSpec", "Vocabulary", "read_catalog"]


@attrs.frozen(kw_only=True)
class ModelDefaults:
    """Default values for the fields of requests that are None."""

    width: int | None = wire_field("Width in pixels.", default=None, minimum=1)
    height: int | None = wire_field("Height in pixels.", default=None, minimum=1)
    steps: int | None = wire_field("Denoising steps.", default=None, minimum=1)
    guidance: float | None = wire_field("Guidance scale.", default=None, minimum=0)
    frames: int | None = wire_field("Number of frames of a video.", default=None, minimum=1)
    fps: int | None = wire_field("Frames per second.", default=None, minimum=1)


@attrs.frozen(kw_only=True)
class ModelFile:
    """One file of a model. `component` is its role for the family (transformer, vae, text_encoder, …).

    `path` is relative to the models folder, or to the catalog file for a model that ships in a wheel.
    """

    component: str = wire_field("Component of the model that the file belongs to.")
    path: str = wire_field("Path of the file.")
    repo: str | None = wire_field("Repository that it is downloaded from.", default=None)
    filename: str | None = wire_field("Name in the repository.", default=None)
    size_bytes: int | None = wire_field("Size in bytes.", default=None, minimum=0)
    sha256: str | None = wire_field("SHA-256 checksum, hexadecimal.", default=None)
    gated: bool = wire_field("Whether the repository requires accepting a licence.", default=False)
    instead: tuple[str, ...] = wire_field(
        "Files in the models folder that can be used instead, best first.", default=()
    )


@attrs.frozen(kw_only=True)
class Vocabulary:
    """The words that a small model was trained on. A prompt with other words gets a warning."""

    words: tuple[str, ...] = wire_field("Every word the model knows, in lower case.")
    summary: str = wire_field("What the model can draw, to complete the sentence 'it draws …'.")

    def remark(self, prompt: str) -> str | None:
        """Return a warning that names the unknown words of a prompt, or None."""
        known = frozenset(self.words)
        unknown = dict.fromkeys(word for word in re.findall(r"[^\W\d_]+", prompt.lower()) if word not in known)
        if not unknown:
            return None
        first = [word if len(word) <= 20 else f"{word[:19]}…" for word in list(unknown)[:4]]
        more = f" and {len(unknown) - len(first)} more" if len(unknown) > len(first) else ""
        return f"this small model does not know {', '.join(first)}{more}; it draws {self.summary}"


@attrs.frozen(kw_only=True)
class ModelSpec:
    """A catalog entry. `name` is ``base:tag``; `options` is passed to the family unchanged.

    `root` is the folder of the files of a model that ships in a wheel; None for others. `devices` has the requested
    devices by names of components or groups (`mold_core.placement.device_map`).
    """

    name: str = wire_field("Full name, base:tag.")
    family: str = wire_field("Name of the family that runs it.")
    description: str = wire_field("Description in one line.", default="")
    licence: str | None = wire_field("SPDX name of the licence of the weights.", default=None)
    defaults: ModelDefaults = wire_field("Defaults for requests.", default=ModelDefaults())
    files: tuple[ModelFile, ...] = wire_field("All files.", default=())
    vocabulary: Vocabulary | None = wire_field("The words that a small model knows.", default=None)
    part_of: str | None = wire_field(
        "Family for whose models it is a component; absent for a model that runs by itself.", default=None
    )
    expander: str | None = wire_field(
        "Language model or expander for prompts for this model, if it has a specific one.", default=None
    )
    options: dict[str, Any] = wire_field("Options for the family.", default=attrs.Factory(dict))
    root: Path | None = attrs.field(default=None)
    devices: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def base(self) -> str:
        """The name without its tag."""
        return self.name.partition(":")[0]

    @property
    def tag(self) -> str:
        """The tag, usually the weight format, such as q8."""
        return self.name.partition(":")[2]

    @property
    def embedded(self) -> bool:
        """Whether the files ship with the plugin."""
        return self.root is not None

    @property
    def size_bytes(self) -> int:
        """Total size in bytes of all files with a known size."""
        return sum({file.path: file.size_bytes or 0 for file in self.files}.values())


@attrs.frozen(kw_only=True)
class ModelEntry:
    """A model in listings: its catalog entry and its state on this machine."""

    spec: ModelSpec
    downloaded: bool
    loaded: bool
    runnable: bool


def read_catalog(path: Path, *, embedded: bool = False) -> list[ModelSpec]:
    """Return the models that a catalog file describes.

    The file has ``[[model]]`` tables with the fields of ModelSpec, and ``[[model.files]]``. Files that several models
    share are listed once in ``[[shared.NAME]]`` and referenced with ``shared = ["NAME"]``. With `embedded`, file paths
    are relative to the folder of the catalog file. Raises PluginError with the file, model and field.
    """
    document = _read_toml(path)
    unknown = document.keys() - {"model", "shared"}
    if unknown:
        raise PluginError(f"{path.name}: unknown keys {', '.join(sorted(unknown))} (known: model, shared)")
    if not isinstance(document.get("model", []), list) or not isinstance(document.get("shared", {}), dict):
        raise PluginError(
            f"{path.name}: models must be in [[model]] tables, and shared files in [[shared.NAME]] tables"
        )
    root = path.parent if embedded else None
    models: list[ModelSpec] = []
    for number, entry in enumerate(document.get("model", []), start=1):
        name = entry.get("name") if isinstance(entry, dict) else None
        try:
            models.append(attrs.evolve(_read_model(entry, document.get("shared", {})), root=root))
        except ValidationError as error:
            raise PluginError("%s: model %s: %s", path.name, number if name is None else repr(name), error) from None
    return models


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PluginError("%s is not valid TOML: %s", path.name, error) from None
    except OSError as error:
        raise PluginError("%s cannot be read: %s", path, error) from None


def _read_model(entry: Any, shared: Mapping[str, Any]) -> ModelSpec:
    if not isinstance(entry, dict):
        raise ValidationError("must be a [[model]] table")
    entry = dict(entry)
    groups, options, files = entry.pop("shared", []), entry.pop("options", {}), entry.get("files", [])
    if not isinstance(groups, list) or not all(group in shared for group in groups):
        raise ValidationError(f"shared must be a list of these names: {', '.join(shared) or '(none)'}; not {groups!r}")
    if not isinstance(options, dict):
        raise ValidationError(f"options must be a table, not {options!r}")
    if isinstance(files, list):
        entry["files"] = [*files, *(file for group in groups for file in shared[group])]
    spec = attrs.evolve(from_json(ModelSpec, entry, strict_keys=True), options=options)
    if not spec.tag:
        raise ValidationError(f"name {spec.name!r} needs a tag, such as {spec.name}:bf16")
    return spec
