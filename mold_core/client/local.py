"""Finds the server that runs with this MOLD_HOME on this machine.

A server writes ``$MOLD_HOME/mold-server.pid`` when it accepts requests and deletes it when it stops. Reading that file
is cheaper than trying a port, and never sends prompts or keys to another program.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs

from mold_core.addresses import authority
from mold_core.client.client import Client
from mold_core.errors import MoldError, OutputError
from mold_core.files import write_whole
from mold_core.settings import Settings
from mold_core.wire.convert import from_text
from mold_core.wire.fields import wire_field

__all__ = ["ServerProcess", "announced", "local_client", "server_process"]

_HEALTH_TIMEOUT_S = 1.0


@attrs.frozen(kw_only=True)
class ServerProcess:
    """The contents of ``mold-server.pid``. The process may have ended without deleting the file."""

    pid: int = wire_field("Process id.", minimum=1)
    port: int = wire_field("Port that it listens on.", minimum=1, maximum=65_535)
    bind: str = wire_field("Address that it listens on.", max_length=200)

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        try:
            os.kill(self.pid, 0)
            # A zombie still has its process id.
            return Path(f"/proc/{self.pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0] != "Z"
        except ProcessLookupError:
            return False
        except OSError:
            return True  # a process of another user, or a system without /proc

    @property
    def address(self) -> str:
        """URL of the server for clients on this machine."""
        return f"http://{authority(self.bind, self.port)}"


def server_process(home: Path) -> ServerProcess | None:
    """Return the server that runs with this MOLD_HOME, or None."""
    try:
        process = from_text(ServerProcess, _file(home).read_bytes())
    except (OSError, MoldError):
        return None
    return process if process.alive else None


def local_client(settings: Settings) -> Client | None:
    """Return a client for the server that runs with this MOLD_HOME, or None if there is none or it does not respond."""
    process = server_process(settings.home)
    if process is None:
        return None
    client = Client(process.address, settings.first_api_key() or "")
    try:
        client.health(_HEALTH_TIMEOUT_S)
    except MoldError:
        return None
    return client


@contextmanager
def announced(home: Path, port: int, bind: str) -> Iterator[None]:
    """Announce this process as the server of this MOLD_HOME during the block."""
    written = json.dumps({"pid": os.getpid(), "port": port, "bind": bind}).encode()
    with suppress(OSError, OutputError):  # a server must also run on a read-only disk
        home.mkdir(parents=True, exist_ok=True)
        write_whole(_file(home), written)
    try:
        yield
    finally:
        with suppress(OSError):
            if _file(home).read_bytes() == written:  # a later server may have replaced the file
                _file(home).unlink()


def _file(home: Path) -> Path:
    return home / "mold-server.pid"
