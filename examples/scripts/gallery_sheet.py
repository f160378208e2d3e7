"""Images saved in a gallery, found by a search, as one sheet."""

from io import BytesIO

from PIL import Image

from mold_core import Engine, GenerateRequest, Settings
from mold_core.gallery import Gallery

gallery = Gallery.of(Settings.load())
assert gallery is not None, "set MOLD_OUTPUT_DIR"
with Engine(gallery=gallery) as engine:
    for prompt in ("a black cat in the snow", "a white cat on a hill", "a yellow car"):
        engine.generate(GenerateRequest(prompt=prompt, model="flux-nano", seed=1))
cats = gallery.list(q="cat").entries
sheet = Image.new("RGB", (128 * len(cats), 128))
for number, entry in enumerate(cats):
    sheet.paste(Image.open(BytesIO(gallery.thumbnail(entry.filename).data)), (128 * number, 0))
sheet.save("cats.png")
