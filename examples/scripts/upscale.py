"""An image, upscaled four times."""

from mold_core import Engine, GenerateRequest, UpscaleRequest

with Engine() as engine:
    small = engine.generate(GenerateRequest(prompt="a blue boat on the sea", model="flux-nano", seed=7)).images[0]
    large = engine.run(UpscaleRequest(image=small.data)).image
small.save("boat.png")
large.save("boat-large.png")
print(f"{small.width}x{small.height} → {large.width}x{large.height}")
