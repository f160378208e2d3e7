"""Requests for every route of the real server, with values in their fields that nobody should send."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from typing import Any, get_args, get_origin, get_type_hints
from urllib.parse import quote, quote_from_bytes

import attrs
from http_server import Server
from odd_values import HEADERS, MEDIA, NUMBERS, SHAPES, TEXTS

from mold_core.jobs.kinds import JOB_KINDS
from mold_core.wire.fields import bounds_of
from mold_http.routes.jobs import JobRequest
from mold_http.routes.route import Route
from mold_http.routes.table import ROUTES

__all__ = ["Case", "Honest", "Outcome", "cases", "counts", "fuzz", "shown"]

# Ends the server, or never ends by itself; all else may be asked for.
_LEFT_OUT = {"/api/shutdown", "/api/events"}
# Routes whose answer waits for work: what is sent there is always refused, for a field that is added.
_WAITING = ("/api/generate", "/api/upscale", "/api/expand", "/v1/images")
_ANSWER_S = 60.0


@attrs.frozen(kw_only=True)
class Case:
    """One request."""

    number: int
    method: str
    path: str
    headers: dict[str, bytes]
    body: bytes | None


@attrs.frozen(kw_only=True)
class Outcome:
    """How one was answered; status 0 where the connection ended without an answer."""

    case: Case
    status: int
    elapsed_s: float
    words: bytes = b""


# --- values -----------------------------------------------------------------------------------------------------------


def _value_for(type_: Any, chance: random.Random) -> Any:
    """Return a value for a field of a type, more often of the right kind than not."""
    options = [option for option in get_args(type_) if option is not type(None)] or [type_]
    wanted = options[0] if get_origin(type_) not in (tuple, dict) else type_
    roll = chance.random()
    if roll < 0.15:
        return chance.choice(SHAPES)
    if roll < 0.3:
        return chance.choice(NUMBERS + TEXTS + MEDIA)
    if wanted is bytes:
        return chance.choice(MEDIA)
    if wanted in (int, float):
        return chance.choice(NUMBERS)
    if attrs.has(wanted):
        return _object_of(wanted, chance)
    if get_origin(wanted) is tuple:
        return [_value_for(get_args(wanted)[0], chance) for _ in range(chance.choice([0, 1, 2, 17]))]
    if wanted is bool:
        return chance.choice([True, False, 0, 1, "true"])
    return chance.choice([*TEXTS, *(word for word in options if isinstance(word, str))])


def _bounded(field: Any, chance: random.Random) -> Any:
    """Return a number at a bound of a field, or just beyond it."""
    bounds = bounds_of(field)
    edges = [edge for edge in (bounds.minimum, bounds.maximum) if edge is not None]
    return chance.choice(edges) + chance.choice([-1, -1e-9, 0, 1e-9, 1]) if edges else chance.choice(NUMBERS)


def _object_of(cls: type, chance: random.Random) -> dict[str, Any]:
    types = get_type_hints(cls)
    fields = list(attrs.fields(cls))
    chosen = [field for field in fields if field.default is attrs.NOTHING or chance.random() < 0.2]
    made = {
        field.name: _bounded(field, chance) if chance.random() < 0.3 else _value_for(types[field.name], chance)
        for field in chosen
    }
    if "prompt" in types and chance.random() < 0.7:
        made["prompt"] = "a tree"
    if "model" in types and chance.random() < 0.7:
        made["model"] = chance.choice(["flux-nano", "ltx2-nano", "esrgan-nano-x4", "nope"])
    return made


# --- requests ------------------------------------------------------------------------------------------------------


def cases(seed: int, count: int) -> list[Case]:
    """Return so many requests, the same for the same seed."""
    routes = [route for route in ROUTES if route.path not in _LEFT_OUT]
    weights = [
        5 if route.request is not None else 2 if route.parameters or "{" in route.path else 1 for route in routes
    ]
    chance = random.Random(seed)
    return [_case(number, chance.choices(routes, weights)[0], chance) for number in range(count)]


def _weight(route: Route) -> int:
    if route.request is not None:
        return 5
    return 2 if route.parameters or "{" in route.path else 1


def _case(number: int, route: Route, chance: random.Random) -> Case:
    headers = {}
    body = None
    if route.request is not None:
        body, headers = _body(route, chance)
    for name in chance.sample(sorted(HEADERS), chance.choice([0, 0, 1, 2])):
        headers[name] = chance.choice(HEADERS[name])
    if headers.get("Upgrade"):
        headers["Connection"] = b"Upgrade"
    method = route.method if chance.random() < 0.95 else chance.choice(["HEAD", "PATCH", "WEBSOCKET", "TRACE", "x"])
    return Case(number=number, method=method, path=_path(route, chance), headers=headers, body=body)


def _path(route: Route, chance: random.Random) -> str:
    path = route.path
    while "{" in path:
        before, _, rest = path.partition("{")
        path = before + _quoted(chance.choice(TEXTS), chance) + rest.partition("}")[2]
    names = [query.name for query in route.parameters if query.place == "query"]
    names += [chance.choice(["a", "", "limit", "é"])] if chance.random() < 0.2 else []
    values = [(name, chance.choice([*TEXTS, *map(str, NUMBERS)])) for name in names if chance.random() < 0.7]
    query = "&".join(f"{quote(name)}={_quoted(value, chance)}" for name, value in values)
    return (f"{path}?{query}" if query else path)[:12_000]


def _quoted(value: str, chance: random.Random) -> str:
    data = value.encode("utf-8", "surrogatepass")
    return quote_from_bytes(data, safe=chance.choice(["", "/"]))[:6000] or "%00"


def _body(route: Route, chance: random.Random) -> tuple[bytes, dict[str, bytes]]:
    cls = route.request
    assert cls is not None
    made = _object_of(cls, chance)
    if cls is JobRequest:
        kind = chance.choice(sorted(JOB_KINDS))
        made |= {"kind": kind, "request": _object_of(JOB_KINDS[kind].request_class, chance)}
    if route.path.startswith(_WAITING):
        made |= {"steps": 0, "variations": -1, "tile_size": -1}
    if route.body_type == "multipart/form-data":
        return _form(made, chance), {"Content-Type": b"multipart/form-data; boundary=b"}
    return _json(made, chance), {"Content-Type": b"application/json"}


def _json(made: dict[str, Any], chance: random.Random) -> bytes:
    tree: Any = made if chance.random() < 0.95 else chance.choice([*SHAPES, *NUMBERS, *TEXTS])
    text = json.dumps(tree, ensure_ascii=chance.random() < 0.7)
    if chance.random() < 0.1:
        text = text.replace("{", '{"prompt": 1, "seed": ' + "9" * chance.choice([5, 5000]) + ", ", 1)
    data = text.encode("utf-8", "surrogatepass")
    if chance.random() < 0.1 and data:
        data = data[: chance.randrange(len(data))] + chance.choice([b"", b"\xff", b"\0", b"]", b'"'])
    return data


def _form(made: dict[str, Any], chance: random.Random) -> bytes:
    lines = []
    for name, value in made.items():
        text = value if isinstance(value, str) else json.dumps(value)
        data = text.encode("utf-8", "surrogatepass")
        filename = '; filename="x.png"' if name in ("image", "mask") else ""
        lines.append(b'--b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n' % (name.encode(), filename.encode()))
        lines.append(data + b"\r\n")
    return b"".join(lines) + chance.choice([b"--b--\r\n", b"--b--", b"", b"--b"])


# --- asking --------------------------------------------------------------------------------------------------------


def _asked(server: Server, case: Case) -> Outcome:
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=_ANSWER_S)
    try:
        connection.request(case.method, case.path, case.body, case.headers)  # type: ignore[arg-type]
        answer = connection.getresponse()
        events = (answer.headers["content-type"] or "").startswith("text/event-stream")
        words = b"" if events else answer.read()
        if answer.status == 202 and words:
            _cancel(server, words)
        return Outcome(case=case, status=answer.status, elapsed_s=time.monotonic() - began, words=words[:300])
    except (OSError, http.client.HTTPException) as error:
        return Outcome(case=case, status=0, elapsed_s=time.monotonic() - began, words=repr(error).encode())
    finally:
        connection.close()


def _cancel(server: Server, accepted: bytes) -> None:
    try:
        server.ask("DELETE", f"/api/jobs/{json.loads(accepted)['id']}")
    except (ValueError, KeyError, TypeError):
        return


def fuzz(server: Server, wanted: list[Case], clients: int) -> list[Outcome]:
    """Ask all, so many at a time, and return how each was answered. The queue is paused, so that nothing is made."""
    waiting, outcomes = iter(wanted), list[Outcome]()
    lock = threading.Lock()

    def ask_all() -> None:
        while True:
            with lock:
                case = next(waiting, None)
            if case is None:
                return
            if case.path.startswith("/api/queue/resume"):
                case = attrs.evolve(case, path="/api/queue/pause")
            outcomes.append(_asked(server, case))

    assert server.ask("POST", "/api/queue/pause").status < 300
    threads = [threading.Thread(target=ask_all) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def counts(outcomes: list[Outcome]) -> dict[int, int]:
    """Return how many had which status."""
    return dict(sorted(Counter(outcome.status for outcome in outcomes).items()))


def shown(outcome: Outcome) -> str:
    """Return what there is to know of an outcome, in a line."""
    case = outcome.case
    asked = f"{case.number}: {case.method} {case.path[:100]} {(case.body or b'')[:200]!r}"
    return f"{asked} -> {outcome.status} in {outcome.elapsed_s:.1f} s {outcome.words!r}"


class Honest:
    """A client that asks for the status and the gallery all the while, and remembers how long each answer took."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.times_s: dict[str, list[float]] = {"/api/status": [], "/api/gallery": []}
        self.resting = False  # while the test itself takes this process's interpreter
        self.refused: list[int] = []

    def __enter__(self) -> Honest:
        self._thread.start()
        return self

    def __exit__(self, *about: object) -> None:
        self._over.set()
        self._thread.join()

    def p95_s(self, path: str) -> float:
        """Return the time within which nineteen of twenty answers came."""
        times = sorted(self.times_s[path])
        return times[min(len(times) * 95 // 100, len(times) - 1)]

    def _ask(self) -> None:
        while not self._over.wait(0.02):
            for path, times in self.times_s.items():
                rested, began = self.resting, time.monotonic()
                status = self._server.ask("GET", path).status
                if not (rested or self.resting):
                    times.append(time.monotonic() - began)
                if status != 200:
                    self.refused.append(status)
