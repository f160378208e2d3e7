"""A plugin as it was written for mold 0.1, with the names of that release. It is test data: leave it as it is."""

from mold_core import Film, Frames, ModelDefaults, ModelPart, ModelSpec, Parameter, SizeRules, hookimpl


class OldPipeline:
    size_bytes = 1000

    def __init__(self, report, plan):
        self.report = report
        self.plan = plan

    def generate(self, requests, run):
        return [Frames(images=(self._draw(request, run),)) for request in requests]

    def _draw(self, request, run):
        from PIL import Image

        for step in range(request.steps):
            run.step(step + 1, request.steps, elapsed_ms=1)
        return Image.new("RGB", (request.width, request.height), "red")

    def close(self):
        pass


class OldFamily:
    name = "old"
    title = "Old"
    capabilities = frozenset({"text-to-image"})
    sizes = SizeRules(multiple=8, max_pixels=256 * 256, min_side=8)
    parameters = (Parameter(name="seed", doc="Seed."),)
    places = ("transformer", "vae")

    def fitted(self, spec, request):
        import attrs

        return attrs.evolve(request, steps=3)

    def parts(self, spec, files, context):
        device = context.wishes.device_of("transformer", default=context.device)
        assert context.room.get(device, 1) > 0
        return (ModelPart(name="transformer", size_bytes=1000, device=device),)

    def load(self, spec, files, context):
        assert context.plan.strategy == "eager"
        return OldPipeline(context.report, context.plan)


def stills(frames):
    """Return frames as a renderer of chains returns them."""
    return Film(images=frames)


class OldExpander:
    name = "shouting"

    def expand(self, expansion, context, run):
        run.check()
        return [f"{expansion.prompt.upper()}{'!' * (1 + number)}" for number in range(expansion.variations)]


@hookimpl
def mold_families():
    return [OldFamily()]


@hookimpl
def mold_models():
    return [
        ModelSpec(
            name="old:v1",
            family="old",
            description="A model of a plugin for mold 0.1",
            defaults=ModelDefaults(width=64, height=64, steps=2, guidance=1.0),
        )
    ]


@hookimpl
def mold_expanders():
    return [OldExpander()]
