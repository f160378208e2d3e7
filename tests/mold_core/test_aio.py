"""The verbs for asyncio: results, events, several at once, and cancelling."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from mold_core import AsyncEngine, CancelledError, DenoiseStep, GenerateRequest, GenerateResponse, UnknownModelError
from mold_core.testing import FakePlugin, Gate, SketchFamily, engine_with, sketch_model


def with_engine(home: Path, use: Callable[[AsyncEngine], Coroutine[Any, Any, None]], gate: Gate | None = None) -> None:
    """Run a coroutine with an engine that sketches."""

    async def main() -> None:
        plugin = FakePlugin(families=[SketchFamily(gate=gate)], models=[sketch_model("sketch:v1")])
        with engine_with(plugin, home=home) as made:
            async with AsyncEngine(made) as engine:
                await asyncio.wait_for(use(engine), 30)

    asyncio.run(main())


def test_several_requests_are_made_at_once(home: Path) -> None:
    async def use(engine: AsyncEngine) -> None:
        requests = [GenerateRequest(prompt="a house", model="sketch", seed=seed) for seed in range(8)]
        responses = await asyncio.gather(*map(engine.generate, requests))
        assert [response.seed_used for response in responses] == list(range(8))

    with_engine(home, use)


def test_a_stream_gives_events_and_last_the_response(home: Path) -> None:
    async def use(engine: AsyncEngine) -> None:
        *events, last = [
            item async for item in engine.stream(GenerateRequest(prompt="a house", model="sketch", steps=3))
        ]
        assert [event.step for event in events if isinstance(event, DenoiseStep)] == [1, 2, 3]
        assert isinstance(last, GenerateResponse)

    with_engine(home, use)


def test_errors_are_those_of_the_engine(home: Path) -> None:
    async def use(engine: AsyncEngine) -> None:
        with pytest.raises(UnknownModelError):
            await engine.generate(GenerateRequest(prompt="a house", model="nosuch"))

    with_engine(home, use)


def test_cancelling_a_task_cancels_its_job(home: Path) -> None:
    gate = Gate()

    async def use(engine: AsyncEngine) -> None:
        task = asyncio.create_task(engine.generate(GenerateRequest(prompt="a house", model="sketch", steps=50)))
        await asyncio.to_thread(gate.wait_for_arrival)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        (job,) = engine.engine.jobs()
        assert job.state == "cancelled"
        gate.open()

    with_engine(home, use, gate)


def test_leaving_a_stream_early_cancels_its_job(home: Path) -> None:
    gate = Gate()

    async def use(engine: AsyncEngine) -> None:
        async with aclosing(engine.stream(GenerateRequest(prompt="a house", model="sketch", steps=50))) as items:
            async for _ in items:
                break
        (job,) = engine.engine.jobs()
        assert job.state == "cancelled"
        gate.open()

    with_engine(home, use, gate)


def test_on_event_that_says_false_cancels(home: Path) -> None:
    async def use(engine: AsyncEngine) -> None:
        with pytest.raises(CancelledError):
            await engine.generate(
                GenerateRequest(prompt="a house", model="sketch"), lambda event: not isinstance(event, DenoiseStep)
            )

    with_engine(home, use)
