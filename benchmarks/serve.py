"""Throughput and overhead of the server: eight clients at once against one, and one over HTTP against none.

    python benchmarks/serve.py

1. Images per second of 8 clients that use flux-nano at once ÷ those of one client.
2. The p99 of the response times of those 8 clients ÷ their median.
3. One client over HTTP ÷ `Engine.generate` in this process, per image.
"""

from __future__ import annotations

import http.client
import json
import os
import statistics
import tempfile
import threading
import time

from common import report
from http_api import free_port, mold, running

from mold_core import Engine, GenerateRequest

CLIENTS = 8
REQUEST = {"prompt": "a red house under a yellow moon", "model": "flux-nano"}


class Asker:
    """A client with a connection of its own, and how long each of its images took."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        self.times: list[float] = []

    def ask(self, seed: int) -> float:
        """Fetch an image and return the seconds it took."""
        began = time.perf_counter()
        body = json.dumps({**REQUEST, "seed": seed})
        self._connection.request("POST", "/api/generate", body, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        image = answer.read()
        assert answer.status == 200 and image.startswith(b"\x89PNG"), (answer.status, image[:200])
        self.times.append(time.perf_counter() - began)
        return self.times[-1]


def rate_of(askers: list[Asker], each: int) -> float:
    """Return the images per second that so many clients get, who ask at once and again at once."""
    threads = [
        threading.Thread(target=lambda asker=asker: [asker.ask(seed) for seed in range(each)]) for asker in askers
    ]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(askers) * each / (time.perf_counter() - began)


def measure_clients(port: int, rounds: int = 5) -> None:
    """Measure eight clients against one, in turn."""
    many, one = [Asker(port) for _ in range(CLIENTS)], [Asker(port)]
    rate_of(many, 1)
    rate_of(one, 2)
    for asker in (*many, *one):
        asker.times.clear()
    rates = [(rate_of(many, 3), rate_of(one, 6)) for _ in range(rounds)]
    ratio = statistics.median(a / b for a, b in rates)
    at_once, alone = (statistics.median(found) for found in zip(*rates, strict=True))
    print(f"{CLIENTS} clients: {at_once:.2f} images/s   one client: {alone:.2f} images/s   ({rounds} rounds)")
    report(f"{CLIENTS} clients against one, images per second", ratio, 1.8, "ratio", better="higher")
    times = sorted(seconds for asker in many for seconds in asker.times)
    p99 = statistics.quantiles(times, n=100)[98]
    print(f"of {CLIENTS} clients: median {statistics.median(times):.2f} s, p99 {p99:.2f} s   ({len(times)} answers)")
    report("p99 against median of 8 clients", p99 / statistics.median(times), 3, "ratio", better="lower")


def measure_against_library(port: int, engine: Engine, pairs: int = 12) -> None:
    """Measure an image over HTTP against the same image from the library, in turn."""
    asker = Asker(port)

    def in_process(seed: int) -> float:
        began = time.perf_counter()
        engine.generate(GenerateRequest(**REQUEST, seed=seed))
        return time.perf_counter() - began

    asker.ask(0), in_process(0)
    times = [(asker.ask(seed), in_process(seed)) for seed in range(pairs)]
    ratio = statistics.median(a / b for a, b in times)
    over, within = (1000 * statistics.median(found) for found in zip(*times, strict=True))
    print(f"over HTTP: {over:.0f} ms   in process: {within:.0f} ms   ({pairs} pairs, medians)")
    report("an image over HTTP against Engine.generate", ratio, 1.15, "ratio", better="lower")


def main() -> None:
    """Measure all three."""
    port = free_port()
    with tempfile.TemporaryDirectory() as home:
        os.environ["MOLD_HOME"] = home
        command, environment = mold(f"{home}/server", port)
        with running(command, port, env=environment):
            Asker(port).ask(0)
            measure_clients(port)
            with Engine() as engine:
                measure_against_library(port, engine)


if __name__ == "__main__":
    main()
