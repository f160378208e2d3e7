"""A weight file format that a plugin adds is read wherever the built-in ones are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest
from nano_formats import replace_model
from safetensors.torch import load_file, save

from mold_core import CheckpointError, Engine, GenerateRequest, Settings, hookimpl, load_plugins
from mold_core.catalog import ModelStore
from mold_core.weights import TensorSource, open_weights

NANO = "flux-nano:bf16"
MAGIC = b"inside out"


class Reversed:
    """A format: magic bytes, then a safetensors file from the end to the start."""

    name = "reversed"

    def recognises(self, path: Path, head: bytes) -> bool:
        return head.startswith(MAGIC)

    def open(self, path: Path) -> Mapping[str, TensorSource]:
        turned = path.with_suffix(".turned")
        turned.write_bytes(path.read_bytes()[: len(MAGIC) - 1 : -1])
        return attrs.evolve(open_weights(turned), path=path, format=self.name)  # type: ignore[type-var]


class ReversedPlugin:
    @hookimpl
    def mold_loaders(self) -> list[Reversed]:
        return [Reversed()]


def test_a_transformer_in_a_format_of_a_plugin_draws_the_same_image(tmp_path: Path) -> None:
    request = GenerateRequest(prompt="a red house under a yellow moon", model=NANO, seed=7, steps=2)
    with Engine(Settings(device="cpu")) as engine:
        spec = engine.resolve(NANO)
        expected = engine.generate(request).images[0].data
    state = load_file(ModelStore(Path()).files_of(spec).one("transformer"))
    (tmp_path / "x").write_bytes(MAGIC + save(state)[::-1])
    files = tuple(
        attrs.evolve(file, path=str(tmp_path / "x")) if file.component == "transformer" else file for file in spec.files
    )
    with Engine(Settings(device="cpu"), load_plugins(extra=[("reversed", ReversedPlugin())])) as engine:
        replace_model(engine, attrs.evolve(spec, files=files))
        assert engine.generate(request).images[0].data == expected
    with Engine(Settings(device="cpu")) as engine:
        replace_model(engine, attrs.evolve(spec, files=files))
        with pytest.raises(CheckpointError, match="neither a safetensors nor a GGUF file"):
            engine.generate(request)


def test_the_formats_of_plugins_are_kept_in_order() -> None:
    plugins = load_plugins(found=(), extra=[("reversed", ReversedPlugin())])
    assert [loader.name for loader in plugins.loaders] == ["reversed"]
    assert isinstance(plugins.loaders[0], Reversed)
