"""One image with a LoRA at six strengths, in one row: from none on the left to twice its strength on the right."""

from PIL import Image

from mold_core import Engine, GenerateRequest, LoraWeight

STRENGTHS = (0, 0.4, 0.8, 1.2, 1.6, 2)

with Engine() as engine:
    lora = engine.disk.loras()[0].name  # the first file in MOLD_HOME/loras
    row = Image.new("RGB", (128 * len(STRENGTHS), 128))
    for number, strength in enumerate(STRENGTHS):
        request = GenerateRequest(
            prompt="a red house", model="flux-nano", seed=5, loras=(LoraWeight(path=lora, scale=strength),)
        )
        row.paste(engine.generate(request).images[0].to_pil(), (128 * number, 0))
row.save("lora.png")
