"""Repeats an image from the metadata in its file, in another colour."""

from pathlib import Path

from mold_core import Engine, GenerateRequest
from mold_core.media import read_metadata

with Engine() as engine:
    request = GenerateRequest(prompt="a red car on the road", model="flux-nano")
    path = engine.generate(request).images[0].save("car.png")
    metadata = read_metadata(Path(path))
    assert metadata is not None
    repeated = GenerateRequest(prompt=metadata.prompt.replace("red", "blue"), model=metadata.model, seed=metadata.seed)
    engine.generate(repeated).images[0].save("blue-car.png")
