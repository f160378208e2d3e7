"""/mcp of the server, called by the client of the MCP SDK."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from inside_server import InsideServer, serving_inside
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, ImageContent, ResourceLink, TextContent
from PIL import Image

from mold_core.mcp.arguments import GenerateImage
from mold_core.mcp.tools import Tools
from mold_core.media.video import probe_video
from mold_core.testing import (
    FakePlugin,
    FlipbookFamily,
    FlipbookRenderer,
    Gate,
    SketchFamily,
    engine_with,
    flipbook_model,
    sketch_model,
)

SKETCH = SketchFamily(capabilities=frozenset({"text-to-image", "image-to-image"}), batched=False)
PLUGIN = FakePlugin(
    families=[SKETCH, FlipbookFamily()],
    models=[flipbook_model(clip_frames=17), sketch_model()],
    chain_renderers=[FlipbookRenderer()],
)
KEY = "a-key"
BODY = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "generate_image", "arguments": {}}}
ACCEPT = {"Accept": "application/json, text/event-stream"}


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InsideServer]:
    home = tmp_path_factory.mktemp("mcp") / "home"
    with serving_inside(home, PLUGIN, api_key=KEY, default_model="flipbook") as running:
        yield running


def url(server: InsideServer) -> str:
    return f"http://127.0.0.1:{server.port}/mcp"


@asynccontextmanager
async def connected(server: InsideServer, headers: dict[str, str]) -> AsyncIterator[Client]:
    async with (
        httpx2.AsyncClient(headers=headers, timeout=120) as http,
        Client(streamable_http_client(url(server), http_client=http)) as client,
    ):
        yield client


def text_of(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


def link_of(result: CallToolResult) -> ResourceLink:
    return next(block for block in result.content if isinstance(block, ResourceLink))


def test_a_host_generates_over_http(inside: InsideServer) -> None:
    async def host() -> None:
        async with connected(inside, {"Authorization": f"Bearer {KEY}"}) as client:
            steps: list[float] = []

            async def progress(step: float, total: float | None, message: str | None) -> None:
                steps.append(step)

            asked = {"prompt": "a house", "steps": 3, "count": 2, "seed": 4}
            generated = await client.call_tool("generate_image", asked, progress_callback=progress)
            images = [block for block in generated.content if isinstance(block, ImageContent)]
            assert [Image.open(BytesIO(base64.b64decode(image.data))).size for image in images] == [(32, 32)] * 2
            assert steps[-1] == 3
            read = await client.read_resource(link_of(generated).uri)
            assert read.contents[0].mime_type == "image/png"

            video = await client.call_tool("generate_video", {"prompt": "a red ball", "seconds": 1, "fps": 16})
            link = link_of(video)
            data = base64.b64decode((await client.read_resource(link.uri)).contents[0].blob)  # type: ignore[union-attr]
            assert (link.mime_type, probe_video(BytesIO(data)).frames) == ("video/mp4", 17)

            assert "sketch:v1: image-to-image" in text_of(await client.call_tool("list_models", {}))
            refused = await client.call_tool("edit_image", {"image": str(Path(__file__)), "prompt": "x"})
            assert refused.is_error and "neither a result in the gallery nor base64" in text_of(refused)

    anyio.run(host)


def test_a_job_is_followed_and_cancelled(inside: InsideServer) -> None:
    async def host() -> None:
        SKETCH.gate = gate = Gate()
        try:
            async with connected(inside, {"X-Api-Key": KEY}) as client:
                await _cancel_one(client, gate)
        finally:
            gate.open()
            SKETCH.gate = None

    anyio.run(host)


async def _cancel_one(client: Client, gate: Gate) -> None:
    ids: list[str] = []
    named = anyio.Event()

    async def progress(step: float, total: float | None, message: str | None) -> None:
        if message:
            ids.append(message.removeprefix("job "))
            named.set()

    results: list[CallToolResult] = []

    async def generate() -> None:
        results.append(await client.call_tool("generate_image", {"prompt": "slow"}, progress_callback=progress))

    async with anyio.create_task_group() as group:
        group.start_soon(generate)
        await anyio.to_thread.run_sync(gate.wait_for_arrival)
        await named.wait()
        assert "state: running" in text_of(await client.call_tool("job_status", {"job_id": ids[0]}))
        assert text_of(await client.call_tool("cancel_job", {"job_id": ids[0]})) == "cancelled"
    assert results[0].is_error and "cancelled" in text_of(results[0])


def test_a_host_that_leaves_cancels_its_job(inside: InsideServer) -> None:
    SKETCH.gate = gate = Gate()
    params = {"name": "generate_image", "arguments": {"prompt": "abandoned"}}
    body = {**BODY, "params": params}
    try:
        with httpx2.stream("POST", url(inside), json=body, headers={**ACCEPT, "X-Api-Key": KEY}) as answer:
            assert answer.status_code == 200
            gate.wait_for_arrival()
            (job,) = [job for job in inside.engine.jobs(state="running") if job.request.prompt == "abandoned"]
        assert job.wait(120)
        assert job.state == "cancelled"
    finally:
        gate.open()
        SKETCH.gate = None


def test_a_host_that_leaves_at_once_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    body = json.dumps({**BODY, "params": {"name": "list_models"}})
    lines = ["POST /mcp HTTP/1.1", "Host: localhost", "Content-Type: application/json", f"Accept: {ACCEPT['Accept']}"]
    request = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", body]).encode()
    with serving_inside(tmp_path / "home", PLUGIN) as server:
        assert httpx2.post(url(server), content=body, headers=ACCEPT).status_code == 400  # loads the SDK
        for _ in range(50):
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(request)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_keys_and_rates_count(tmp_path: Path) -> None:
    with serving_inside(tmp_path / "home", PLUGIN, api_key=KEY, rate_limit="1/hour", rate_limit_burst=1) as server:
        assert httpx2.post(url(server), json=BODY, headers=ACCEPT).status_code == 401
        headers = {**ACCEPT, "Authorization": f"Bearer {KEY}"}
        assert httpx2.post(url(server), json=BODY, headers=headers).status_code == 200
        assert httpx2.post(url(server), json=BODY, headers=headers).json()["code"] == "RATE_LIMITED"
        listing = {"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {}}
        assert httpx2.post(url(server), json=listing, headers=headers).status_code == 200
        assert httpx2.get(url(server), headers=headers).status_code == 405
        assert httpx2.post(url(server), content=b"[" * 100, headers=headers).status_code == 400


def test_what_only_the_sdk_can_read_calls_no_tool_past_the_rate(tmp_path: Path) -> None:
    call = '{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "generate_image", "arguments": %s}}'
    headers = {**ACCEPT, "Content-Type": "application/json"}
    with serving_inside(tmp_path / "home", PLUGIN, rate_limit="1/hour", rate_limit_burst=1) as server:
        answer = httpx2.post(url(server), content=call % '{"prompt": "a house", "x": NaN}', headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "BAD_REQUEST")
        assert server.engine.jobs() == []


def test_many_waiting_calls_leave_other_tools_working(tmp_path: Path) -> None:
    calls = 45  # more than the threads that anyio has by default

    async def host(server: InsideServer, gate: Gate) -> None:
        async with connected(server, {}) as client, anyio.create_task_group() as group:
            named = [anyio.Event() for _ in range(calls)]
            for event in named:

                async def progress(step: float, total: float | None, message: str | None, *, seen: Any = event) -> None:
                    seen.set()

                group.start_soon(
                    partial(client.call_tool, "generate_image", {"prompt": "x"}, progress_callback=progress)
                )
            for event in named:
                await event.wait()
            assert "sketch:v1" in text_of(await client.call_tool("list_models", {}))
            gate.open()

    with serving_inside(tmp_path / "home", PLUGIN, default_model="sketch") as server:
        SKETCH.gate = gate = Gate()
        try:
            anyio.run(host, server, gate)
        finally:
            gate.open()
            SKETCH.gate = None


def test_a_caller_that_leaves_before_the_first_message_cancels_its_job(tmp_path: Path) -> None:
    async def left(step: float, total: float | None, message: str | None) -> None:
        raise anyio.BrokenResourceError

    with engine_with(PLUGIN, home=tmp_path, default_model="sketch") as engine:
        SKETCH.gate = gate = Gate()
        try:
            with pytest.raises(anyio.BrokenResourceError):
                anyio.run(Tools(engine=engine).generate_image, GenerateImage(prompt="x"), left)
            (job,) = engine.recent_jobs()
            assert job.wait(120) and job.state == "cancelled"
        finally:
            gate.open()
            SKETCH.gate = None
