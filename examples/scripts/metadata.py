"""An image made again from what its file says of it, in another colour."""

from pathlib import Path

from mold_core import Engine, GenerateRequest
from mold_core.media import read_metadata

with Engine() as engine:
    request = GenerateRequest(prompt="a red car on the road", model="flux-nano")
    path = engine.generate(request).images[0].save("car.png")
    made = read_metadata(Path(path))
    assert made is not None
    again = GenerateRequest(prompt=made.prompt.replace("red", "blue"), model=made.model, seed=made.seed)
    engine.generate(again).images[0].save("blue-car.png")
