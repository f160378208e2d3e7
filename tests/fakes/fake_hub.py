"""A Hugging Face hub on loopback, with files of one's own and the misfortunes of the real one.

It speaks what huggingface_hub speaks for files: HEAD and GET on ``/REPO/resolve/REVISION/FILE`` with X-Repo-Commit,
X-Linked-Etag and X-Linked-Size, a redirect to another origin (the "CDN") for large files, ranges, gated answers; and
``/api/models/REPO`` with the list of files and the card.
"""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import attrs

COMMIT = "c0ffee" * 6 + "1234"
_PIECE_BYTES = 4096
_PATIENCE_S = 120.0


@attrs.define(kw_only=True)
class FakeFile:
    """A file of the hub; what can go wrong with it can be set at any time.

    `served` are the bytes that are sent when they are others than `content`. `statuses` are answers to give before the
    true one, `drops` after how many bytes of a body to hang up, each used once. With `hold_after` a body stops there
    until `released` is set; `held` says that it has. A `bare` one comes without what makes a hub a hub, and `pause_s`
    passes after every 4 KiB. `ranges` are those that bodies were asked for with, `sent` how long the bodies were.
    """

    content: bytes
    large: bool = True
    gated: bool = False
    gone: bool = False
    bare: bool = False
    served: bytes | None = None
    announced_size: int | None = None
    ignores_ranges: bool = False
    statuses: list[int] = attrs.Factory(list)
    drops: list[int] = attrs.Factory(list)
    hold_after: int | None = None
    held: threading.Event = attrs.Factory(threading.Event)
    released: threading.Event = attrs.Factory(threading.Event)
    pause_s: float = 0.0
    ranges: list[str] = attrs.Factory(list)
    sent: list[int] = attrs.Factory(list)

    @property
    def bytes_sent(self) -> int:
        """How many bytes of bodies went out, in all answers together."""
        return sum(self.sent)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def etag(self) -> str:
        """What the hub knows the content by: its sha256 if it is large, else its hash in git."""
        return self.sha256 if self.large else hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


class FakeHub:
    """The server. `members` are the tokens that have accepted every licence, `requests` what was asked, in order.

    `cards` are the cards of repositories, which state their licences.
    """

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.url = f"http://127.0.0.1:{server.server_port}"
        self.cdn_url = f"http://localhost:{server.server_port}/cdn"
        self.files: dict[tuple[str, str], FakeFile] = {}
        self.renamed: dict[str, str] = {}
        self.members: set[str] = set()
        self.cards: dict[str, dict[str, object]] = {}
        self.requests: list[tuple[str, str, str | None]] = []

    def add(self, repo: str, filename: str, content: bytes, **traits: object) -> FakeFile:
        """Put a file into a repository."""
        file = self.files[repo, filename] = FakeFile(content=content, **traits)  # type: ignore[arg-type]
        return file

    def asked(self, method: str) -> list[str]:
        """Return the paths that were asked for with a method."""
        return [path for asked, path, _ in self.requests if asked == method]

    @property
    def tokens_at_cdn(self) -> set[str]:
        """What the CDN got to see of tokens."""
        return {token for _, path, token in self.requests if path.startswith("/cdn/") and token}


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Run a hub on a free port of loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.block_on_close = False
    hub = FakeHub(server)
    server.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        for file in hub.files.values():
            file.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _PATIENCE_S

    @property
    def hub(self) -> FakeHub:
        return self.server.hub  # type: ignore[attr-defined,no-any-return]

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.hub.requests.append((self.command, path, token))
        if path.startswith("/cdn/"):
            repo, _, filename = path.removeprefix("/cdn/").partition("//")
            self._send_body(self.hub.files[repo, filename])
            return
        if path.startswith("/api/models/"):
            self._describe(path.removeprefix("/api/models/"))
            return
        repo, resolve, rest = path.removeprefix("/").partition("/resolve/")
        revision, _, filename = rest.partition("/")
        if repo in self.hub.renamed:
            self._send(307, {"Location": f"/{self.hub.renamed[repo]}/resolve/{rest}"})
        elif not resolve or not any(known == repo for known, _ in self.hub.files):
            self._send(401 if token is None else 404, {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", COMMIT):
            self._send(404, {"X-Error-Code": "RevisionNotFound"})
        elif (repo, filename) not in self.hub.files or self.hub.files[repo, filename].gone:
            self._send(404, {"X-Error-Code": "EntryNotFound"})
        else:
            self._send_file(repo, filename, self.hub.files[repo, filename], token)

    def _describe(self, repo: str) -> None:
        files = {filename: file for (known, filename), file in self.hub.files.items() if known == repo}
        if not files:
            self._send(401, {"X-Error-Code": "RepoNotFound"})
            return
        siblings = [
            {"rfilename": filename, "size": len(file.content), "blobId": file.etag}
            | ({"lfs": {"sha256": file.sha256, "size": len(file.content), "pointerSize": 134}} if file.large else {})
            for filename, file in files.items()
        ]
        gated = any(file.gated for file in files.values())
        about = {"id": repo, "sha": COMMIT, "gated": "auto" if gated else False, "siblings": siblings}
        body = json.dumps({**about, "cardData": self.hub.cards.get(repo, {}), "tags": []}).encode()
        self.send_response(200)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _send_file(self, repo: str, filename: str, file: FakeFile, token: str | None) -> None:
        if file.statuses:
            self._send(file.statuses.pop(0), {"Retry-After": "0"})
        elif token == "hf_wrong":
            self._send(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif file.gated and token not in self.hub.members:
            self._send(401 if token is None else 403, {"X-Error-Code": "GatedRepo"})
        elif file.bare:
            self._send(200, {"Content-Length": str(len(file.content))})
        elif file.large:
            size = len(file.content) if file.announced_size is None else file.announced_size
            about = {"X-Repo-Commit": COMMIT, "X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(size)}
            self._send(302, {**about, "Location": f"{self.hub.cdn_url}/{repo}//{filename}"})
        else:
            self._send_body(file)

    def _send(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("X-HF-Warning", "unauthenticated; Please log in.")
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send_body(self, file: FakeFile) -> None:
        body = file.content if file.served is None else file.served
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
        start, wanted = 0, self.headers.get("Range")
        if self.command == "GET":
            file.ranges.append(wanted or "")
        if wanted and not file.ignores_ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self._send(416, {"Content-Range": f"bytes */{len(body)}"})
                return
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        self._send(206 if "Content-Range" in headers else 200, {**headers, "Content-Length": str(len(body) - start)})
        if self.command == "GET":
            self._pour(file, body[start:])

    def _pour(self, file: FakeFile, body: bytes) -> None:
        drop_after = file.drops.pop(0) if file.drops else None
        answer = len(file.sent)
        file.sent.append(0)
        sent = 0
        try:
            while sent < len(body):
                if sent == drop_after:
                    self._hang_up()
                    return
                if file.hold_after is not None and sent >= file.hold_after and not file.released.is_set():
                    file.held.set()
                    file.released.wait(_PATIENCE_S)
                stops = [
                    sent + _PIECE_BYTES,
                    len(body),
                    *filter(lambda stop: stop and stop > sent, (drop_after, file.hold_after)),
                ]
                piece = body[sent : min(stop for stop in stops if stop is not None)]
                self.wfile.write(piece)
                sent += len(piece)
                file.sent[answer] = sent
                time.sleep(file.pause_s)
        except OSError:
            self.close_connection = True  # whoever asked is gone

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
