"""Brings the files of a model to where the catalog says they lie: whole, verified, once.

Bytes come into ``.hf-cache`` in the models folder, under the name of their content, and stay there until the file is
whole and verified; then it is renamed to its place. So an interruption of any kind leaves either nothing or the
beginning of a file, with which the next pull goes on. A file lock for each content keeps two pulls apart.
"""

from __future__ import annotations

import copy
import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256 as hash_of
from pathlib import Path, PurePosixPath

import attrs

from mold_core.catalog.fetch import Patience, fetch, patiently
from mold_core.catalog.hub import Hub, RemoteFile
from mold_core.catalog.marker import clear_stale, holding
from mold_core.catalog.model import ModelFile, ModelSpec
from mold_core.catalog.report import FileReport, PullReader
from mold_core.catalog.space import check_space, in_words, same_disk
from mold_core.catalog.store import LocalFiles, ModelStore
from mold_core.catalog.together import fetch_together
from mold_core.catalog.verify import ChecksumLedger
from mold_core.errors import DownloadError, OutputError, PluginError
from mold_core.files import output_error, write_whole
from mold_core.wire import CacheHit, Info, ProgressEvent, PullComplete

__all__ = ["CACHE_NAME", "check_paths", "pull"]

CACHE_NAME = ".hf-cache"
_LOCK_POLL_S = 0.05
_SAFE_ETAG = re.compile(r"[0-9a-f]{40,64}")
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def pull(
    spec: ModelSpec,
    store: ModelStore,
    *,
    on_event: Callable[[ProgressEvent], object] | None = None,
    skip_verify: bool = False,
    token: str | None = None,
    endpoint: str | None = None,
    offline: bool = False,
    at_once: int = 1,
) -> LocalFiles:
    """Return the files of a model after fetching those that are not here, or not as the catalog says.

    `on_event` is called in this thread, at most four times a second while bytes come in; when it returns False the pull
    ends with CancelledError. `token` and `endpoint` stand in for HF_TOKEN and HF_ENDPOINT. With `skip_verify` files
    that are here are left alone and those that come are not compared with the catalog. With `offline` nothing is
    fetched: what is missing is an error. `at_once` is the number of files that are fetched at the same time.

    Raises DownloadError for the network, the hub, licences and checksums; OutputError for the disk; PluginError for a
    catalog entry with a path outside the models folder. What has come is kept for the next pull, except a file whose
    checksum is wrong.
    """
    reader = PullReader(on_event)
    if spec.embedded or not spec.files:
        why = "is part of mold" if spec.embedded else "needs no files"
        reader.say(Info(message=f"{spec.name} {why}, nothing to fetch"))
    else:
        check_paths(spec, store)
        try:
            _Pull(spec, store, reader, skip_verify).run(lambda: _connect(spec, token, endpoint, offline), at_once)
        except OSError as error:
            if error is reader.failure:
                raise
            raise _disk_error(error, spec, store) from error
    reader.say(PullComplete(model=spec.name))
    return store.files_of(spec)


def _connect(spec: ModelSpec, token: str | None, endpoint: str | None, offline: bool) -> Hub:
    if offline:
        raise DownloadError(
            f"MOLD_OFFLINE is set, so what is missing of {spec.name} is not fetched", hint="unset it to fetch models"
        )
    return Hub(token=token, endpoint=endpoint)


def check_paths(spec: ModelSpec, store: ModelStore) -> None:
    """Refuse paths that leave the models folder or could be one of our own files there. Catalogs come from anyone.

    Files with absolute paths that are nowhere to be fetched from may lie anywhere else: config.toml names them, and
    they are only read.
    """
    names_there = (file.filename for file in spec.files if file.filename)
    elsewhere = {file for file in spec.files if not file.repo and Path(file.path).is_absolute()}
    ours = [file for file in spec.files if file not in elsewhere or not store.is_elsewhere(Path(file.path))]
    for path in (
        spec.name.replace(":", "-"),
        *(path for file in ours for path in (file.path, *file.instead)),
        *names_there,
    ):
        parts = PurePosixPath(path).parts
        if not parts or not all(
            part.isprintable() and not part.startswith(".") and not set(part) & set('/\\:*?"<>|') for part in parts
        ):
            raise PluginError(
                f"the catalog entry {spec.name!r} has a path that is no plain path in the models folder: {path!r}",
                field="path",
                value=path,
            )


def _disk_error(error: OSError, spec: ModelSpec, store: ModelStore) -> OutputError:
    problem = output_error(Path(error.filename or store.models_dir), error)
    if error.errno in _DISK_FULL:
        problem.hint = f"{problem.hint}; mold pull {spec.name} then goes on with what has come"
    return problem


@attrs.frozen(kw_only=True)
class _Wanted:
    """A file that must be fetched: as the catalog has it, as the hub has it, where it goes and where it grows."""

    file: ModelFile
    remote: RemoteFile
    path: Path
    part: Path

    @property
    def size_bytes(self) -> int:
        return self.remote.size_bytes or self.file.size_bytes or 0

    @property
    def bytes_here(self) -> int:
        try:
            return min(self.part.stat().st_size, self.size_bytes)
        except OSError:
            return 0


class _Pull:
    """One call of `pull`."""

    def __init__(self, spec: ModelSpec, store: ModelStore, reader: PullReader, skip_verify: bool) -> None:
        self.spec = spec
        self.store = store
        self.reader: FileReport = reader
        self.main_reader = reader
        self.skip_verify = skip_verify
        self.following = False
        self.cache = store.models_dir / CACHE_NAME
        self.ledger = ChecksumLedger(store.models_dir, lambda: self._lock("verified"))
        self.patience = _patience(reader)

    def run(self, connect: Callable[[], Hub], at_once: int) -> None:
        files = {file.path: file for file in self.spec.files}.values()
        missing = [file for file in files if not self._is_stood_in_for(file) and not self._is_here(file, explain=True)]
        if missing:
            hub = connect()
            # Everything that can be refused is refused before the first gigabyte comes.
            wanted = [self._ask(hub, file) for file in missing]
            check_space(self.spec.name, self._needs(wanted))
            with holding(self.store.marker_of(self.spec)):
                self._announce(wanted)
                if at_once > 1 and len(wanted) > 1:
                    jobs = [self._in_thread(hub, item) for item in wanted]
                    fetch_together(jobs, self.main_reader, at_once)
                else:
                    for item in wanted:
                        self._bring(hub, item)
        clear_stale(self.store.marker_of(self.spec))

    def _in_thread(self, hub: Hub, item: _Wanted) -> Callable[[FileReport], None]:
        """Return what fetches one file and reports to a reader of its own."""

        def bring(report: FileReport) -> None:
            pull_of_file = copy.copy(self)
            pull_of_file.reader = report
            pull_of_file.patience = _patience(report)
            pull_of_file._bring(hub, item)

        return bring

    # --- what is here --------------------------------------------------------------------------------------------

    def _is_stood_in_for(self, file: ModelFile) -> bool:
        path = self.store.path_of(self.spec, file)
        others = () if path.is_file() else self.store.choices(self.spec, file)
        if others:
            self.reader.say(Info(message=f"{path.name} is left out: {others[0].name} is here and stands in for it"))
        return bool(others)

    def _is_here(self, file: ModelFile, sha256: str | None = None, *, explain: bool = False) -> bool:
        path = self.store.path_of(self.spec, file)
        wrong = self._what_is_wrong(file, path) if path.is_file() else "missing"
        if wrong is None or self._take_over(path, file.sha256 or sha256):
            if explain:
                self.reader.say(CacheHit(resource=path.name))
            return True
        if explain and wrong != "missing":
            self.reader.say(Info(message=f"{path} is here but {wrong}; it is fetched again"))
        return False

    def _what_is_wrong(self, file: ModelFile, path: Path) -> str | None:
        if self.skip_verify:
            return None
        size = path.stat().st_size
        if file.size_bytes and size != file.size_bytes:
            return f"has {size:,} bytes instead of {file.size_bytes:,}"
        if file.sha256:
            sha256 = self.ledger.known(path) or self._read_through(path)
            if sha256 != file.sha256.lower():
                return f"has the sha256 {sha256} instead of {file.sha256.lower()}"
        return None

    def _read_through(self, path: Path) -> str:
        self.reader.stage(f"checking {path.name}")
        return self.ledger.sha256(path, self.reader.tick)

    def _take_over(self, path: Path, sha256: str | None) -> bool:
        """Make `path` the same file as another model's with this content, if there is one."""
        twin = self.ledger.find(sha256.lower()) if sha256 and not self.store.is_elsewhere(path) else None
        if twin is None or twin == path:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        linked = path.parent / f".mold-{secrets.token_hex(8)}.part"
        try:
            os.link(os.path.realpath(twin), linked)
            os.replace(linked, path)
        except OSError:
            _copy_whole(twin, path)
        finally:
            linked.unlink(missing_ok=True)
        self.ledger.record(path, str(sha256).lower())
        return True

    # --- what the hub has ----------------------------------------------------------------------------------------

    def _ask(self, hub: Hub, file: ModelFile) -> _Wanted:
        path = self.store.path_of(self.spec, file)
        if not file.repo:
            raise DownloadError(
                f"the catalog does not say where {path.name} comes from", local_hint=f"put it at {path}"
            )
        self.reader.stage(f"asking for {path.name}")
        repo, filename = file.repo, file.filename or path.name
        remote = patiently(lambda: hub.look_up(repo, filename, gated=file.gated), self.patience)
        if not self.skip_verify:
            self._compare(file, remote, remote.size_bytes, remote.sha256, "is another file now")
        name = remote.etag if _SAFE_ETAG.fullmatch(remote.etag) else hash_of(remote.etag.encode()).hexdigest()
        part = self.cache / f"models--{repo.replace('/', '--')}" / "blobs" / f"{name}.incomplete"
        return _Wanted(file=file, remote=remote, path=path, part=part)

    def _compare(
        self, file: ModelFile, remote: RemoteFile, size_bytes: int | None, sha256: str | None, what: str
    ) -> None:
        for name, expected, got in (
            ("size", file.size_bytes or remote.size_bytes, size_bytes),
            ("sha256", (file.sha256 or remote.sha256 or "").lower(), sha256),
        ):
            if expected and got and expected != got:
                raise DownloadError(
                    f"{remote.filename} of {remote.repo} {what}: expected {name} {expected}, got {got}",
                    field=name,
                    value=got,
                    hint=f"pull again; if it stays so, update the plugin of {self.spec.name}, or use --skip-verify",
                )

    def _needs(self, wanted: Iterable[_Wanted]) -> Iterator[tuple[Path, int]]:
        for item in wanted:
            left = item.size_bytes - item.bytes_here
            yield item.part.parent, left
            if not same_disk(item.part.parent, item.path.parent):
                yield item.path.parent, left  # a folder linked from another disk gets a copy

    # --- bringing it ---------------------------------------------------------------------------------------------

    def _announce(self, wanted: list[_Wanted]) -> None:
        files = "1 file" if len(wanted) == 1 else f"{len(wanted)} files"
        total = sum(item.size_bytes for item in wanted)
        licence = f"; licence {self.spec.licence}" if self.spec.licence else ""
        self.reader.say(Info(message=f"fetching {self.spec.name}, {files}, {in_words(total)}{licence}"))
        self.main_reader.begin(len(wanted), total)

    def _bring(self, hub: Hub, item: _Wanted) -> None:
        self.reader.start_file(item.path.name, item.size_bytes, item.bytes_here)
        item.part.parent.mkdir(parents=True, exist_ok=True)
        with self._lock(item.part.stem, item):
            if not self._is_here(item.file, item.remote.sha256):
                self._fetch(hub, item)
        self.reader.finish_file()

    def _fetch(self, hub: Hub, item: _Wanted) -> None:
        sha256 = fetch(
            hub,
            item.remote,
            item.part,
            patience=self.patience,
            report=self.reader.progress,
            hashed=not self.skip_verify,
        )
        if sha256:
            try:
                self._compare(item.file, item.remote, item.part.stat().st_size, sha256, "came damaged and was deleted")
            except DownloadError:
                item.part.unlink()
                raise
        item.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.replace(item.part, item.path)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy_whole(item.part, item.path)
            item.part.unlink()
        if sha256:
            self.ledger.record(item.path, sha256)

    @contextmanager
    def _lock(self, name: str, item: _Wanted | None = None) -> Iterator[None]:
        """Hold the lock of that name; while another process has it, show how far that one is with `item`."""
        from filelock import FileLock, Timeout

        folder = self.cache / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{name}.lock")
        while True:
            try:
                lock.acquire(timeout=_LOCK_POLL_S, poll_interval=_LOCK_POLL_S)
                break
            except Timeout:
                if item:
                    self._follow(item)
        try:
            yield
        finally:
            lock.release()

    def _follow(self, item: _Wanted) -> None:
        if not self.following:
            self.following = True
            self.reader.say(Info(message=f"another mold is fetching {item.path.name}; following it"))
        self.reader.progress(item.bytes_here)


def _patience(reader: FileReport) -> Patience:
    return Patience(lambda sentence: reader.say(Info(message=sentence)), reader.tick)


def _copy_whole(source: Path, target: Path) -> None:
    with source.open("rb") as file:
        write_whole(target, lambda copy: shutil.copyfileobj(file, copy, 1 << 20))
