"""The port for clients of Ollama, beside that of mold."""

from __future__ import annotations

import base64
import json
import socket
from io import BytesIO
from pathlib import Path

from http_server import Server, serving
from PIL import Image


def test_clients_of_ollama_generate_on_their_port(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with serving(tmp_path / "home", "--ollama-port", str(port), MOLD_API_KEY="a-key") as main:
        ollama = Server(port, main.home, main.process)
        assert ollama.ask("GET", "/").body == b"Ollama is running"
        assert ollama.ask("GET", "/api/tags").status == 401
        key = {"Authorization": "Bearer a-key"}
        assert ollama.ask("GET", "/api/version", **key).json()["version"]
        (model,) = ollama.ask("GET", "/api/tags", **key).json()["models"]
        assert (model["name"], model["details"]["family"]) == ("flux-nano:bf16", "flux")
        assert ollama.ask("POST", "/api/show", {"model": "flux-nano:latest"}, **key).json()["capabilities"] == ["image"]

        body = {
            "model": "flux-nano",
            "prompt": "a house",
            "width": 64,
            "height": 64,
            "steps": 2,
            "options": {"seed": 3},
        }
        answer = ollama.ask("POST", "/api/generate", body, **key)
        assert answer.type == "application/x-ndjson"
        *steps, last = [json.loads(line) for line in answer.body.splitlines()]
        assert [(line["completed"], line["total"], line["done"]) for line in steps] == [(1, 2, False), (2, 2, False)]
        assert Image.open(BytesIO(base64.b64decode(last["image"]))).size == (64, 64)
        whole = ollama.ask("POST", "/api/generate", {**body, "stream": False}, **key).json()
        assert (whole["image"], whole["done"]) == (last["image"], True)
        form = {**key, "Content_Type": "application/x-www-form-urlencoded"}  # what curl -d says of JSON
        assert ollama.ask("POST", "/api/generate", {**body, "stream": False}, **form).json()["image"] == last["image"]

        wrong = ollama.ask("POST", "/api/generate", {**body, "model": "flux-nono"}, **key)
        assert "nearest: flux-nano:bf16" in wrong.json()["error"]
        assert ollama.ask("GET", "/api/status", X_Api_Key="a-key").status == 404
        assert main.ask("GET", "/api/tags", X_Api_Key="a-key").status == 404
        assert main.ask("GET", "/api/status", X_Api_Key="a-key").status == 200
