"""The real HTTP server in a thread of the test's process, so that the test can hold its pipelines at a gate."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from mold_core import Client, Engine
from mold_core.gallery import Gallery
from mold_core.testing import engine_with
from mold_http.app import create_service
from mold_http.server import listening, serve
from mold_http.service import Service

__all__ = ["InsideServer", "serving_inside"]

_PATIENCE_S = 120.0


@attrs.frozen(kw_only=True)
class InsideServer:
    """A server on 127.0.0.1, with the engine behind it."""

    port: int
    engine: Engine
    service: Service

    def client(self, key: str = "") -> Client:
        """Return a new client of the server."""
        return Client(f"127.0.0.1:{self.port}", key)


@contextmanager
def serving_inside(home: Path, *plugins: object, **settings: Any) -> Iterator[InsideServer]:
    """Give a server with these plugins and no others, on a free port; it ends with the block."""
    gallery = Gallery(home / "output", home / "gallery.db")
    with listening("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with engine_with(*plugins, home=home, gallery=gallery, port=port, **settings) as engine:
            service = create_service(engine, engine.settings, gallery)
            started = threading.Event()
            thread = threading.Thread(target=serve, args=(service, listener, started.set), name="inside-server")
            thread.start()
            try:
                assert started.wait(_PATIENCE_S), "the server did not start"
                yield InsideServer(port=port, engine=engine, service=service)
            finally:
                if thread.is_alive():  # a test may have ended it
                    service.stop()
                thread.join(_PATIENCE_S)
        assert not thread.is_alive(), "the server did not end"
