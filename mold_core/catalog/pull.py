"""Downloads the files of a model to their paths in the catalog, and verifies them.

A file is downloaded to ``.hf-cache`` in the models folder, under a name derived from its content, and moved to its path
when it is complete and verified. So an interruption leaves at most a partial file, which the next pull resumes. A file
lock per content prevents two pulls from downloading the same file.
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

from mold_core.catalog.fetch import RetryPolicy, fetch, with_retries
from mold_core.catalog.hub import Hub, RemoteFile
from mold_core.catalog.marker import clear_stale, holding
from mold_core.catalog.model import ModelFile, ModelSpec
from mold_core.catalog.report import FileReport, PullReporter
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
    """Return the files of a model after downloading those that are missing or differ from the catalog.

    `on_event` is called in this thread, at most four times a second while bytes arrive; if it returns False, the pull
    ends with CancelledError. `token` and `endpoint` replace HF_TOKEN and HF_ENDPOINT. With `skip_verify` existing files
    are accepted unchecked, and downloaded files are not compared with the catalog. With `offline` a missing file is an
    error. `at_once` is the number of files to download at the same time.

    Raises DownloadError for the network, the hub, licences and checksums; OutputError for the disk; PluginError for a
    catalog entry with a path outside the models folder. Downloaded bytes are kept for the next pull, except those of a
    file with a wrong checksum.
    """
    reporter = PullReporter(on_event)
    if spec.embedded or not spec.files:
        why = "ships with mold" if spec.embedded else "needs no files"
        reporter.send(Info(message=f"{spec.name} {why}; nothing to download"))
    else:
        check_paths(spec, store)
        try:
            _Pull(spec, store, reporter, skip_verify).run(lambda: _connect(spec, token, endpoint, offline), at_once)
        except OSError as error:
            if error is reporter.failure:
                raise
            raise _disk_error(error, spec, store) from error
    reporter.send(PullComplete(model=spec.name))
    return store.files_of(spec)


def _connect(spec: ModelSpec, token: str | None, endpoint: str | None, offline: bool) -> Hub:
    if offline:
        raise DownloadError(
            f"MOLD_OFFLINE is set, so missing files of {spec.name} are not downloaded",
            hint="unset it to download models",
        )
    return Hub(token=token, endpoint=endpoint)


def check_paths(spec: ModelSpec, store: ModelStore) -> None:
    """Raise PluginError for paths that leave the models folder or may name mold's own files in it.

    Catalogs are not trusted. Absolute paths of files without a repository are allowed: config.toml names them, and they
    are only read.
    """
    repo_names = (file.filename for file in spec.files if file.filename)
    local = {file for file in spec.files if not file.repo and Path(file.path).is_absolute()}
    checked = [file for file in spec.files if file not in local or not store.is_elsewhere(Path(file.path))]
    for path in (
        spec.name.replace(":", "-"),
        *(path for file in checked for path in (file.path, *file.instead)),
        *repo_names,
    ):
        names = PurePosixPath(path).parts
        if not names or not all(
            name.isprintable() and not name.startswith(".") and not set(name) & set('/\\:*?"<>|') for name in names
        ):
            raise PluginError(
                f"the catalog entry {spec.name!r} has a path that is not allowed in the models folder: {path!r}",
                field="path",
                value=path,
            )


def _disk_error(error: OSError, spec: ModelSpec, store: ModelStore) -> OutputError:
    problem = output_error(Path(error.filename or store.models_dir), error)
    if error.errno in _DISK_FULL:
        problem.hint = f"{problem.hint}; mold pull {spec.name} then resumes the download"
    return problem


@attrs.frozen(kw_only=True)
class _Download:
    """A file to download: its catalog entry, its entry on the hub, its final path and its partial file."""

    file: ModelFile
    remote: RemoteFile
    path: Path
    partial: Path

    @property
    def size_bytes(self) -> int:
        return self.remote.size_bytes or self.file.size_bytes or 0

    @property
    def bytes_here(self) -> int:
        try:
            return min(self.partial.stat().st_size, self.size_bytes)
        except OSError:
            return 0


class _Pull:
    """One call of `pull`."""

    def __init__(self, spec: ModelSpec, store: ModelStore, reporter: PullReporter, skip_verify: bool) -> None:
        self.spec = spec
        self.store = store
        self.reporter: FileReport = reporter
        self.pull_reporter = reporter
        self.skip_verify = skip_verify
        self.following = False
        self.cache = store.models_dir / CACHE_NAME
        self.ledger = ChecksumLedger(store.models_dir, lambda: self._lock("verified"))
        self.retries = _retry_policy(reporter)

    def run(self, connect: Callable[[], Hub], at_once: int) -> None:
        files = {file.path: file for file in self.spec.files}.values()
        missing = [file for file in files if not self._has_alternative(file) and not self._is_here(file, explain=True)]
        if missing:
            hub = connect()
            # All checks are done before the first gigabyte is downloaded.
            downloads = [self._look_up(hub, file) for file in missing]
            check_space(self.spec.name, self._needs(downloads))
            with holding(self.store.marker_of(self.spec)):
                self._announce(downloads)
                if at_once > 1 and len(downloads) > 1:
                    jobs = [self._in_thread(hub, download) for download in downloads]
                    fetch_together(jobs, self.pull_reporter, at_once)
                else:
                    for download in downloads:
                        self._download(hub, download)
        clear_stale(self.store.marker_of(self.spec))

    def _in_thread(self, hub: Hub, download: _Download) -> Callable[[FileReport], None]:
        """Return a function that downloads one file and reports to its argument."""

        def download_file(report: FileReport) -> None:
            pull_of_file = copy.copy(self)
            pull_of_file.reporter = report
            pull_of_file.retries = _retry_policy(report)
            pull_of_file._download(hub, download)

        return download_file

    # --- existing files ------------------------------------------------------------------------------------------

    def _has_alternative(self, file: ModelFile) -> bool:
        path = self.store.path_of(self.spec, file)
        others = () if path.is_file() else self.store.choices(self.spec, file)
        if others:
            self.reporter.send(Info(message=f"{path.name} is skipped: {others[0].name} is used instead"))
        return bool(others)

    def _is_here(self, file: ModelFile, sha256: str | None = None, *, explain: bool = False) -> bool:
        path = self.store.path_of(self.spec, file)
        problem = self._problem(file, path) if path.is_file() else "missing"
        if problem is None or self._link_twin(path, file.sha256 or sha256):
            if explain:
                self.reporter.send(CacheHit(resource=path.name))
            return True
        if explain and problem != "missing":
            self.reporter.send(Info(message=f"{path} exists but {problem}; it is downloaded again"))
        return False

    def _problem(self, file: ModelFile, path: Path) -> str | None:
        if self.skip_verify:
            return None
        size = path.stat().st_size
        if file.size_bytes and size != file.size_bytes:
            return f"has {size:,} bytes instead of {file.size_bytes:,}"
        if file.sha256:
            sha256 = self.ledger.known(path) or self._compute_sha256(path)
            if sha256 != file.sha256.lower():
                return f"has the sha256 {sha256} instead of {file.sha256.lower()}"
        return None

    def _compute_sha256(self, path: Path) -> str:
        self.reporter.stage(f"checking {path.name}")
        return self.ledger.sha256(path, self.reporter.tick)

    def _link_twin(self, path: Path, sha256: str | None) -> bool:
        """Link `path` to a file of another model with the same content. Returns False if there is none."""
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

    # --- files of the hub ----------------------------------------------------------------------------------------

    def _look_up(self, hub: Hub, file: ModelFile) -> _Download:
        path = self.store.path_of(self.spec, file)
        if not file.repo:
            raise DownloadError(f"the catalog has no repository for {path.name}", local_hint=f"put the file at {path}")
        self.reporter.stage(f"looking up {path.name}")
        repo, filename = file.repo, file.filename or path.name
        remote = with_retries(lambda: hub.look_up(repo, filename, gated=file.gated), self.retries)
        if not self.skip_verify:
            self._compare(file, remote, remote.size_bytes, remote.sha256, "has changed on the hub")
        name = remote.etag if _SAFE_ETAG.fullmatch(remote.etag) else hash_of(remote.etag.encode()).hexdigest()
        partial = self.cache / f"models--{repo.replace('/', '--')}" / "blobs" / f"{name}.incomplete"
        return _Download(file=file, remote=remote, path=path, partial=partial)

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
                    hint=f"pull again; if that does not help, update the plugin of {self.spec.name}, or use "
                    "--skip-verify",
                )

    def _needs(self, downloads: Iterable[_Download]) -> Iterator[tuple[Path, int]]:
        for download in downloads:
            missing_bytes = download.size_bytes - download.bytes_here
            yield download.partial.parent, missing_bytes
            if not same_disk(download.partial.parent, download.path.parent):
                yield download.path.parent, missing_bytes  # a folder on another disk needs a copy

    # --- downloading ---------------------------------------------------------------------------------------------

    def _announce(self, downloads: list[_Download]) -> None:
        files = "1 file" if len(downloads) == 1 else f"{len(downloads)} files"
        total = sum(download.size_bytes for download in downloads)
        licence = f"; licence {self.spec.licence}" if self.spec.licence else ""
        self.reporter.send(Info(message=f"downloading {self.spec.name}, {files}, {in_words(total)}{licence}"))
        self.pull_reporter.begin(len(downloads), total)

    def _download(self, hub: Hub, download: _Download) -> None:
        self.reporter.start_file(download.path.name, download.size_bytes, download.bytes_here)
        download.partial.parent.mkdir(parents=True, exist_ok=True)
        with self._lock(download.partial.stem, download):
            if not self._is_here(download.file, download.remote.sha256):
                self._fetch(hub, download)
        self.reporter.finish_file()

    def _fetch(self, hub: Hub, download: _Download) -> None:
        sha256 = fetch(
            hub,
            download.remote,
            download.partial,
            retries=self.retries,
            report=self.reporter.progress,
            hashed=not self.skip_verify,
        )
        if sha256:
            try:
                size_bytes = download.partial.stat().st_size
                self._compare(download.file, download.remote, size_bytes, sha256, "arrived damaged and was deleted")
            except DownloadError:
                download.partial.unlink()
                raise
        download.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.replace(download.partial, download.path)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy_whole(download.partial, download.path)
            download.partial.unlink()
        if sha256:
            self.ledger.record(download.path, sha256)

    @contextmanager
    def _lock(self, name: str, download: _Download | None = None) -> Iterator[None]:
        """Hold the lock `name`. While another process holds it, report that process's progress with `download`."""
        from filelock import FileLock, Timeout

        folder = self.cache / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{name}.lock")
        while True:
            try:
                lock.acquire(timeout=_LOCK_POLL_S, poll_interval=_LOCK_POLL_S)
                break
            except Timeout:
                if download:
                    self._follow(download)
        try:
            yield
        finally:
            lock.release()

    def _follow(self, download: _Download) -> None:
        if not self.following:
            self.following = True
            self.reporter.send(Info(message=f"another process is downloading {download.path.name}; waiting for it"))
        self.reporter.progress(download.bytes_here)


def _retry_policy(report: FileReport) -> RetryPolicy:
    return RetryPolicy(lambda sentence: report.send(Info(message=sentence)), report.tick)


def _copy_whole(source: Path, target: Path) -> None:
    with source.open("rb") as file:
        write_whole(target, lambda copy: shutil.copyfileobj(file, copy, 1 << 20))
