"""mold as a library: an image, its progress, several at once, and a job that is cancelled."""

from __future__ import annotations

from mold_core import CancelledError, DenoiseStep, Engine, GenerateRequest, GenerateResponse


def main() -> None:
    """Run every example. All models work the same way; this one needs no download."""
    with Engine() as engine:
        one_image(engine)
        with_progress(engine)
        several(engine)
        cancelled(engine)


def one_image(engine: Engine) -> None:
    """Generate an image and save it."""
    response = engine.generate(GenerateRequest(prompt="a red house under a yellow moon", model="flux-nano"))
    path = response.images[0].save("house.png")
    print(f"{path}: seed {response.seed_used}, {response.generation_time_ms} ms")


def with_progress(engine: Engine) -> None:
    """Follow the steps of a job; the last item of a stream is the response."""
    for event in engine.stream(GenerateRequest(prompt="three green trees", model="flux-nano", steps=8)):
        if isinstance(event, DenoiseStep):
            print(f"step {event.step} of {event.total}")
        elif isinstance(event, GenerateResponse):
            event.images[0].save("trees.png")


def several(engine: Engine) -> None:
    """Submit several requests at once: compatible ones are computed as a batch."""
    prompts = ["a blue boat on the sea", "a white cat in the snow", "a pink castle on an island"]
    jobs = [engine.submit(GenerateRequest(prompt=prompt, model="flux-nano")) for prompt in prompts]
    for job in jobs:
        job.result().images[0].save(f"{job.id}.png")


def cancelled(engine: Engine) -> None:
    """Cancel a job from anywhere; it stops between two steps."""
    job = engine.submit(GenerateRequest(prompt="a yellow car", model="flux-nano", steps=100))
    job.cancel()
    try:
        job.result()
    except CancelledError as error:
        print(error)


if __name__ == "__main__":
    main()
