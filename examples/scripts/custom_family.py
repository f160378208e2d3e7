"""A model family without a package: as many circles as the prompt has letters (see also examples/mold_plasma)."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

import mold_core as mold
from mold_core.testing import FakePlugin


class Circles(mold.ModelFamily, mold.Pipeline):
    name, title, capabilities, parameters = "circles", "Circles", frozenset({"text-to-image"}), ()
    sizes, size_bytes = mold.SizeRules(multiple=2, max_pixels=512 * 512), 0

    def load(self, spec: mold.ModelSpec, files: mold.LocalFiles, context: mold.LoadContext) -> mold.Pipeline:
        return self  # nothing to load: the family is its own pipeline

    def generate(self, requests: Sequence[mold.GenerateRequest], run: mold.Run) -> list[mold.Frames]:
        images = [Image.new("RGB", (request.width or 256, request.height or 256), "ivory") for request in requests]
        for request, image in zip(requests, images, strict=True):
            for radius in range(4, 8 * len(request.prompt), 8):
                ImageDraw.Draw(image).circle((128, 128), radius, outline="crimson", width=3)
        return [mold.Frames(images=(image,)) for image in images]

    def close(self) -> None: ...


spec = mold.ModelSpec(name="circles:v1", family="circles", defaults=mold.ModelDefaults(width=256, height=256, steps=1))
plugins = mold.load_plugins(extra=[("circles", FakePlugin(families=[Circles()], models=[spec]))])
with mold.Engine(mold.Settings.load(), plugins) as engine:
    engine.generate(mold.GenerateRequest(prompt="a pond in the rain", model="circles")).images[0].save("circles.png")
