"""More connections than a server has descriptors for, and what it says about them."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

from crowd import Crowd, crowding, health_times
from http_server import Server, read_until, serving

from mold_http.guard.connections import Connections
from mold_http.log_limits import EqualLines

CROWD = Crowd(idle=200, streams=200, dripping=60)


def test_a_crowd_without_room_leaves_work_alone_and_the_log_short(tmp_path: Path) -> None:
    log, answers = tmp_path / "log", []
    with serving(tmp_path / "home", descriptors=400, log=log, MOLD_EXECUTOR="process") as server:

        def work() -> None:
            answers.append(server.ask("POST", "/api/generate", {"prompt": "a tree", "steps": 2}, patience_s=300))

        at_work = threading.Thread(target=work)
        at_work.start()
        assert server.soon("/api/queue", lambda queue: True)
        with crowding(server, CROWD):
            assert len(health_times(server, 50)) == 50
            assert server.ask("GET", "/api/status").status == 200
            at_work.join()
    assert [answer.status for answer in answers] == [200]
    assert "longest without progress" in log.read_text()
    assert "Too many open files" not in log.read_text()
    assert log.stat().st_size < 100_000


def test_a_server_raises_its_soft_limit_of_descriptors(server: Server) -> None:
    limits = Path(f"/proc/{server.process.pid}/limits")
    if limits.exists():
        line = next(line for line in limits.read_text().splitlines() if line.startswith("Max open files"))
        soft, hard = line.split()[3:5]
        assert int(soft) == min(int(hard), 65_536)


def test_what_clients_can_repeat_fills_no_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serving(tmp_path / "home", log=log) as server:
        for _ in range(300):
            server.raw(b"no HTTP\r\n\r\n")
        for _ in range(300):
            assert server.ask("GET", "/health", Connection="Upgrade", Upgrade="websocket").status == 200
    assert log.stat().st_size < 10_000


def test_an_event_stream_that_is_read_goes_on_while_idle_ones_give_way(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "home", descriptors=400, log=tmp_path / "log") as server,
        server.begin("GET", "/api/resources/stream") as stream,
    ):
        read_until(stream, b"event: snapshot")
        with crowding(server, Crowd(idle=600, streams=0, dripping=0)):
            for _ in range(2):
                read_until(stream, b"event: snapshot")


# --- who gives way -------------------------------------------------------------------------------------------------


class Line:
    """A connection that last moved at a time."""

    def __init__(self, moved_at: float) -> None:
        self.moved_at = moved_at
        self.closed = False

    def progressed_at(self) -> float:
        return self.moved_at

    def give_way(self) -> None:
        self.closed = True


def test_the_connection_longest_without_progress_gives_way() -> None:
    connections, lines = Connections(None, most=200), [Line(1000 - number) for number in range(200)]
    for line in lines:
        connections.add(line, 10)
    assert not any(line.closed for line in lines)
    slowest = lines[103]  # those after it have just come
    connections.add(Line(2000), 10)
    assert [line for line in lines if line.closed] == [slowest]
    lines[102].moved_at = 3000
    connections.add(Line(2000), 10)
    assert [line for line in lines if line.closed] == [lines[101], slowest]
    assert len(connections) == 200
    for line in lines:
        connections.discard(line)
    assert len(connections) == 2


def test_connections_give_way_to_files_too() -> None:
    connections, lines = Connections(1024), [Line(number) for number in range(10)]
    for line in lines:
        connections.add(line, 1000)
    assert len(connections) == 1  # where so few are left, two go for each that comes
    assert not lines[-1].closed


def test_there_are_fewer_connections_than_descriptors() -> None:
    for descriptors in (64, 256, 1024, 20_000):
        connections = Connections(descriptors)
        for number in range(descriptors):
            connections.add(Line(number), 10)
        assert len(connections) <= descriptors * 3 / 4


# --- equal lines ---------------------------------------------------------------------------------------------------


def test_equal_lines_are_left_out_for_a_while() -> None:
    now = 0.0
    lines = EqualLines(lines=3, period_s=60, clock=lambda: now)

    def written(*about: Any) -> str | None:
        record = logging.makeLogRecord({"name": "mold.http", "msg": about[0], "args": about[1:]})
        return record.getMessage() if lines.filter(record) else None

    assert [written("a %s", "b") for _ in range(5)] == [
        "a b",
        "a b",
        "a b (further equal lines are omitted for 60 s)",
        None,
        None,
    ]
    assert written("a %s", "c") == "a c"
    now = 61.0
    assert written("a %s", "b") == "a b"
    for number in range(3000):
        written("line %s", number)
    assert len(lines._seen) == 1000


def test_requests_are_all_logged() -> None:
    lines = EqualLines(lines=1)
    access = {"name": "mold.access", "msg": "GET /health 200"}
    assert all(lines.filter(logging.makeLogRecord(access)) for _ in range(100))
