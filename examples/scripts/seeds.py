"""The same prompt with nine seeds, as one sheet."""

from io import BytesIO

from PIL import Image

from mold_core import Engine, GenerateRequest

with Engine() as engine:
    response = engine.generate(
        GenerateRequest(prompt="a white castle at sunset", model="flux-nano", seed=1, batch_size=9)
    )
sheet = Image.new("RGB", (3 * 128, 3 * 128))
for image in response.images:
    row, column = divmod(image.index, 3)
    sheet.paste(Image.open(BytesIO(image.data)), (128 * column, 128 * row))
sheet.save("seeds.png")
