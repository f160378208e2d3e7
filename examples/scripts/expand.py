"""One word, expanded to four prompts and four images."""

from mold_core import Engine, ExpandRequest, GenerateRequest

with Engine() as engine:
    prompts = engine.run(ExpandRequest(prompt="a house", model="flux-nano", variations=4, seed=1)).expanded
    for number, prompt in enumerate(prompts):
        image = engine.generate(GenerateRequest(prompt=prompt, model="flux-nano", seed=number)).images[0]
        print(f"{image.save(f'house-{number}.png')}: {prompt}")
