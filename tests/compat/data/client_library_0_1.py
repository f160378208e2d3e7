"""A script written against `mold_core.Client` and `AsyncEngine` of mold 0.1: `python … ADDRESS KEY`."""

import asyncio
import sys

from mold_core import (
    AsyncEngine,
    CancelledError,
    Client,
    DenoiseStep,
    ExpandRequest,
    GenerateRequest,
    GenerateResponse,
    ServerError,
    UnknownModelError,
    ValidationError,
)

ADDRESS, KEY = sys.argv[1:]

request = GenerateRequest(prompt="a red house", model="sketch", steps=2, width=64, height=32, seed=7)

with Client(ADDRESS, KEY) as client:
    client.health()
    assert client.address == ADDRESS
    assert client.status().queue_capacity == 3

    seen = []
    response = client.generate(request, on_event=seen.append)
    assert isinstance(response, GenerateResponse)
    assert (response.model, response.seed_used, response.images[0].width) == ("sketch:v1", 7, 64)
    assert [event.step for event in seen if isinstance(event, DenoiseStep)] == [1, 2]
    *events, last = client.stream(request)
    assert last.images[0].data == response.images[0].data

    job = client.submit(request, idempotency_key="library")
    assert client.job(job.id).result().images[0].data == response.images[0].data
    assert (job.kind, job.model, job.state, job.finished, job.cancel()) == ("generate", "sketch", "done", True, False)
    assert job.id in [found.id for found in client.jobs(state="done", kind="generate")]

    assert client.expand(ExpandRequest(prompt="a cat", model_family="sketch")).original == "a cat"

    assert {entry.spec.name for entry in client.models()} == {"sketch:v1"}
    assert client.resolve(None).name == client.default_model().spec.name == "sketch:v1"
    assert client.capabilities(client.resolve("sketch")) == {"text-to-image"}
    assert client.load("sketch") == "sketch:v1"
    assert client.loaded() == {"sketch:v1"}
    assert client.unload("sketch") == ("sketch:v1",)

    page = client.gallery.list("house", limit=1)
    entry = page.entries[0]
    assert client.gallery.read(entry.filename) == response.images[0].data
    assert client.gallery.update(entry.filename, favourite=True).favourite
    assert client.gallery.delete(entry.filename)
    assert client.shelf.loras() == ()
    assert client.shelf.usage() is not None

    for wrong, error in (({"model": "sketsch"}, UnknownModelError), ({"steps": 100_000}, ValidationError)):
        try:
            client.generate(GenerateRequest(**{"prompt": "a house", "model": "sketch", **wrong}))
        except error:
            pass
        else:
            raise AssertionError(wrong)
    try:
        client.generate(request, lambda event: False)
    except CancelledError:
        pass
    else:
        raise AssertionError("it was not cancelled")
    try:
        Client(ADDRESS, "wrong").status()
    except ServerError as error:
        assert error.code == "UNAUTHORIZED"
    else:
        raise AssertionError("the wrong key was taken")


async def main() -> None:
    async with AsyncEngine(Client(ADDRESS, KEY)) as engine:
        responses = await asyncio.gather(engine.generate(request), engine.generate(request))
        assert [response.seed_used for response in responses] == [7, 7]


asyncio.run(main())
print("everything as in 0.1")
