"""Cells for a notebook (Jupyter and VS Code read this file as one): the last value of a cell is displayed."""

# %% An image, shown as it is
from mold_core import Engine, GenerateRequest, UpscaleRequest

engine = Engine()
response = engine.generate(GenerateRequest(prompt="a castle on an island", model="flux-nano", seed=3, batch_size=4))
response

# %% One of them, as Pillow and as numbers
image = response.images[0].to_pil()
print(response.images[0].to_numpy().mean(axis=(0, 1)))
image.save("castle.png")
image

# %% The same larger, and the end of it
larger = engine.upscale(UpscaleRequest(image=response.images[0].data))
engine.close()
larger
