"""Bodies of the largest size that cost more than they weigh: refused soon, in little memory, and others are served."""

from __future__ import annotations

import base64
import json
import random
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from bombs import FORM_BOMBS, JSON_BOMBS
from field_fuzz import Honest
from http_server import Server, serving
from memory import growth_of
from PIL import Image

pytestmark = pytest.mark.soak

SIZE = 60_000_000
SPARE_BYTES = 64_000_000
ANSWER_S = 10.0
HONEST_P95_S = 0.2

BOMBS = {
    **{f"json, {name}": ("/api/generate", "application/json", bomb) for name, bomb in JSON_BOMBS.items()},
    **{
        f"form, {name}": ("/v1/images/edits", "multipart/form-data; boundary=boundary", bomb)
        for name, bomb in FORM_BOMBS.items()
    },
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("bombs") / "home", MOLD_EXECUTOR="process") as running:
        yield running


@pytest.fixture(scope="module")
def honest(server: Server) -> Iterator[Honest]:
    with Honest(server) as client:
        yield client


@pytest.mark.parametrize(("path", "content_type", "bomb"), BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused(
    server: Server,
    honest: Honest,
    capsys: pytest.CaptureFixture[str],
    path: str,
    content_type: str,
    bomb: Callable[[int], bytes],
) -> None:
    honest.resting = True
    body = bomb(SIZE)
    honest.resting = False
    with growth_of(server.process.pid) as growth:
        began = time.monotonic()
        answer = server.ask("POST", path, body, Content_Type=content_type)
        elapsed_s = time.monotonic() - began
    with capsys.disabled():
        print(f"\n{len(body):,} bytes: {answer.status} in {elapsed_s:.2f} s, {growth.bytes / 1e6:.0f} MB", end=" ")
    assert 400 <= answer.status < 500
    assert elapsed_s < ANSWER_S
    assert growth.bytes <= 3 * len(body) + SPARE_BYTES
    assert honest.refused == []


def test_a_image_of_the_largest_size_is_kept_in_bounded_memory(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    image, file = Image.frombytes("RGB", (3800, 3800), random.Random(1).randbytes(3800 * 3800 * 3)), BytesIO()
    image.save(file, "PNG", compress_level=0)
    request = {"prompt": "a", "model": "flux-nano", "source_image": base64.b64encode(file.getvalue()).decode()}
    body = json.dumps({"kind": "generate", "request": request}).encode()
    assert server.ask("POST", "/api/queue/pause").status == 200
    with growth_of(server.process.pid) as growth:
        accepted = server.ask("POST", "/api/jobs", body)
    with capsys.disabled():
        print(f"\n{len(body):,} bytes: {accepted.status}, {growth.bytes / 1e6:.0f} MB", end=" ")
    assert accepted.status == 202
    assert growth.bytes <= 3 * len(body) + SPARE_BYTES
    server.ask("DELETE", f"/api/jobs/{accepted.json()['id']}")


def test_an_honest_client_was_served_meanwhile(honest: Honest, capsys: pytest.CaptureFixture[str]) -> None:
    p95 = {path: honest.p95_s(path) for path in honest.times_s}
    with capsys.disabled():
        print(f"\nhonest client, p95 in seconds: {p95}")
    assert max(p95.values()) < HONEST_P95_S


def test_eight_bombs_at_once_leave_others_alone(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    bombs = [JSON_BOMBS[name](SIZE) for name in ("media in lines", "media that is none", "empty arrays", "names")] * 2
    with serving(tmp_path / "home") as server, Honest(server) as honest, ThreadPoolExecutor(len(bombs)) as clients:
        answers = list(clients.map(lambda body: server.ask("POST", "/api/generate", body), bombs))
    assert all(400 <= answer.status < 500 for answer in answers)
    assert honest.refused == []
