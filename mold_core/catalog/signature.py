"""Signatures: which tensor names and shapes tell that a file holds a network, and how mold runs what they recognise."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from mold_core.errors import PluginError, ValidationError
from mold_core.wire.convert import from_json

__all__ = ["ANY", "Layout", "Signature", "read_signatures"]

# A dimension of a shape that may have any size.
ANY = -1


@attrs.frozen(kw_only=True)
class Layout:
    """One way in which files name the tensors of a network. Every condition must hold.

    `keys` are tensors that are present, `absent` tensors that are not, `contains` texts that occur in the name of some
    tensor. `shapes` are the shapes of tensors, with -1 for a dimension of any size. Quantised files pack columns, so
    shapes of biases and norms are safest. `metadata` are entries of the file's header, such as GGUF's
    general.architecture.
    """

    keys: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    contains: tuple[str, ...] = ()
    shapes: dict[str, tuple[int, ...]] = attrs.Factory(dict)
    metadata: dict[str, str] = attrs.Factory(dict)

    @property
    def weight(self) -> int:
        """How much the layout demands. Of several layouts that match a file, the most demanding decides."""
        return len(self.keys) + len(self.absent) + len(self.contains) + 2 * len(self.shapes) + 2 * len(self.metadata)

    def matches(self, shapes: Mapping[str, tuple[int, ...]], names: str, metadata: Mapping[str, Any]) -> bool:
        """Return whether tensors, by name and shape, fulfil every condition; `names` are all names, one a line."""
        # PERF: a walk asks this millions of times, and nearly always the first condition fails.
        for key in self.keys:
            if key not in shapes:
                return False
        for name, demanded in self.shapes.items():
            if not _fits(shapes.get(name), demanded):
                return False
        return (
            all(text in names for text in self.contains)
            and not any(key in shapes for key in self.absent)
            and all(metadata.get(key) == value for key, value in self.metadata.items())
        )


@attrs.frozen(kw_only=True)
class Signature:
    """A network that files hold. `kind` is what it is in the field's words: transformer, text encoder, VAE, LoRA, …

    A plugin that runs it names its `family` and the `component` of the family's models that it is. `like` is a model
    of the catalog: an adopted model takes defaults, options and licence from it, and the components that no file of
    the user provides. `variants` are others, by a word in the file's name, for models whose tensors are alike. `needs`
    are components that other files can provide, each with the names of the signatures of those. `defaults` of requests
    come before those of the model that it is like. `whole`: the layouts describe a file that holds several networks,
    and name tensors with their prefixes.
    """

    name: str
    title: str
    kind: str
    layouts: tuple[Layout, ...]
    family: str | None = None
    component: str | None = None
    like: str | None = None
    needs: dict[str, tuple[str, ...]] = attrs.Factory(dict)
    variants: dict[str, str] = attrs.Factory(dict)
    defaults: dict[str, Any] = attrs.Factory(dict)
    whole: bool = False

    def weight(self, shapes: Mapping[str, tuple[int, ...]], names: str, metadata: Mapping[str, Any]) -> int:
        """Return the weight of the most demanding layout that matches, 0 if none does."""
        return max((layout.weight for layout in self.layouts if layout.matches(shapes, names, metadata)), default=0)


def read_signatures(path: Path) -> list[Signature]:
    """Return the signatures that a TOML file describes, in ``[[signature]]`` tables with the fields of Signature.

    Raises PluginError that names file, signature and field.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PluginError("%s is not valid TOML: %s", path.name, error) from None
    except OSError as error:
        raise PluginError("%s cannot be read: %s", path, error) from None
    tables = document.get("signature", [])
    if not isinstance(tables, list):
        raise PluginError(f"{path.name}: signatures must be tables under [[signature]]")
    return [_read(path, number, table) for number, table in enumerate(tables, start=1)]


def _read(path: Path, number: int, table: Any) -> Signature:
    name = table.get("name") if isinstance(table, dict) else None
    try:
        signature = from_json(Signature, table, strict_keys=True)
    except ValidationError as error:
        raise PluginError("%s: signature %s: %s", path.name, repr(name) if name else number, error) from None
    if any(layout.weight == 0 for layout in signature.layouts) or not signature.layouts:
        raise PluginError(f"{path.name}: signature {name!r} has a layout without any condition")
    return signature


def _fits(shape: Iterable[int] | None, demanded: tuple[int, ...]) -> bool:
    if shape is None:
        return False
    sizes = tuple(shape)
    return len(sizes) == len(demanded) and all(
        size in (ANY, actual) for size, actual in zip(demanded, sizes, strict=True)
    )
