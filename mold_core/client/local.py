"""The server of this machine and this MOLD_HOME: where it says that it runs, and a client for it.

A server writes ``$MOLD_HOME/mold-server.pid`` when it answers and takes it away when it ends. Looking there, rather
than knocking at a port, costs nothing without a server, and sends prompts and keys to nobody else's.
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
    """A server that runs, or has ended without a word."""

    pid: int = wire_field("Its process.", minimum=1)
    port: int = wire_field("Its port.", minimum=1, maximum=65_535)
    bind: str = wire_field("Address it listens on.", max_length=200)

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        try:
            os.kill(self.pid, 0)
            # One that has ended and whom nobody has asked about still has its number.
            return Path(f"/proc/{self.pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0] != "Z"
        except ProcessLookupError:
            return False
        except OSError:
            return True  # somebody else's, or a system without /proc

    @property
    def address(self) -> str:
        """The address to call it by from this machine."""
        return f"http://{authority(self.bind, self.port)}"


def server_process(home: Path) -> ServerProcess | None:
    """Return the server that runs with this MOLD_HOME; None where there is none."""
    try:
        process = from_text(ServerProcess, _file(home).read_bytes())
    except (OSError, MoldError):
        return None
    return process if process.alive else None


def local_client(settings: Settings) -> Client | None:
    """Return a client for the server that runs with this MOLD_HOME, if it answers."""
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
    """Let commands find this process as the server of this MOLD_HOME while the block runs."""
    written = json.dumps({"pid": os.getpid(), "port": port, "bind": bind}).encode()
    with suppress(OSError, OutputError):  # a server must run also where nothing can be written
        home.mkdir(parents=True, exist_ok=True)
        write_whole(_file(home), written)
    try:
        yield
    finally:
        with suppress(OSError):
            if _file(home).read_bytes() == written:  # a later server may have put its own there
                _file(home).unlink()


def _file(home: Path) -> Path:
    return home / "mold-server.pid"
