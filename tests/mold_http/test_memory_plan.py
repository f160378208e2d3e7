"""Placing the parts of models over HTTP: written into config.toml, shown, used, and there after a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from http_server import Server, serving

PATH = "/api/config/model/flux-nano%3Abf16/placement"
CPU = {"kind": "cpu"}
SMALL = {"prompt": "a tree", "steps": 1, "width": 64, "height": 64, "seed": 3}


def placement(server: Server) -> Any:
    return {model["name"]: model for model in server.ask("GET", "/api/models").json()}["flux-nano:bf16"].get(
        "placement"
    )


def test_a_placement_outlives_the_server_until_it_is_taken_back(tmp_path: Path) -> None:
    with serving(tmp_path / "home") as server:
        told = server.ask("PUT", PATH, {"text_encoders": CPU, "advanced": {"t5": CPU}})
        assert (told.status, told.json()) == (200, {"ok": True, "model": "flux-nano:bf16"})
        assert server.ask("POST", "/api/generate", SMALL).status == 200
    assert '[models."flux-nano:bf16".placement]' in (tmp_path / "home/config.toml").read_text()
    with serving(tmp_path / "home") as server:
        shown = placement(server)
        assert (shown["text_encoders"], shown["advanced"]["t5"]) == (CPU, CPU)
        assert server.ask("PUT", "/api/config/model/flux-nano/placement", {}).status == 200
        assert server.ask("DELETE", PATH).json() == {"ok": True}
        assert server.ask("DELETE", PATH).json() == {"ok": True}
        assert placement(server) is None


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        (PATH, {"text_encoders": {"kind": "gpu", "ordinal": 0}}, 422, "gpu:0 is not available"),
        (PATH, {"advanced": {"clip_g": CPU}}, 422, "has no part 'clip_g'"),
        (PATH, {"text_encoders": {"kind": "tpu"}}, 422, "text_encoders.kind must be one of auto, cpu, gpu"),
        ("/api/config/model/nope/placement", {}, 400, "unknown model 'nope'"),
        ("/api/config/model/esrgan-nano-x4/placement", {"text_encoders": CPU}, 422, "is an upscaler"),
    ],
)
def test_what_cannot_be_honoured_is_refused(server: Server, path: str, body: Any, status: int, words: str) -> None:
    answer = server.ask("PUT", path, body)
    assert answer.status == status
    assert words in answer.json()["error"]
    if status == 422 and "clip" in words:
        refused = server.ask("POST", "/api/generate", {**SMALL, "placement": body})
        assert (refused.status, words in refused.json()["error"]) == (422, True)


def test_a_config_that_cannot_be_written_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with serving(home) as server:
        (home / "config.toml").mkdir()
        answer = server.ask("PUT", PATH, {"text_encoders": CPU})
        assert (answer.status, answer.json()["code"]) == (500, "SETTINGS_ERROR")
        assert placement(server) is None
        (home / "config.toml").rmdir()


def test_capabilities_tell_what_can_be_placed_and_where(server: Server) -> None:
    told = server.ask("GET", "/api/capabilities").json()
    assert told["devices"] == ["cpu"]
    families = {family["name"]: family["places"] for family in told["families"]}
    assert "transformer" in families["flux"]
