"""Find the networks of a model in its files: tensors and sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from mold_core import CheckpointError
from mold_core.weights import open_weights, read_weights
from mold_ltx2.checkpoints import component_of, official_names
from mold_ltx2.configs import OFFICIAL, Version, recognise_version, version_of
from mold_ltx2.gemma import gemma_names, gemma_tensors
from mold_ltx2.upsampling_files import Recognised, UpsamplerKind, recognise_upsampler

if TYPE_CHECKING:
    from mold_core import LocalFiles, WeightLoader
    from mold_core.weights import TensorSource

__all__ = ["COMPONENTS", "Components", "UpsamplerFile"]

# Networks that may share a file, in the order of their use.
COMPONENTS = ("connectors", "transformer", "vae", "audio_vae", "vocoder")

# Components with files of upsamplers. The tensors of a file tell its kind.
_UPSAMPLERS = ("spatial_upscaler", "temporal_upscaler")


@frozen
class UpsamplerFile:
    """A file with an upsampler, and its kind."""

    path: Path
    recognised: Recognised


class Components:
    """The networks in a model's files, found by the headers.

    A network comes from the file of its component, else from that of the transformer, else from any other file of the
    model that has it: published single files hold all five, and a vocoder is often in the file of the audio
    autoencoder.
    """

    def __init__(self, files: LocalFiles, options: Mapping[str, Any], loaders: Iterable[WeightLoader] = ()) -> None:
        self._files = files
        self._options = options
        self._loaders = tuple(loaders)
        self._headers: dict[Path, Mapping[str, TensorSource]] = {}  # PERF: reading them is most of the work of planning

    @cached_property
    def version(self) -> Version:
        """The version of LTX-2, by the tensors of the transformer."""
        path = self.path("transformer")
        try:
            return version_of(recognise_version(official_names("transformer", self._opened(path))))
        except CheckpointError as error:
            raise _of_file(path, error) from None

    def path(self, component: str) -> Path:
        """Return the file that a network comes from."""
        transformer = self._files.one("transformer")
        if component in self._files.by_component:
            return self._files.one(component)
        candidates = [transformer, *(self._files.one(name) for name in COMPONENTS if name in self._files.by_component)]
        for path in candidates:
            if path.is_file() and any(component_of(name) == component for name in self._opened(path)):
                return path
        return transformer

    def config(self, component: str) -> dict[str, Any]:
        """Return the sizes of a network: those of LTX-2, replaced by those in the options."""
        return {**OFFICIAL[self.version.name][component], **self._options.get(component, {})}

    def headers(self, component: str) -> dict[str, Any]:
        """Return the headers of a network's tensors, under diffusers' names."""
        path = self.path(component)
        return self._named(component, path, self._opened(path))

    def tensors(self, component: str) -> dict[str, Any]:
        """Return the tensors of a network under diffusers' names. Raises CheckpointError naming the file."""
        path = self.path(component)
        return self._named(component, path, read_weights(path, self._loaders))

    def text_paths(self) -> tuple[Path, ...]:
        """Return the files of the text encoder."""
        return self._files.by_component["text_encoder"]

    def text_headers(self) -> dict[str, Any]:
        """Return the headers of the text encoder's tensors."""
        return self._text(lambda path: gemma_names(self._opened(path)))

    def text_tensors(self) -> dict[str, Any]:
        """Return the tensors of the text encoder under transformers' names. Raises CheckpointError naming a file."""
        return self._text(lambda path: gemma_tensors(read_weights(path, self._loaders)))

    @cached_property
    def upsamplers(self) -> dict[UpsamplerKind, UpsamplerFile]:
        """The upsamplers in the downloaded files, by kind."""
        found: dict[UpsamplerKind, UpsamplerFile] = {}
        for component in _UPSAMPLERS:
            for path in self._files.by_component.get(component, ()):
                if path.is_file():
                    try:
                        recognised = recognise_upsampler(self._opened(path))
                    except CheckpointError as error:
                        raise _of_file(path, error) from None
                    found[recognised.kind] = UpsamplerFile(path, recognised)
        return found

    def _opened(self, path: Path) -> Mapping[str, TensorSource]:
        if path not in self._headers:
            self._headers[path] = open_weights(path, self._loaders)
        return self._headers[path]

    def _named(self, component: str, path: Path, tensors: Mapping[str, Any]) -> dict[str, Any]:
        separate = component == "transformer" or component in self._files.by_component
        try:
            return official_names(component, tensors, separate=separate)
        except CheckpointError as error:
            raise _of_file(path, error) from None

    def _text(self, read: Callable[[Path], Mapping[str, Any]]) -> dict[str, Any]:
        tensors: dict[str, Any] = {}
        for path in self.text_paths():
            tensors.update(read(path))
        if not tensors:
            raise CheckpointError("%s: this file holds no Gemma 3 text encoder", self.text_paths()[0])
        return tensors


def _of_file(path: Path, error: CheckpointError) -> CheckpointError:
    if error.message.startswith(str(path)):
        return error
    return CheckpointError("%s: %s", path, error, hint=error.hint)
