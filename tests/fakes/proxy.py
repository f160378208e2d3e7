"""A small reverse proxy, as nginx is one: takes a prefix off the path, adds X-Forwarded headers, streams the answer."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["proxying"]

_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host"})


@contextmanager
def proxying(to_port: int, prefix: str = "/mold", **headers: str) -> Iterator[int]:
    """Give the port of a proxy before the server at `to_port`; `headers` replace what it says of the client."""
    added = {name.replace("_", "-"): value for name, value in headers.items()}

    class Handler(BaseHTTPRequestHandler):
        """Passes a request on."""

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

        def answer(self) -> None:
            """Ask the server and send what it answers."""
            if not self.path.startswith(f"{prefix}/"):
                self.send_error(404)
                return
            kept = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
            said = {
                "X-Forwarded-For": self.client_address[0],
                "X-Forwarded-Proto": "http",
                "X-Forwarded-Host": self.headers["Host"],
                "X-Forwarded-Prefix": prefix,
            }
            sent = {**kept, "Host": f"127.0.0.1:{to_port}", **said, **added}
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            upstream = http.client.HTTPConnection("127.0.0.1", to_port, timeout=60)
            try:
                upstream.request(self.command, self.path.removeprefix(prefix), body or None, sent)
                self._send(upstream.getresponse())
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            finally:
                upstream.close()

        def _send(self, answer: http.client.HTTPResponse) -> None:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in _HOP_BY_HOP and name.lower() not in ("date", "server"):
                    self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            while piece := answer.read1(65_536):
                self.wfile.write(piece)
                self.wfile.flush()

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = answer

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
