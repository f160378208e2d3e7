"""OpenAI's client for Node, from npm, against the routes that are meant for it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from inside_server import InsideServer, serving_inside
from PIL import Image

from mold_core.media.video import probe_video
from mold_core.testing import FakePlugin, FlipbookFamily, SketchFamily, flipbook_model, sketch_model

pytestmark = pytest.mark.soak

SCRIPT = """
import OpenAI, { toFile } from "openai";
import fs from "node:fs";

const client = new OpenAI({ baseURL: process.env.BASE_URL, apiKey: "a-key", maxRetries: 0 });
const found = {};
const generated = await client.images.generate({ model: "gpt-image-1", prompt: "a house", n: 2, size: "auto",
  quality: "high", background: "auto", output_format: "webp", output_compression: 80, moderation: "low" });
fs.writeFileSync("generated.webp", Buffer.from(generated.data[0].b64_json, "base64"));
Object.assign(found, { images: generated.data.length, size: generated.size, quality: generated.quality });
const source = await toFile(fs.createReadStream("source.png"), "source.png", { type: "image/png" });
const edited = await client.images.edit({ model: "dall-e-2", image: source, prompt: "a boat" });
fs.writeFileSync("edited.png", Buffer.from(edited.data[0].b64_json, "base64"));
found.events = [];
for await (const event of await client.images.generate({ prompt: "a tree", stream: true, partial_images: 1 }))
  found.events.push(event.type);
found.models = [];
for await (const model of client.models.list()) found.models.push(model.id);
found.retrieved = (await client.models.retrieve("sketch")).id;
const created = await client.videos.create({ model: "sora-2", prompt: "a red ball", seconds: "4" , fps: 4 });
let video = created;
while (["queued", "in_progress"].includes(video.status)) video = await client.videos.retrieve(created.id);
const content = await client.videos.downloadContent(created.id);
fs.writeFileSync("video.mp4", Buffer.from(await content.arrayBuffer()));
Object.assign(found, { status: video.status, seconds: video.seconds });
found.listed = [];
for await (const one of client.videos.list()) found.listed.push(one.id === created.id);
found.deleted = (await client.videos.delete(created.id)).deleted;
try { await client.images.generate({ model: "skech", prompt: "x" }); } catch (error) {
  Object.assign(found, { failure: error.constructor.name, message: error.message }); }
console.log(JSON.stringify(found));
"""


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[InsideServer]:
    plugin = FakePlugin(
        families=[FlipbookFamily(), SketchFamily(capabilities=frozenset({"text-to-image", "image-to-image"}))],
        models=[flipbook_model(), sketch_model()],
    )
    with serving_inside(tmp_path / "home", plugin, api_key="a-key", default_model="sketch") as running:
        yield running


def test_every_call_of_the_node_client_works(tmp_path: Path, inside: InsideServer) -> None:
    node, npm = shutil.which("node"), shutil.which("npm")
    assert node is not None and npm is not None, "this test needs node and npm"
    folder = tmp_path / "node"
    folder.mkdir()
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "script.js").write_text(SCRIPT)
    Image.new("RGB", (32, 32), "red").save(folder / "source.png")
    subprocess.run([npm, "install", "--no-audit", "--no-fund", "openai@>=6"], cwd=folder, check=True, timeout=300)
    done = subprocess.run(
        [node, "script.js"],
        cwd=folder,
        env={"PATH": str(Path(node).parent), "BASE_URL": f"http://127.0.0.1:{inside.port}/v1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["images"], found["size"], found["quality"]) == (2, "32x32", "high")
    assert Image.open(BytesIO((folder / "generated.webp").read_bytes())).format == "WEBP"
    assert Image.open(BytesIO((folder / "edited.png").read_bytes())).format == "PNG"
    assert found["events"][-1] == "image_generation.completed"
    assert (found["models"], found["retrieved"]) == (["flipbook:v1", "sketch:v1"], "sketch:v1")
    assert (found["status"], found["seconds"], found["listed"], found["deleted"]) == ("completed", "4", [True], True)
    assert probe_video(BytesIO((folder / "video.mp4").read_bytes())).frames == 17
    assert found["failure"] == "NotFoundError" and "nearest: sketch:v1" in found["message"]
