"""What a type checker infers of requests and their results; tests/test_typing.py runs mypy on this file."""

from collections.abc import AsyncGenerator, Iterator
from typing import assert_type

from mold_core import (
    AsyncEngine,
    ChainRequest,
    ChainResponse,
    Client,
    Engine,
    ExpandRequest,
    ExpandResponse,
    FileUpscaleRequest,
    GenerateRequest,
    GenerateResponse,
    Job,
    ProgressEvent,
    UpscaleRequest,
    UpscaleResponse,
)
from mold_core.client import RemoteJob
from mold_core.wire import PullRequest, PullResponse, Request


def engine(
    engine: Engine, image: GenerateRequest, video: ChainRequest, idea: ExpandRequest, larger: UpscaleRequest
) -> None:
    assert_type(engine.submit(image), Job[GenerateResponse])
    assert_type(engine.submit(video).result(), ChainResponse)
    assert_type(engine.run(idea), ExpandResponse)
    assert_type(engine.run(PullRequest(model="flux-nano")), PullResponse)
    assert_type(engine.stream(larger), Iterator[ProgressEvent | UpscaleResponse])
    either: Request[GenerateResponse | ChainResponse] = image if image.frames is None else video
    assert_type(engine.run(either), GenerateResponse | ChainResponse)


def client(client: Client, image: GenerateRequest, files: FileUpscaleRequest) -> None:
    assert_type(client.submit(image), RemoteJob[GenerateResponse])
    assert_type(client.run(files), UpscaleResponse)
    assert_type(client.stream(image), Iterator[ProgressEvent | GenerateResponse])


async def asynchronous(engine: AsyncEngine, image: GenerateRequest) -> None:
    assert_type(await engine.run(image), GenerateResponse)
    assert_type(engine.stream(image), AsyncGenerator[ProgressEvent | GenerateResponse])


def wrong(engine: Engine) -> None:
    engine.submit("a red house")  # type: ignore[arg-type]
    prompts = engine.run(GenerateRequest(prompt="a red house")).original  # type: ignore[attr-defined]
    assert prompts
