"""A server whose disk is full or read-only: nobody loses an image that was made."""

from __future__ import annotations

import base64
import io
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from http_server import Server, events, serving
from PIL import Image
from small_disk import load_weights, small_disk

SMALL = {"prompt": "a tree", "steps": 1, "width": 64, "height": 64, "seed": 3}


def finished(server: Server, id: str) -> Any:
    assert server.soon(f"/api/jobs/{id}", lambda job: job["state"] in ("done", "failed", "cancelled"))
    return server.ask("GET", f"/api/jobs/{id}").json()


def queue(server: Server, request: dict[str, Any] = SMALL) -> Any:
    return server.ask("POST", "/api/jobs", {"kind": "generate", "request": request})


@contextmanager
def full_output(place: Path) -> Iterator[Path]:
    with small_disk(place) as output:
        load_weights(output)
        yield output


@contextmanager
def read_only_output(place: Path) -> Iterator[Path]:
    with small_disk(place) as output:
        if subprocess.run(["mount", "-o", "remount,ro", output]).returncode:
            pytest.skip("no disk can be made read-only here")
        yield output


@contextmanager
def output_without_folder(place: Path) -> Iterator[Path]:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"a file where the folder should be")
    yield place


@pytest.mark.parametrize("broken", [full_output, read_only_output, output_without_folder])
def test_who_waits_gets_the_image_with_a_warning(broken: Any, tmp_path: Path, capfd: Any) -> None:
    with (
        broken(tmp_path / "disk") as output,
        serving(tmp_path / "home", MOLD_OUTPUT_DIR=str(output)) as server,
    ):
        plain = server.ask("POST", "/api/generate", SMALL)
        assert (plain.status, plain.type) == (200, "image/png")
        assert Image.open(io.BytesIO(plain.body)).size == (64, 64)
        whole = server.ask("POST", "/api/generate?image_data=url", SMALL, Accept="application/json").json()
        (warning,) = [words for words in whole["warnings"] if "gallery" in words]
        assert "the result could not be saved in the gallery: " in warning
        assert str(tmp_path) not in warning
        assert base64.b64decode(whole["images"][0]["data"]) == plain.body
        stream = server.ask("POST", "/api/generate/stream?image_data=base64", SMALL).body
        name, last = events(stream)[-1]
        assert (name, warning in last["warnings"]) == ("complete", True)
        assert server.ask("GET", "/api/status").json()["gallery_error"] in warning
        enlarged = server.ask(
            "POST",
            "/api/upscale",
            {"image": base64.b64encode(plain.body).decode(), "model": "esrgan-nano-x4"},
            Accept="application/json",
        )
        assert enlarged.json()["warnings"] == [warning]


def test_the_status_is_well_again_when_results_are_saved_again(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "disk") as output,
        serving(tmp_path / "home", MOLD_OUTPUT_DIR=str(output)) as server,
    ):
        filler = load_weights(output)
        server.ask("POST", "/api/generate", SMALL)
        assert server.ask("GET", "/api/status").json()["gallery_error"] == "the disk is full"
        filler.unlink()
        server.ask("POST", "/api/generate", SMALL)
        assert server.ask("GET", "/api/status").json().get("gallery_error") is None
        assert len(server.ask("GET", "/api/gallery").json()) == 1


def test_a_job_that_is_kept_is_refused_where_there_is_no_room_for_its_result(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "disk") as output,
        serving(tmp_path / "home", MOLD_OUTPUT_DIR=str(output)) as server,
    ):
        server.ask("POST", "/api/queue/pause")
        waits = queue(server)
        assert waits.status == 202
        refused = queue(server, {**SMALL, "batch_size": 100})
        assert (refused.status, refused.json()["code"]) == (507, "INSUFFICIENT_STORAGE")
        assert "MB are free" in refused.json()["error"]
        load_weights(output)
        assert queue(server).status == 507
        server.ask("POST", "/api/queue/resume")
        job = finished(server, waits.json()["id"])
        assert (job["state"], job["code"]) == ("failed", "INSUFFICIENT_STORAGE")
        assert len(server.ask("GET", "/api/jobs").json()) == 1


def test_a_server_on_a_full_disk_answers_cancels_deletes_and_starts_again(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk:
        with serving(disk / "home") as server:
            for _ in range(3):
                assert server.ask("POST", "/api/generate", SMALL).status == 200
            server.ask("POST", "/api/queue/pause")
            ids = [queue(server).json()["id"] for _ in range(3)]
            load_weights(disk)
            assert queue(server).status == 507
            for id_ in ids[:2]:
                assert server.ask("DELETE", f"/api/jobs/{id_}").json()["state"] == "cancelled"
            names = [entry["filename"] for entry in server.ask("GET", "/api/gallery").json()]
            for name in names[:2]:
                assert server.ask("DELETE", f"/api/gallery/image/{name}").status == 204
            load_weights(disk)
            assert len(server.ask("GET", "/api/gallery").json()) == 1
            server.process.kill()
            server.process.wait(20)
        assert whole(disk / "home")
        with serving(disk / "home") as again:
            states = {job["id"]: job["state"] for job in again.ask("GET", "/api/jobs").json()}
            assert [states[id_] for id_ in ids] == ["cancelled", "cancelled", "queued"]
            assert len(again.ask("GET", "/api/gallery").json()) == 1
            (disk / "filler").unlink()
            again.ask("POST", "/api/queue/resume")
            assert finished(again, ids[2])["state"] == "done"
        assert whole(disk / "home")


def test_a_result_that_cannot_be_written_down_is_there_while_the_server_lives(tmp_path: Path) -> None:
    with serving(tmp_path / "home", MOLD_OUTPUT_DIR="") as server:
        server.ask("POST", "/api/queue/pause")
        id_ = queue(server).json()["id"]
        (tmp_path / "home" / "jobs" / f"{id_}.json").mkdir()  # where its result belongs
        server.ask("POST", "/api/queue/resume")
        job = finished(server, id_)
        assert job["state"] == "done"
        assert "the result is kept only until the server ends" in job["warnings"][0]
        assert server.ask("GET", f"/api/jobs/{id_}/result").type == "image/png"
    os.rmdir(tmp_path / "home" / "jobs" / f"{id_}.json")
    with serving(tmp_path / "home", MOLD_OUTPUT_DIR="") as again:
        assert finished(again, id_)["state"] == "done"
        assert again.ask("GET", f"/api/jobs/{id_}/result").type == "image/png"


def whole(home: Path) -> bool:
    """Say whether both databases pass SQLite's own check."""
    for path in (home / "gallery.db", home / "jobs" / "jobs.db"):
        with closing(sqlite3.connect(path)) as connection:
            if connection.execute("PRAGMA integrity_check").fetchone() != ("ok",):
                return False
    return True
