"""A house by day, and the same at night: image to image."""

from mold_core import Engine, GenerateRequest

with Engine() as engine:
    day = engine.generate(GenerateRequest(prompt="a red house", model="flux-nano", seed=3)).images[0]
    night = engine.generate(
        GenerateRequest(
            prompt="a red house at night", model="flux-nano", seed=3, source_image=day.data, strength=0.9, steps=8
        )
    ).images[0]
day.save("day.png")
night.save("night.png")
