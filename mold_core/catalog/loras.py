"""Low-rank LoRAs (LoRA) by name: the folder they lie in, and which file a name means."""

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
    """A LoRA of the catalog: its file, here or not, and how the names of the models begin that it is for."""

    file: Path
    models: str = ""


@attrs.frozen
class LoraFolder:
    """The folder `loras` in MOLD_HOME. LoRAs in it have names: their path without `.safetensors`.

    `supplied` are those that the catalog has for a model's family, by the names they are pulled by; `model` is that
    model. `adopted` are files in folders of other programs, by the names that they were adopted under.
    """

    path: Path
    supplied: Mapping[str, SuppliedLora] = attrs.Factory(dict)
    model: str = ""
    adopted: Mapping[str, str] = attrs.Factory(dict)

    def names(self) -> Iterator[tuple[str, Path]]:
        """Yield every LoRA in the folder, by name, with its file; then the adopted ones that are there."""
        for file in sorted(self.path.rglob(f"*{SUFFIX}")):
            if file.is_file():
                yield file.relative_to(self.path).as_posix().removesuffix(SUFFIX), file
        for name, adopted in sorted(self.adopted.items()):
            if _is_file(Path(adopted)):
                yield name, Path(adopted)

    def locate(self, lora: LoraWeight, field: str) -> LoraWeight:
        """Return the LoRA with the absolute path of its file in `path`.

        A path is taken as it is where it is absolute or begins with ``~``; anything else is a name, looked for in the
        folder only. Raises ValidationError for `field`, with the nearest names.
        """
        wanted = Path(lora.path)
        if lora.path in self.supplied:
            return self._pulled(lora, field)
        if _is_path(lora.path):
            file = Path(os.path.expanduser(lora.path))  # unlike Path.expanduser() it takes "~nobody" as it is
            if _is_file(file):
                return attrs.evolve(lora, path=str(file.absolute()))
            raise ValidationError(f"{field} names no file: {shorten(lora.path, 200)}", field=field, value=lora.path)
        if ".." not in wanted.parts and "\0" not in lora.path:
            for file in (self.path / lora.path, self.path / f"{lora.path}{SUFFIX}"):
                if _is_file(file):
                    return attrs.evolve(lora, path=str(file.absolute()))
        if lora.path in self.adopted:
            return self._adopted(lora, field)
        known = [*self.supplied, *(name for name, _ in self.names())]
        from difflib import get_close_matches

        near = get_close_matches(lora.path, known, n=3)
        raise ValidationError(
            f"%s names no LoRA in %s: %s{'; nearest: %s' if near else ''}",
            field,
            self.path,
            shorten(lora.path),
            *([", ".join(near)] if near else []),
            field=field,
            value=lora.path,
            hint="mold list --loras shows all",
        )

    def _pulled(self, lora: LoraWeight, field: str) -> LoraWeight:
        """Return a LoRA of the catalog. Raises ValidationError where it is not here or for other models."""
        supplied = self.supplied[lora.path]
        if not self.model.startswith(supplied.models):
            raise ValidationError(
                f"{field}: {lora.path} is for {supplied.models} models, and {self.model} is none",
                field=field,
                value=lora.path,
                hint=f"name a {supplied.models} model (mold list)",
            )
        if not _is_file(supplied.file):
            raise ValidationError(
                f"{field}: {lora.path} is not downloaded",
                field=field,
                value=lora.path,
                hint=f"mold pull {lora.path} fetches it",
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
        """Return all LoRAs of a request, `lora` before `loras`, with the paths of their files; None for none."""
        named = [(request.lora, "lora.path")] if request.lora else []
        named += [(lora, f"loras[{index}].path") for index, lora in enumerate(request.loras or ())]
        return tuple(self.locate(lora, field) for lora, field in named) or None


def refuse_lora_paths(request: object) -> None:
    """Raise ValidationError if a request from elsewhere names a LoRA by path: that would read any file here."""
    for lora in (getattr(request, "lora", None), *(getattr(request, "loras", None) or ())):
        if lora is not None and _is_path(lora.path):
            raise ValidationError(
                f"loras name files by path: {shorten(lora.path)}; over the network only names below the server's folder"
                " of LoRAs are taken",
                field="loras",
                value=lora.path,
            )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or no name at all
        return False


def _is_path(text: str) -> bool:
    return Path(text).is_absolute() or text.startswith("~") or bool(PureWindowsPath(text).anchor)
