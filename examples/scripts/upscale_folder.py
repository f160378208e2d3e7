"""Upscales every image of a folder four times into another folder; run it again to process what is missing."""

from pathlib import Path

from mold_core import Engine, FileUpscaleRequest, GenerateRequest

small, large = Path("small"), Path("large")
small.mkdir(exist_ok=True)
large.mkdir(exist_ok=True)
with Engine() as engine:
    for prompt in ("a blue boat", "a yellow car", "a pink flower"):
        engine.generate(GenerateRequest(prompt=prompt, model="flux-nano", seed=1)).images[0].save(
            small / f"{prompt}.png"
        )
    for source in sorted(small.glob("*.png")):
        target = large / source.name
        if not target.exists():
            done = engine.upscale(FileUpscaleRequest(source=source, target=target))
            print(f"{target}: {done.image.width}x{done.image.height}")
