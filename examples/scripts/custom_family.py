"""A model family without a package: as many circles as the prompt has letters (see also examples/mold_plasma)."""

from PIL import Image, ImageDraw

from mold_core import Engine, Frames, GenerateRequest, ModelDefaults, ModelSpec, Settings, SizeRules, load_plugins
from mold_core.testing import FakePlugin


class Circles:
    name, title, capabilities, parameters = "circles", "Circles", frozenset({"text-to-image"}), ()
    sizes, size_bytes = SizeRules(multiple=2, max_pixels=512 * 512), 0

    def load(self, spec, files, context):
        return self  # nothing to load: the family is its own pipeline

    def generate(self, requests, run):
        images = [Image.new("RGB", (request.width, request.height), "ivory") for request in requests]
        for request, image in zip(requests, images, strict=True):
            for radius in range(4, 8 * len(request.prompt), 8):
                ImageDraw.Draw(image).circle((128, 128), radius, outline="crimson", width=3)
        return [Frames(images=(image,)) for image in images]

    def close(self): ...


spec = ModelSpec(name="circles:v1", family="circles", defaults=ModelDefaults(width=256, height=256, steps=1))
with Engine(
    Settings.load(), load_plugins(extra=[("circles", FakePlugin(families=[Circles()], models=[spec]))])
) as engine:
    engine.generate(GenerateRequest(prompt="a pond in the rain", model="circles")).images[0].save("circles.png")
