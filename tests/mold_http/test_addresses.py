"""A server on an IPv6 address, however it is written, and the commands that call it."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

Start = Callable[..., subprocess.Popen[Any]]
Run = Callable[..., subprocess.CompletedProcess[str]]


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as here:
            here.bind(("::1", 0))
    except OSError:
        return False
    return True


pytestmark = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


def free_port() -> int:
    with socket.socket(socket.AF_INET6) as free:
        free.bind(("::", 0))
        return int(free.getsockname()[1])


def link_local() -> str | None:
    """Return an address of this machine that needs a scope, if there is one."""
    try:
        lines = Path("/proc/net/if_inet6").read_text("ascii").split("\n")
    except OSError:
        return None
    for line in filter(None, lines):
        digits, _number, _prefix, _scope, _flags, interface = line.split()
        if digits.startswith("fe80"):
            return f"{':'.join(re.findall('....', digits))}%{interface}"
    return None


@contextmanager
def serve(start: Start, *arguments: str) -> Iterator[str]:
    """Run a server until the block ends, and give what it says when it is up."""
    environment = {"MOLD_EXECUTOR": "inline", "stderr": subprocess.PIPE, "text": True}
    with start("serve", *arguments, **environment) as process:
        said = ""
        while "mold is listening on" not in said:
            line = process.stderr.readline()  # type: ignore[union-attr]
            assert line, said
            said += line
        try:
            yield said
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0


@pytest.mark.parametrize("bind", ["::1", "[::1]", "0:0:0:0:0:0:0:1", "::", "[::1]:{port}", "http://[::1]:{port}"])
def test_every_spelling_serves_and_is_called(mold_process: Start, mold: Run, bind: str) -> None:
    port = free_port()
    named = () if "{port}" in bind else ("--port", str(port))
    with serve(mold_process, "--bind", bind.format(port=port), *named) as said:
        assert f"http://[{'::' if bind == '::' else '::1'}]:{port}" in said
        for host in (f"[::1]:{port}", f"http://[::1]:{port}", f"http://[::1]:{port}/", f"[::]:{port}"):
            asked = mold("ps", "--json", MOLD_HOST=host)
            assert asked.returncode == 0, asked.stderr
        found = mold("ps", "--json")  # by what the server left in MOLD_HOME
        assert found.returncode == 0, found.stderr
        assert json.loads(found.stdout)


def test_an_address_with_a_scope_serves_and_is_called(mold_process: Start, mold: Run) -> None:
    address = link_local()
    if address is None:
        pytest.skip("this machine has no link-local address")
    port = free_port()
    with serve(mold_process, "--bind", f"[{address}]:{port}"):
        for host in (f"[{address}]:{port}", f"http://[{address.replace('%', '%25')}]:{port}"):
            asked = mold("ps", "--json", MOLD_HOST=host)
            assert asked.returncode == 0, asked.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--bind", "[::1"), "'[::1' is not an address to listen on"),
        (("--bind", "https://[::1]"), "only http:// is supported"),
        (("--bind", "[::1]:7681", "--port", "7682"), "the address has port 7681"),
    ],
)
def test_what_cannot_be_listened_on_is_said(mold: Run, arguments: tuple[str, ...], words: str) -> None:
    said = mold("serve", *arguments)
    assert said.returncode != 0
    assert words in said.stderr
    assert "Traceback" not in said.stderr
