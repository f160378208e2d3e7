"""What a model is: its name, family, files and defaults; and how a plugin writes that down in TOML."""

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
    """Values a request gets where it names none."""

    width: int | None = wire_field("Width in pixels.", default=None, minimum=1)
    height: int | None = wire_field("Height in pixels.", default=None, minimum=1)
    steps: int | None = wire_field("Denoising steps.", default=None, minimum=1)
    guidance: float | None = wire_field("Guidance.", default=None, minimum=0)
    frames: int | None = wire_field("Frames of a video.", default=None, minimum=1)
    fps: int | None = wire_field("Frames per second.", default=None, minimum=1)


@attrs.frozen(kw_only=True)
class ModelFile:
    """One file of a model. `component` is the role it plays for the family (transformer, vae, t5_encoder, …).

    `path` is where it lies: relative to the models folder, or to the catalog file for a model that ships in a wheel.
    """

    component: str = wire_field("Role of the file.")
    path: str = wire_field("Where it lies.")
    repo: str | None = wire_field("Repository it is fetched from.", default=None)
    filename: str | None = wire_field("Its name there.", default=None)
    size_bytes: int | None = wire_field("Its size.", default=None, minimum=0)
    sha256: str | None = wire_field("Its checksum.", default=None)
    gated: bool = wire_field("Whether the repository asks for an accepted licence.", default=False)
    instead: tuple[str, ...] = wire_field(
        "Files in the models folder that can stand in for it, best first.", default=()
    )


@attrs.frozen(kw_only=True)
class Vocabulary:
    """The words a small model was trained on; prompts with others are told so, in the words of `summary`."""

    words: tuple[str, ...] = wire_field("Every word it knows, in lower case.")
    summary: str = wire_field("What it can draw, as the end of the sentence 'it draws …'.")

    def remark(self, prompt: str) -> str | None:
        """Return one sentence about the words of a prompt that are not known, or None."""
        known = frozenset(self.words)
        unknown = dict.fromkeys(word for word in re.findall(r"[^\W\d_]+", prompt.lower()) if word not in known)
        if not unknown:
            return None
        shown = [word if len(word) <= 20 else f"{word[:19]}…" for word in list(unknown)[:4]]
        more = f" and {len(unknown) - len(shown)} more" if len(unknown) > len(shown) else ""
        return f"this small model does not know {', '.join(shown)}{more}; it draws {self.summary}"


@attrs.frozen(kw_only=True)
class ModelSpec:
    """A catalog entry. `name` is ``base:tag``; `options` is passed to the family untouched.

    `root` is set for models inside a wheel: their files are always there and count as embedded. `devices` are those
    that were asked for, by names of parts or groups of them (`mold_core.placement.device_map`).
    """

    name: str = wire_field("Full name, base:tag.")
    family: str = wire_field("Name of the family that runs it.")
    description: str = wire_field("One line for people.", default="")
    licence: str | None = wire_field("SPDX name of the licence of the weights.", default=None)
    defaults: ModelDefaults = wire_field("Defaults of requests.", default=ModelDefaults())
    files: tuple[ModelFile, ...] = wire_field("All files.", default=())
    vocabulary: Vocabulary | None = wire_field("What a small model knows.", default=None)
    part_of: str | None = wire_field("Family whose models it is a part of, where it is none by itself.", default=None)
    expander: str | None = wire_field(
        "What expands prompts for it, where it has something of its own: a language model, or an expander.",
        default=None,
    )
    options: dict[str, Any] = wire_field("What only the family understands.", default=attrs.Factory(dict))
    root: Path | None = attrs.field(default=None)
    devices: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def base(self) -> str:
        """The name without its tag."""
        return self.name.partition(":")[0]

    @property
    def tag(self) -> str:
        """The tag: the weight format, usually."""
        return self.name.partition(":")[2]

    @property
    def embedded(self) -> bool:
        """Whether the files ship with the plugin."""
        return self.root is not None

    @property
    def size_bytes(self) -> int:
        """Size of all files together, as far as known."""
        return sum({file.path: file.size_bytes or 0 for file in self.files}.values())


@attrs.frozen(kw_only=True)
class ModelEntry:
    """A model as listings show it."""

    spec: ModelSpec
    downloaded: bool
    loaded: bool
    runnable: bool


def read_catalog(path: Path, *, embedded: bool = False) -> list[ModelSpec]:
    """Return the models that a catalog file describes.

    The file holds ``[[model]]`` tables with the fields of ModelSpec, and ``[[model.files]]``; files that several models
    share stand once under ``[shared.NAME]`` as a list and are named in ``shared = ["NAME"]``. With `embedded`, file
    paths are relative to the folder of the catalog file. Raises PluginError naming file, model and field.
    """
    document = _read_toml(path)
    unknown = document.keys() - {"model", "shared"}
    if unknown:
        raise PluginError(f"{path.name}: unknown keys {', '.join(sorted(unknown))} (known: model, shared)")
    if not isinstance(document.get("model", []), list) or not isinstance(document.get("shared", {}), dict):
        raise PluginError(f"{path.name}: models must stand under [[model]] and what they share under [[shared.NAME]]")
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
        raise ValidationError("must be a table under [[model]]")
    entry = dict(entry)
    groups, options, files = entry.pop("shared", []), entry.pop("options", {}), entry.get("files", [])
    if not isinstance(groups, list) or not all(group in shared for group in groups):
        raise ValidationError(f"shared must be a list of names out of {', '.join(shared) or '(none)'}, not {groups!r}")
    if not isinstance(options, dict):
        raise ValidationError(f"options must be a table, not {options!r}")
    if isinstance(files, list):
        entry["files"] = [*files, *(file for group in groups for file in shared[group])]
    spec = attrs.evolve(from_json(ModelSpec, entry, strict_keys=True), options=options)
    if not spec.tag:
        raise ValidationError(f"name {spec.name!r} needs a tag, such as {spec.name}:bf16")
    return spec
