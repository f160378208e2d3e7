"""An image with the progress of its steps."""

from mold_core import DenoiseStep, Engine, GenerateRequest, ProgressEvent


def show(event: ProgressEvent) -> None:
    if isinstance(event, DenoiseStep):
        print(f"step {event.step} of {event.total}")


with Engine() as engine:
    request = GenerateRequest(prompt="three green trees", model="flux-nano", steps=8, seed=7)
    engine.generate(request, show).images[0].save("trees.png")
