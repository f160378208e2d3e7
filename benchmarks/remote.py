"""Overhead of `mold run` with a warm server, against a script that posts the same request.

    python benchmarks/remote.py

Both are complete processes and request the same image from the same warm server. The final figure compares processor
times, which other work on the machine does not change; wall time is printed too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import compare, compare_commands, report
from http_api import free_port, load, mold, running

PLAIN = """
import json, sys, urllib.request
body = json.dumps({"prompt": "a red house", "model": "flux-nano", "seed": 4}).encode()
request = urllib.request.Request(sys.argv[1] + "/api/generate", body, {"Content-Type": "application/json"})
open(sys.argv[2], "wb").write(urllib.request.urlopen(request).read())
"""


def main(pairs: int = 12) -> None:
    """Compare the two, and say how much longer than the plain request `mold run` takes."""
    port = free_port()
    with tempfile.TemporaryDirectory() as home:
        command, environment = mold(home, port)
        os.environ["MOLD_HOME"] = home
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # installed programs find their modules compiled
        run = [str(Path(sys.executable).parent / "mold"), "run", "flux-nano", "a red house", "--seed", "4"]
        ours = [*run, "-o", f"{home}/ours.png"]
        theirs = [sys.executable, "-c", PLAIN, f"http://127.0.0.1:{port}", f"{home}/theirs.png"]
        with running(command, port, env=environment):
            while not Path(home, "mold-server.pid").exists():
                time.sleep(0.05)
            load(port)
            clock = compare(lambda: _ended(ours), lambda: _ended(theirs), pairs=pairs, warmup=2)
            used = compare_commands(ours, theirs, pairs=pairs)
    print("on the clock:  ", clock.describe("mold run", "urllib"))
    print("processor time:", used.describe("mold run", "urllib"))
    report("remote", used.ratio, 3.5, "warm mold run by a server ÷ the same by urllib, processor time", better="lower")


def _ended(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)


if __name__ == "__main__":
    main()
