"""Finds LoRA files by name: in the LoRA folder, and among those of the catalog."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PureWindowsPath

import attrs

from mold_core.errors import ValidationError
from mold_core.wire import GenerateRequest, LoraWeight
from mold_core.wire.fields import shorten

__all__ = ["LoraFolder", "SuppliedLora", "refuse_lora_paths"]

SUFFIX = ".safetensors"


@attrs.frozen(kw_only=True)
class SuppliedLora:
    """A LoRA of the catalog: its file, which may not be downloaded, and the prefix of the models it is for."""

    file: Path
    models: str = ""


@attrs.frozen
class LoraFolder:
    """The folder `loras` in MOLD_HOME. The name of a LoRA in it is its path without `.safetensors`.

    `supplied` has the LoRAs that the catalog offers for the family of `model`, by name. `adopted` has the paths of
    adopted files in folders of other programs, by name.
    """

    path: Path
    supplied: Mapping[str, SuppliedLora] = attrs.Factory(dict)
    model: str = ""
    adopted: Mapping[str, str] = attrs.Factory(dict)

    def names(self) -> Iterator[tuple[str, Path]]:
        """Yield name and file of every LoRA in the folder, then of the adopted ones that exist."""
        for file in sorted(self.path.rglob(f"*{SUFFIX}")):
            if file.is_file():
                yield file.relative_to(self.path).as_posix().removesuffix(SUFFIX), file
        for name, adopted in sorted(self.adopted.items()):
            if _is_file(Path(adopted)):
                yield name, Path(adopted)

    def locate(self, lora: LoraWeight, field: str) -> LoraWeight:
        """Return the LoRA with the absolute path of its file as `path`.

        Absolute paths and paths that start with ``~`` are used directly. Anything else is a name in the folder or in
        the catalog. Raises ValidationError for `field`, with the nearest names.
        """
        if lora.path in self.supplied:
            return self._pulled(lora, field)
        if _is_path(lora.path):
            file = Path(os.path.expanduser(lora.path))  # unlike Path.expanduser() it accepts an unknown user
            if _is_file(file):
                return attrs.evolve(lora, path=str(file.absolute()))
            raise ValidationError(f"{field} is not a file: {shorten(lora.path, 200)}", field=field, value=lora.path)
        if ".." not in Path(lora.path).parts and "\0" not in lora.path:
            for file in (self.path / lora.path, self.path / f"{lora.path}{SUFFIX}"):
                if _is_file(file):
                    return attrs.evolve(lora, path=str(file.absolute()))
        if lora.path in self.adopted:
            return self._adopted(lora, field)
        known = [*self.supplied, *(name for name, _ in self.names())]
        from difflib import get_close_matches

        near = get_close_matches(lora.path, known, n=3)
        raise ValidationError(
            f"%s is not a LoRA in %s: %s{'; nearest: %s' if near else ''}",
            field,
            self.path,
            shorten(lora.path),
            *([", ".join(near)] if near else []),
            field=field,
            value=lora.path,
            hint="mold list --loras shows all",
        )

    def _pulled(self, lora: LoraWeight, field: str) -> LoraWeight:
        """Return a LoRA of the catalog. Raises ValidationError if it is not downloaded or for other models."""
        supplied = self.supplied[lora.path]
        if not self.model.startswith(supplied.models):
            raise ValidationError(
                f"{field}: {lora.path} is for {supplied.models} models, not for {self.model}",
                field=field,
                value=lora.path,
                hint=f"name a {supplied.models} model (mold list)",
            )
        if not _is_file(supplied.file):
            raise ValidationError(
                f"{field}: {lora.path} is not downloaded",
                field=field,
                value=lora.path,
                hint=f"download it: mold pull {lora.path}",
            )
        return attrs.evolve(lora, path=str(supplied.file.absolute()))

    def _adopted(self, lora: LoraWeight, field: str) -> LoraWeight:
        """Return an adopted LoRA. Raises ValidationError where its drive is away."""
        file = Path(self.adopted[lora.path])
        if not _is_file(file):
            raise ValidationError(
                "%s: %s cannot be found: its drive is not mounted, or the file was moved",
                field,
                file,
                field=field,
                value=lora.path,
                hint=f"mount the drive, or mold adopt forget {lora.path}",
            )
        return attrs.evolve(lora, path=str(file))

    def located(self, request: GenerateRequest) -> tuple[LoraWeight, ...] | None:
        """Return all LoRAs of a request with absolute paths, `lora` before `loras`; None if there are none."""
        named = [(request.lora, "lora.path")] if request.lora else []
        named += [(lora, f"loras[{index}].path") for index, lora in enumerate(request.loras or ())]
        return tuple(self.locate(lora, field) for lora, field in named) or None


def refuse_lora_paths(request: object) -> None:
    """Raise ValidationError if a request from a client has a LoRA path, which could read any file of the server."""
    for lora in (getattr(request, "lora", None), *(getattr(request, "loras", None) or ())):
        if lora is not None and _is_path(lora.path):
            raise ValidationError(
                f"loras has a path: {shorten(lora.path)}; a server accepts only names of files in its LoRA folder",
                field="loras",
                value=lora.path,
            )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # the name is too long, or contains a null character
        return False


def _is_path(text: str) -> bool:
    return Path(text).is_absolute() or text.startswith("~") or bool(PureWindowsPath(text).anchor)
