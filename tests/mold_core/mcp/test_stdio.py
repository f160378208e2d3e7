"""`mold mcp`, called by the client of the MCP SDK."""

from __future__ import annotations

import base64
import os
import sys
from io import BytesIO
from pathlib import Path

import anyio
import pytest
from mcp import Client, StdioServerParameters, stdio_client
from mcp.types import CallToolResult, ImageContent, ResourceLink, TextContent
from PIL import Image

EXECUTABLE = Path(sys.executable).parent / "mold"


def mold_mcp(home: Path) -> StdioServerParameters:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MOLD_")}
    environment = {**inherited, "MOLD_HOME": str(home), "MOLD_DEVICE": "cpu"}
    return StdioServerParameters(command=str(EXECUTABLE), args=["mcp", "--local"], env=environment)


def image_of(result: CallToolResult) -> Image.Image:
    image = next(block for block in result.content if isinstance(block, ImageContent))
    return Image.open(BytesIO(base64.b64decode(image.data)))


def link_of(result: CallToolResult) -> ResourceLink:
    return next(block for block in result.content if isinstance(block, ResourceLink))


def text_of(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


def test_a_host_generates_edits_and_upscales(tmp_path: Path) -> None:
    picture = tmp_path / "photo.png"
    Image.new("RGB", (64, 64), "red").save(picture)
    noise = tmp_path / "noise.png"
    Image.effect_noise((24, 24), 40).save(noise)

    async def host() -> None:
        async with Client(stdio_client(mold_mcp(tmp_path / "home"))) as client:
            names = [tool.name for tool in (await client.list_tools()).tools]
            assert {"generate_image", "edit_image", "upscale_image", "generate_video", "expand_prompt"} < set(names)
            steps: list[float] = []

            async def progress(step: float, total: float | None, message: str | None) -> None:
                steps.append(step)

            asked = {"prompt": "a red house", "steps": 2, "seed": 3, "width": 64, "height": 64}
            generated = await client.call_tool("generate_image", asked, progress_callback=progress)
            assert not generated.is_error, generated
            assert image_of(generated).size == (64, 64)
            assert steps[-1] == 2
            assert "flux-nano:bf16, 64x64, seed 3" in text_of(generated)

            link = link_of(generated)
            read = await client.read_resource(link.uri)
            assert Image.open(BytesIO(base64.b64decode(read.contents[0].blob))).size == (64, 64)  # type: ignore[union-attr]
            assert [resource.uri for resource in (await client.list_resources()).resources] == [link.uri]
            found = await client.call_tool("search_gallery", {"query": "house"})
            assert link_of(found).uri == link.uri

            encoded = base64.b64encode(picture.read_bytes()).decode()
            noisy = base64.urlsafe_b64encode(noise.read_bytes()).decode()  # longer than the name of a file may be
            assert 255 < len(noisy) < 4096 and "/" not in noisy
            for image in (link.uri, str(picture), encoded, noisy, f"data:image/png;base64,{encoded}"):
                edited = await client.call_tool("edit_image", {"image": image, "prompt": "a boat", "steps": 1})
                assert not edited.is_error, edited
            upscaled = await client.call_tool("upscale_image", {"image": link.name})
            assert image_of(upscaled).size == (256, 256)

            models = await client.call_tool("list_models", {})
            assert "flux-nano:bf16: " in text_of(models)
            expanded = await client.call_tool("expand_prompt", {"prompt": "a house", "variations": 2})
            assert len(expanded.content) == 2

            wrong = await client.call_tool("generate_image", {"prompt": "x", "steps": 1000})
            assert wrong.is_error and "steps must be from 1 to 100" in text_of(wrong)
            unknown = await client.call_tool("job_status", {"job_id": "nope"})
            assert unknown.is_error and "there is no job" in text_of(unknown)

    anyio.run(host)


def test_the_command_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from mold_core.cli.main import mold
    from mold_core.errors import PluginError

    monkeypatch.setitem(sys.modules, "mold_core.mcp.server", None)
    result = CliRunner().invoke(mold, ["mcp", "--local"])
    assert isinstance(result.exception, PluginError) or "mold-core[mcp]" in result.output
