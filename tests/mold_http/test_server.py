"""What the server tells of itself, its models and downloads, and how it ends."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from http_server import EXECUTABLE, Server, events, read_all, read_until, serving

from mold_core.build import this_build
from mold_core.engine.worker.scheduler_slice import SHORT_S, scheduler_slice_of

LONG = {"prompt": "a long tree", "steps": 100, "width": 256, "height": 256, "batch_size": 50}


def test_health_is_an_empty_200(server: Server) -> None:
    answer = server.ask("GET", "/health")
    assert (answer.status, answer.body) == (200, b"")


def test_status_tells_what_runs_and_what_is_loaded(server: Server) -> None:
    server.ask("POST", "/api/generate", {"prompt": "a tree", "steps": 1})
    idle = server.ask("GET", "/api/status").json()
    assert "flux-nano:bf16" in idle["models_loaded"]
    assert (idle["busy"], idle["gpu_info"], idle["queue_depth"], idle["queue_capacity"]) == (False, None, 0, 200)
    assert idle["uptime_secs"] >= 0
    assert idle["version"]
    assert (idle.get("git_sha"), idle.get("build_date")) == (this_build().git_sha, this_build().build_date)
    with server.begin("POST", "/api/generate/stream", LONG) as connection:
        read_until(connection, b"denoise_step")
        busy = server.ask("GET", "/api/status").json()
    current = busy["current_generation"]
    assert busy["busy"] is True
    assert current["model"] == "flux-nano:bf16"
    assert current["prompt_sha256"] == sha256(b"a long tree").hexdigest()
    assert current["elapsed_ms"] >= 0


def test_models_are_listed_loaded_and_unloaded(server: Server) -> None:
    server.ask("DELETE", "/api/models/unload")
    assert server.ask("POST", "/api/models/load", {"model": "flux-nano"}).body == b""
    models = {model["name"]: model for model in server.ask("GET", "/api/models").json()}
    nano, dev = models["flux-nano:bf16"], models["flux-dev:q8"]
    assert (nano["is_loaded"], nano["downloaded"], nano["runnable"]) == (True, True, True)
    assert nano["disk_usage_bytes"] > 1_000_000
    assert (dev["downloaded"], dev["hf_repo"], dev["default_steps"]) == (False, "city96/FLUX.1-dev-gguf", 25)
    assert dev["size_gb"] == pytest.approx(11.84, abs=0.01)
    assert dev["remaining_download_bytes"] > 12_000_000_000
    assert server.ask("DELETE", "/api/models/unload", {"model": "flux-nano"}).body == b"unloaded flux-nano:bf16\n"
    assert server.ask("DELETE", "/api/models/unload").body == b"no model loaded\n"
    assert server.ask("GET", "/api/status").json()["models_loaded"] == []


@pytest.mark.parametrize(
    ("body", "status"),
    [({"model": "nope"}, 400), ({"model": "flux-dev"}, 404), ({}, 422), ({"model": "flux-nano", "gpu": 7}, 404)],
)
def test_what_cannot_be_loaded_is_refused(server: Server, body: object, status: int) -> None:
    assert server.ask("POST", "/api/models/load", body).status == status


def test_a_model_inside_mold_is_pulled_at_once(server: Server) -> None:
    plain = server.ask("POST", "/api/models/pull", {"model": "flux-nano"})
    assert (plain.status, plain.body) == (200, b"model 'flux-nano:bf16' pulled successfully\n")
    stream = server.ask("POST", "/api/models/pull", {"model": "flux-nano"}, Accept="text/event-stream")
    assert stream.type == "text/event-stream"
    assert events(stream.body)[-1] == ("progress", {"type": "pull_complete", "model": "flux-nano:bf16"})
    assert server.ask("POST", "/api/models/pull", {"model": "nope"}).status == 400


def test_downloads_are_queued_told_and_kept(server: Server) -> None:
    with server.begin("GET", "/api/downloads/stream") as connection:
        read_until(connection, b"\r\n\r\n")
        accepted = server.ask("POST", "/api/downloads", {"model": "flux-nano"}).json()
        told = read_until(connection, b"job_done")
    assert f'"id":"{accepted["id"]}"'.encode() in told
    for word in (b"enqueued", b"dequeued", b"job_done"):
        assert b'{"type":"%s"' % word in told
    listed = server.ask("GET", "/api/downloads").json()
    assert (listed["history"][0]["id"], listed["history"][0]["status"]) == (accepted["id"], "completed")
    assert listed["queued"] == []
    assert server.ask("DELETE", f"/api/downloads/{accepted['id']}").status == 404
    assert server.ask("DELETE", "/api/downloads/nope").status == 404


def test_resources_are_sampled(server: Server) -> None:
    snapshot = server.ask("GET", "/api/resources").json()
    memory = snapshot["system_ram"]
    assert memory["total"] > memory["used"] >= memory["used_by_mold"] > 10_000_000
    assert snapshot["cpu"]["cores"] >= 1
    assert snapshot["gpus"] == []
    with server.begin("GET", "/api/resources/stream") as connection:
        assert read_until(connection, b"event: snapshot")


def test_capabilities_describe_the_families(server: Server) -> None:
    answer = server.ask("GET", "/api/capabilities").json()
    flux = next(family for family in answer["families"] if family["name"] == "flux")
    assert "text-to-image" in flux["capabilities"]
    assert flux["parameters"]
    limits = server.ask("GET", "/api/capabilities/chain-limits?model=flux-nano")
    assert (limits.status, limits.json()["code"]) == (422, "VALIDATION_ERROR")
    assert server.ask("GET", "/api/capabilities/chain-limits").status == 422
    assert server.ask("GET", "/api/capabilities/chain-limits?model=nope").status == 400


@pytest.mark.parametrize("path", ["/api/generate/chain", "/api/generate/chain/stream"])
@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"prompt": "a", "total_frames": 97, "model": "flux-nano"}, 422, "chain renderer"),
        ({"prompt": "a", "total_frames": 97, "model": "nope"}, 400, "nope"),
        ({"prompt": "a", "total_frames": "97"}, 422, "total_frames must be a whole number"),
        ({"stages": [{"prompt": "a"}]}, 422, "stages[0].frames is required"),
        ({"prompt": "a", "total_frames": 97, "width": 0}, 422, "width"),
    ],
)
def test_chains_are_checked(server: Server, path: str, body: object, status: int, words: str) -> None:
    answer = server.ask("POST", path, body)
    assert answer.status == status
    assert words in answer.json()["error"]


def test_a_prompt_is_written_out(server: Server) -> None:
    answer = server.ask("POST", "/api/expand", {"prompt": "a tree", "variations": 2, "seed": 1})
    assert answer.status == 200
    assert answer.json()["original"] == "a tree"
    assert len(answer.json()["expanded"]) == 2
    assert server.ask("POST", "/api/expand", {"prompt": "a tree", "variations": 11}).status == 422


def test_a_result_tells_the_prompts_that_were_written(server: Server) -> None:
    request = {"prompt": "a tree", "steps": 1, "seed": 3, "batch_size": 2}
    plain = server.ask("POST", "/api/generate", request, Accept="application/json").json()
    assert "expanded" not in plain
    written = server.ask("POST", "/api/expand", {"prompt": "a tree", "variations": 2, "seed": 3}).json()["expanded"]
    answer = server.ask("POST", "/api/generate", {**request, "expand": True}, Accept="application/json").json()
    assert answer["expanded"] == written
    told = events(server.ask("POST", "/api/generate/stream", {**request, "expand": True}).body)
    assert dict(told)["complete"]["expanded"] == written


def test_metrics_count_by_route_and_stage(server: Server) -> None:
    server.ask("POST", "/api/generate", {"prompt": "a tree", "steps": 1})
    server.ask("GET", "/api/jobs/some-id")
    server.ask("ANYBODYS", "/api/status")
    answer = server.ask("GET", "/metrics")
    text = answer.body.decode()
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    for line in (
        'mold_http_requests_total{method="GET",path="/api/jobs/{id}",status="404"}',
        'mold_http_requests_total{method="other",path="/api/status",status="400"}',
        'mold_generation_duration_seconds_count{model="flux-nano:bf16"}',
        'mold_queue_wait_seconds_count{kind="generate"}',
        'mold_model_loads_total{name="flux-nano:bf16"}',
        'mold_model_loaded{name="flux-nano:bf16"} 1.0',
        "mold_batch_size_count",
        "mold_queue_depth 0.0",
        "mold_uptime_seconds",
        'mold_stage_duration_seconds_count{stage="',
    ):
        assert line in text
    assert "some-id" not in text
    assert "ANYBODYS" not in text


def test_the_page_of_the_api_asks_no_other_server(server: Server) -> None:
    page = server.ask("GET", "/api/docs")
    assert page.type == "text/html"
    assert b"http://" not in page.body
    assert b"https://" not in page.body
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "connect-src 'self'" in page.headers["content-security-policy"]
    script = server.ask("GET", "/api/docs/scalar.js")
    assert (script.type, len(script.body) > 1_000_000) == ("text/javascript", True)


# --- the end -------------------------------------------------------------------------------------------------------


def test_a_server_with_open_streams_ends_when_it_is_told_to(tmp_path: Path) -> None:
    with serving(tmp_path / "home") as server:
        paths = ["/api/downloads/stream", "/api/resources/stream"] * 3
        streams = [server.begin("GET", path) for path in paths]
        for stream in streams:
            read_until(stream, b"\r\n\r\n")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=120) == 0
        for stream in streams:
            read_all(stream)
            stream.close()


def test_work_under_way_is_told_when_the_grace_time_is_over(tmp_path: Path) -> None:
    with serving(tmp_path / "home", MOLD_SHUTDOWN_GRACE_S="2", MOLD_EXECUTOR="process") as server:
        with server.begin("POST", "/api/generate/stream", LONG) as stream:
            read_until(stream, b"denoise_step")
            answer = server.ask("POST", "/api/shutdown")
            assert (answer.status, answer.body) == (200, b"shutdown initiated\n")
            assert b"event: error" in read_all(stream)
        assert server.process.wait(timeout=120) == 0


def test_work_that_ends_within_the_grace_time_is_answered(tmp_path: Path) -> None:
    with serving(tmp_path / "home", MOLD_SHUTDOWN_GRACE_S="60") as server:
        request = {"prompt": "a tree", "steps": 10}
        with server.begin("POST", "/api/generate/stream", request) as stream:
            read_until(stream, b'"type":"queued"')
            server.process.send_signal(signal.SIGTERM)
            assert b"event: complete" in read_all(stream)
        assert server.process.wait(timeout=120) == 0


def test_an_open_server_without_a_key_says_so(
    mold_process: Callable[..., subprocess.Popen[Any]], tmp_path: Path
) -> None:
    port = _free_port()
    with mold_process(
        "serve", "--bind", "0.0.0.0", "--port", str(port), MOLD_EXECUTOR="inline", stderr=subprocess.PIPE, text=True
    ) as process:
        lines = [process.stderr.readline() for _ in range(2)]  # type: ignore[union-attr]
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
    assert lines[0].startswith("warning: anyone who can reach 0.0.0.0 can use this server")
    assert f"http://0.0.0.0:{port}" in lines[1]
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"MOLD_API_KEY": "@/nowhere/keys"}, "cannot be read"),
        ({"MOLD_API_KEY": ","}, "holds no key"),
        ({"MOLD_RATE_LIMIT": "often"}, "MOLD_RATE_LIMIT"),
        ({"MOLD_CORS_ORIGIN": "*"}, "MOLD_CORS_ORIGIN"),
    ],
)
def test_a_setting_that_cannot_be_meant_keeps_the_server_from_starting(
    mold: Callable[..., subprocess.CompletedProcess[Any]], variables: dict[str, str], words: str
) -> None:
    done = mold("serve", "--port", str(_free_port()), **variables)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_said_in_one_line(mold: Callable[..., subprocess.CompletedProcess[Any]]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = mold("serve", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert "choose another one with --port" in done.stderr


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_the_help_needs_no_server_library() -> None:
    code = "import sys; from mold_http.command import serve; print('falcon' in sys.modules, 'uvicorn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
    assert EXECUTABLE.exists()


def test_a_client_that_has_just_left_does_not_end_the_server(server: Server) -> None:
    status = Path(f"/proc/{server.process.pid}/status")
    if status.exists():  # what no client can be made to meet at will: an answer into a connection that is broken
        ignored = next(int(line.split()[1], 16) for line in status.read_text().splitlines() if "SigIgn" in line)
        assert ignored & 1 << (signal.SIGPIPE - 1)
    for _ in range(20):
        connection = server.begin("GET", "/api/resources/stream")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()
    assert server.ask("GET", "/health").status == 200


def test_the_server_asks_for_short_turns_and_its_workers_for_usual_ones(tmp_path: Path) -> None:
    with serving(tmp_path / "home", MOLD_EXECUTOR="process") as server:
        assert server.ask("POST", "/api/generate", {"prompt": "a tree", "steps": 1}).status == 200
        tasks = Path(f"/proc/{server.process.pid}/task").glob("*/children")
        here = [pid for children in tasks for pid in children.read_text().split()]
        (worker,) = (int(pid) for pid in here if b"engine.worker.child" in Path(f"/proc/{pid}/cmdline").read_bytes())
        usual = scheduler_slice_of()
        if usual is not None:  # on Linux 6.12 and later
            assert (scheduler_slice_of(server.process.pid), scheduler_slice_of(worker)) == (SHORT_S, usual)
