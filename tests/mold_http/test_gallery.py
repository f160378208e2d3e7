"""The gallery over HTTP: lists, files and parts of them, thumbnails, deleting."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from http_server import PATIENCE_S, Server, serving
from PIL import Image

from mold_core.media.images import decode_image

NAMES = ("one.png", "mold-sketch-1764000000.jpg", "three.gif")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that finds three images."""
    home = tmp_path_factory.mktemp("shelf") / "home"
    output = home / "output"
    output.mkdir(parents=True)
    for name in NAMES:
        noise = Image.effect_noise((400, 300), 50).convert("RGB")
        noise.save(output / name)
    with serving(home) as running:
        assert running.soon("/api/gallery", lambda entries: len(entries) == len(NAMES))
        yield running


def test_results_are_listed(shelf: Server) -> None:
    entries = shelf.ask("GET", "/api/gallery").json()
    assert {entry["filename"] for entry in entries} == set(NAMES)
    for entry in entries:
        assert entry["size_bytes"] > 0
        assert (entry["metadata"]["width"], entry["metadata"]["height"]) == (400, 300)


def test_a_list_comes_in_pages(shelf: Server) -> None:
    seen, cursor = [], ""
    while True:
        answer = shelf.ask("GET", f"/api/gallery?limit=1{cursor}")
        seen += [entry["filename"] for entry in answer.json()]
        if answer.headers["x-next-cursor"] is None:
            break
        cursor = f"&cursor={answer.headers['x-next-cursor']}"
    assert seen == [entry["filename"] for entry in shelf.ask("GET", "/api/gallery").json()]
    for wrong in ("limit=0", "limit=x", "limit=1001", "limit=1.5", "limit=-1", "limit=%C2%B2", "cursor=nope"):
        assert shelf.ask("GET", f"/api/gallery?{wrong}").status == 422, wrong


def test_a_list_may_be_searched(shelf: Server) -> None:
    assert [entry["filename"] for entry in shelf.ask("GET", "/api/gallery?q=sketch").json()] == [NAMES[1]]
    assert shelf.ask("GET", "/api/gallery?q=%22%27%3B--").status == 200


@pytest.mark.parametrize(("name", "type"), list(zip(NAMES, ("image/png", "image/jpeg", "image/gif"), strict=True)))
def test_a_file_comes_whole_with_its_type(shelf: Server, name: str, type: str) -> None:
    answer = shelf.ask("GET", f"/api/gallery/image/{name}")
    assert (answer.status, answer.type) == (200, type)
    assert answer.body == (shelf.home / "output" / name).read_bytes()
    assert answer.headers["content-length"] == str(len(answer.body))
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("asked", "cut"), [("0-9", (0, 10)), ("10-", (10, None)), ("-5", (-5, None)), ("5-99999999", (5, None))]
)
def test_a_part_of_a_file_comes_alone(shelf: Server, asked: str, cut: tuple[int, int | None]) -> None:
    whole = (shelf.home / "output" / "one.png").read_bytes()
    answer = shelf.ask("GET", "/api/gallery/image/one.png", Range=f"bytes={asked}")
    part = whole[cut[0] : cut[1]]
    first = whole.index(part)
    assert (answer.status, answer.body) == (206, part)
    assert answer.headers["content-range"] == f"bytes {first}-{first + len(part) - 1}/{len(whole)}"


@pytest.mark.parametrize(
    "asked", ["bytes=99999999-", "bytes=5-4", "BYTES=-0", "bytes=-", "bytes=x", "bytes=99999999-,999999999-"]
)
def test_a_part_that_is_none_is_refused(shelf: Server, asked: str) -> None:
    answer = shelf.ask("GET", "/api/gallery/image/one.png", Range=asked)
    size = (shelf.home / "output" / "one.png").stat().st_size
    assert (answer.status, answer.body) == (416, b"")
    assert answer.headers["content-range"] == f"bytes */{size}"


@pytest.mark.parametrize("asked", ["lines=1-2", "x", "", "bytes 0-1", "bytes=0-1,3-4", "bytes=0-1, 99999999-"])
def test_other_units_and_several_ranges_get_the_whole(shelf: Server, asked: str) -> None:
    answer = shelf.ask("GET", "/api/gallery/image/one.png", Range=asked)
    assert (answer.status, answer.headers["content-range"]) == (200, None)
    assert answer.body == (shelf.home / "output" / "one.png").read_bytes()


def test_a_unit_may_be_written_in_any_case(shelf: Server) -> None:
    assert shelf.ask("GET", "/api/gallery/image/one.png", Range="Bytes=0-3").status == 206


def test_a_range_of_head_is_ignored(shelf: Server) -> None:
    answer = shelf.ask("HEAD", "/api/gallery/image/one.png", Range="bytes=0-3")
    size = (shelf.home / "output" / "one.png").stat().st_size
    assert (answer.status, answer.headers["content-length"]) == (200, str(size))


@pytest.mark.parametrize("kind", ["image", "thumbnail"])
def test_a_file_that_the_client_has_is_not_sent_again(shelf: Server, kind: str) -> None:
    path = f"/api/gallery/{kind}/one.png"
    first = shelf.ask("GET", path)
    tag, date = first.headers["etag"], first.headers["last-modified"]
    for headers in (
        {"If_None_Match": tag},
        {"If_None_Match": f'"other", W/{tag}'},
        {"If_None_Match": "*"},
        {"If_Modified_Since": date},
        {"If_Modified_Since": "Sat, 01 Jan 2124 00:00:00 GMT"},
    ):
        again = shelf.ask("GET", path, **headers)
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag), headers
        assert shelf.ask("HEAD", path, **headers).status == 304
    for headers in (
        {"If_None_Match": '"other"'},
        {"If_None_Match": '"other"', "If_Modified_Since": date},
        {"If_Modified_Since": "Thu, 01 Jan 1970 00:00:00 GMT"},
        {"If_Modified_Since": "yesterday"},
    ):
        again = shelf.ask("GET", path, **headers)
        assert (again.status, again.body) == (200, first.body), headers


def test_a_file_that_changes_has_other_validators(tmp_path: Path) -> None:
    (tmp_path / "home" / "output").mkdir(parents=True)
    path = tmp_path / "home" / "output" / "one.png"
    Image.new("RGB", (8, 8)).save(path)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    with serving(tmp_path / "home") as server:
        assert server.soon("/api/gallery", len)
        before = server.ask("GET", "/api/gallery/image/one.png").headers
        assert before["last-modified"] == "Tue, 14 Nov 2023 22:13:20 GMT"
        os.utime(path, (1_700_000_000, 1_700_000_001))
        after = server.ask("GET", "/api/gallery/image/one.png", If_None_Match=before["etag"])
        assert (after.status, after.headers["etag"] != before["etag"]) == (200, True)


def test_a_part_is_sent_only_of_the_version_that_if_range_names(shelf: Server) -> None:
    path = "/api/gallery/image/one.png"
    whole = shelf.ask("GET", path)
    for version, status in (
        (whole.headers["etag"], 206),
        (whole.headers["last-modified"], 206),
        ('"other"', 200),
        (f"W/{whole.headers['etag']}", 200),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 200),
    ):
        answer = shelf.ask("GET", path, Range="bytes=2-5", If_Range=version)
        assert (answer.status, answer.body) == (status, whole.body[2:6] if status == 206 else whole.body), version
    beyond = shelf.ask("GET", path, Range="bytes=99999999-", If_Range='"other"')
    assert (beyond.status, beyond.body) == (200, whole.body)


@pytest.mark.parametrize(
    "name", ["..", "a%2Fb", "..%2F..%2Fetc%2Fpasswd", "a%00b", "", "%2e%2e", "sub/one.png", "a\\b"]
)
def test_no_name_leads_out_of_the_folder(shelf: Server, name: str) -> None:
    for kind in ("image", "thumbnail", "preview"):
        answer = shelf.ask("GET", f"/api/gallery/{kind}/{name}")
        assert (answer.status, answer.json()["code"]) == (422, "VALIDATION_ERROR"), kind
        assert "invalid filename" in answer.json()["error"]
    assert shelf.ask("DELETE", f"/api/gallery/image/{name}").status == 422


def test_what_is_not_there_is_not_found(shelf: Server) -> None:
    for path in ("image/none.png", "thumbnail/none.png", "preview/none.png", "preview/one.png"):
        assert shelf.ask("GET", f"/api/gallery/{path}").status == 404, path


def test_a_link_leads_nowhere(shelf: Server) -> None:
    secret = shelf.home / "secret.png"
    Image.effect_noise((400, 300), 50).save(secret)
    (shelf.home / "output" / "link.png").symlink_to(secret)
    assert shelf.ask("GET", "/api/gallery/image/link.png").status == 404


@pytest.mark.parametrize("name", NAMES)
def test_a_thumbnail_is_small(shelf: Server, name: str) -> None:
    answer = shelf.ask("GET", f"/api/gallery/thumbnail/{name}")
    assert (answer.status, answer.type) == (200, "image/png")
    assert max(decode_image(answer.body).size) == 256


def test_a_result_is_deleted_by_who_sits_here(shelf: Server) -> None:
    Image.open(BytesIO((shelf.home / "output" / "one.png").read_bytes())).save(shelf.home / "output" / "four.png")
    assert shelf.ask("GET", "/api/capabilities").json()["gallery"] == {"enabled": True, "can_delete": True}
    assert shelf.ask("DELETE", "/api/gallery/image/mold-sketch-1764000000.jpg").status == 204
    assert shelf.ask("DELETE", "/api/gallery/image/mold-sketch-1764000000.jpg").status == 204
    assert not (shelf.home / "output" / "mold-sketch-1764000000.jpg").exists()
    assert "mold-sketch-1764000000.jpg" not in [entry["filename"] for entry in shelf.ask("GET", "/api/gallery").json()]


def test_a_server_that_keeps_nothing_has_an_empty_gallery(tmp_path: Path) -> None:
    with serving(tmp_path / "home", MOLD_OUTPUT_DIR="") as server:
        assert server.ask("GET", "/api/gallery").json() == []
        answer = server.ask("GET", "/api/gallery/image/a.png")
        assert answer.status == 404
        assert "image output is disabled" in answer.json()["error"]
        assert server.ask("GET", "/api/capabilities").json()["gallery"]["enabled"] is False


def test_thumbnails_are_made_before_anybody_asks_where_that_is_wanted(tmp_path: Path) -> None:
    output = tmp_path / "home" / "output"
    output.mkdir(parents=True)
    Image.effect_noise((40, 30), 50).convert("RGB").save(output / "one.png")
    with serving(tmp_path / "home", MOLD_THUMBNAIL_WARMUP="1") as running:
        assert running.soon("/api/gallery", lambda entries: len(entries) == 1)
        cache = tmp_path / "home" / "cache" / "thumbnails"
        until = time.monotonic() + PATIENCE_S
        while not list(cache.rglob("one.png.png")) and time.monotonic() < until:
            time.sleep(0.05)
        assert list(cache.rglob("one.png.png"))
