"""A client written against the HTTP API of mold 0.1, with the standard library alone: `python … ADDRESS KEY`."""

import base64
import json
import sys
import urllib.error
import urllib.request
from typing import Any

ADDRESS, KEY = sys.argv[1:]
PNG = b"\x89PNG\r\n\x1a\n"


def ask(method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, bytes]:
    data = None if body is None else json.dumps(body).encode()
    sent = {"X-Api-Key": KEY, "Content-Type": "application/json"} | headers
    request = urllib.request.Request(ADDRESS + path, data, sent, method=method)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


def ask_json(method: str, path: str, body: Any = None, **headers: str) -> Any:
    status, _, data = ask(method, path, body, Accept="application/json", **headers)
    assert status < 300, (path, status, data)
    return json.loads(data)


def events(data: bytes) -> list[tuple[str, Any]]:
    found = []
    for block in data.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


picture = {"prompt": "a red house", "model": "sketch:v1", "steps": 2, "width": 64, "height": 32, "seed": 7}

# A picture as the answer, or as JSON.
status, headers, image = ask("POST", "/api/generate", picture)
assert (status, headers["content-type"]) == (200, "image/png")
assert image.startswith(PNG)
assert headers["X-Mold-Seed-Used"] == "7"
assert headers["X-Request-ID"]
told = ask_json("POST", "/api/generate", {**picture, "batch_size": 2})
assert (told["model"], told["seed_used"], len(told["images"])) == ("sketch:v1", 7, 2)

# Errors are envelopes.
status, _, data = ask("POST", "/api/generate", {**picture, "model": "sketsch"})
assert (status, json.loads(data)["code"]) == (400, "UNKNOWN_MODEL"), (status, data)
status, _, data = ask("POST", "/api/generate", {**picture, "steps": "many"})
assert (status, json.loads(data)["code"]) == (422, "VALIDATION_ERROR")
assert "steps" in json.loads(data)["error"]
status, _, data = ask("GET", "/api/models", **{"X-Api-Key": "wrong"})
assert (status, json.loads(data)["code"]) == (401, "UNAUTHORIZED")

# A stream of progress, with the picture at its end.
_, headers, data = ask("POST", "/api/generate/stream?image_data=base64", picture)
assert headers["content-type"].startswith("text/event-stream")
*progress, (last, complete) = events(data)
assert {name for name, _ in progress} == {"progress"}
assert [event["step"] for _, event in progress if event["type"] == "denoise_step"] == [1, 2]
assert last == "complete"
assert base64.b64decode(complete["image"]) == image
assert (complete["format"], complete["width"], complete["height"], complete["seed_used"]) == ("png", 64, 32, 7)

# A job: queued while the queue is paused, moved, followed, fetched.
assert ask("POST", "/api/queue/pause")[0] < 300
accepted = ask_json("POST", "/api/jobs", {"kind": "generate", "request": picture}, **{"Idempotency-Key": "one"})
assert (accepted["state"], accepted["position"]) == ("queued", 1)
again = ask_json("POST", "/api/jobs", {"kind": "generate", "request": picture}, **{"Idempotency-Key": "one"})
assert again["id"] == accepted["id"]
assert {"paused": True, "depth": 1, "capacity": 3}.items() <= ask_json("GET", "/api/queue").items()
other = ask_json("POST", "/api/jobs", {"kind": "generate", "request": {**picture, "seed": 8}})
assert ask_json("DELETE", f"/api/jobs/{other['id']}")["state"] == "cancelled"
assert ask("POST", "/api/queue/resume")[0] < 300
*progress, (last, _) = events(ask("GET", f"/api/jobs/{accepted['id']}/events")[2])
assert last == "complete"
job = ask_json("GET", f"/api/jobs/{accepted['id']}")
assert (job["kind"], job["state"], job["model"]) == ("generate", "done", "sketch:v1")
assert job["created_at"] <= job["started_at"] <= job["finished_at"]
assert ask("GET", f"/api/jobs/{accepted['id']}/result")[2] == image
assert {job["id"] for job in ask_json("GET", "/api/jobs?state=done")} >= {accepted["id"]}
assert ask("GET", "/api/jobs/nowhere")[0] == 404

# Models, and what can be asked of them.
(model,) = (model for model in ask_json("GET", "/api/models") if model["name"] == "sketch:v1")
assert (model["family"], model["downloaded"], model["default_width"], model["default_steps"]) == ("sketch", True, 32, 2)
unloaded = ask("DELETE", "/api/models/unload")
assert (unloaded[0], unloaded[2].strip()) == (200, b"unloaded sketch:v1"), unloaded
assert ask("POST", "/api/models/load", {"model": "sketch:v1"})[0] == 200
assert ask_json("GET", "/api/status")["models_loaded"] == ["sketch:v1"]
assert "families" in ask_json("GET", "/api/capabilities")
assert ask_json("GET", "/api/openapi.json")["openapi"].startswith("3.1")
assert ask("GET", "/health")[0] == 200

# A prompt written out.
expanded = ask_json("POST", "/api/expand", {"prompt": "a cat", "model_family": "sketch", "variations": 2})
assert (expanded["original"], len(expanded["expanded"])) == ("a cat", 2)

# Results.
entry = ask_json("GET", "/api/gallery?limit=1")[0]
assert entry["metadata"]["prompt"] == "a red house"
assert ask("GET", f"/api/gallery/image/{entry['filename']}")[2] == image
marked = ask_json("PUT", f"/api/gallery/marks/{entry['filename']}", {"favourite": True, "tags": ["house"]})
assert (marked["favourite"], marked["tags"]) == (True, ["house"])
assert ask("DELETE", f"/api/gallery/image/{entry['filename']}")[0] < 300

# OpenAI's route.
answer = ask_json("POST", "/v1/images/generations", {"prompt": "a red house", "model": "sketch:v1", "size": "64x32"})
assert base64.b64decode(answer["data"][0]["b64_json"]).startswith(PNG)

print("everything as in 0.1")
