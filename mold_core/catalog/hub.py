"""The Hugging Face hub: metadata of a file in a repository, and its bytes from any position.

URLs, tokens, sessions, proxies, offline mode and error responses are handled by huggingface_hub. The bytes are read
here because its `hf_hub_download` (as of 1.32 and 2.4) cannot resume an interrupted download: every call writes to a
new temporary file and deletes it on failure, which is not acceptable at 23 GB.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import ssl
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urljoin, urlsplit

import attrs

from mold_core.errors import DownloadError
from mold_core.version import VERSION

__all__ = ["ConnectionLost", "Hub", "RemoteFile"]

log = logging.getLogger("mold.catalog")

_PUBLIC = "https://huggingface.co"
_MAX_REDIRECTS = 5
_SHA256 = re.compile(r"[0-9a-f]{64}")
_RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})


class ConnectionLost(Exception):
    """The hub cannot be reached or stopped sending; a retry may help. The message gives the reason.

    `reached` is whether there was a connection at all, `wait_s` the delay that the hub asked for, in seconds.
    """

    def __init__(self, why: str, *, reached: bool = True, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.reached = reached
        self.wait_s = wait_s


@attrs.frozen(kw_only=True)
class RemoteFile:
    """A file of a repository at a commit. `etag` identifies its content; for large files it is the sha256."""

    repo: str
    filename: str
    commit: str
    etag: str
    size_bytes: int | None

    @property
    def sha256(self) -> str | None:
        """The sha256 of the content, if the etag is one."""
        return self.etag if _SHA256.fullmatch(self.etag) else None


class Hub:
    """The hub at `endpoint` (default: HF_ENDPOINT, else huggingface.co).

    `token` defaults to HF_TOKEN, else the token stored by `hf auth login`. Raises DownloadError if huggingface_hub is
    not installed.
    """

    def __init__(self, *, token: str | None = None, endpoint: str | None = None) -> None:
        try:
            from huggingface_hub import get_token
        except ImportError:
            raise DownloadError(
                "downloading models needs the package huggingface_hub", hint="pip install 'mold-core[hub]'"
            ) from None
        self.endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or _PUBLIC).rstrip("/")
        if not _is_url(self.endpoint):
            raise DownloadError(f"HF_ENDPOINT must be a URL such as {_PUBLIC}, not {self.endpoint!r}")
        self._token = token or get_token()
        if self._token and not (self._token.isascii() and self._token.isprintable()):
            raise DownloadError("the Hugging Face token in HF_TOKEN contains characters that no token has")

    def look_up(self, repo: str, filename: str, *, gated: bool = False) -> RemoteFile:
        """Return the metadata of a file. Raises DownloadError, or ConnectionLost if a retry may help."""
        from huggingface_hub import hf_raise_for_status

        url = self._url(repo, filename, "main")
        with self._translated_errors(repo, filename, gated):
            for _ in range(_MAX_REDIRECTS):
                response = self._request("HEAD", url)
                hf_raise_for_status(response)
                remote = _remote_file(repo, filename, response)
                if remote:
                    return remote
                if not response.headers.get("Location"):
                    break
                url = urljoin(url, response.headers["Location"])
        raise DownloadError(
            f"{self.endpoint} does not respond like a Hugging Face hub to the request for {filename} of {repo}",
            hint="check HF_ENDPOINT, and the proxy if you use one",
        )

    def describe(self, repo: str) -> dict[str, Any]:
        """Return what the hub says about a repository, as JSON: files with sizes, licence, whether it is gated.

        Raises DownloadError, or ConnectionLost when asking again may help.
        """
        from huggingface_hub import get_session, hf_raise_for_status

        url = f"{self.endpoint}/api/models/{repo}"
        with self._translated_errors(repo, "the list of files"):
            response = get_session().request(
                "GET",
                url,
                params={"blobs": "true"},
                headers=self._headers(url),
                timeout=_timeout_s(),
                follow_redirects=True,
            )
            hf_raise_for_status(response)
            try:
                about = response.json()
            except ValueError:
                about = None
        if not isinstance(about, dict):
            raise DownloadError(
                f"{self.endpoint} does not answer like a Hugging Face hub when asked for {repo}",
                hint="look at HF_ENDPOINT, and at the proxy if there is one",
            )
        return about

    def read(self, remote: RemoteFile, start: int = 0) -> Generator[tuple[int, bytes], None, None]:
        """Yield (position, bytes) from `start` on, or from 0 if the server does not support ranges.

        Raises DownloadError, or ConnectionLost if a retry may help.
        """
        from huggingface_hub import get_session, hf_raise_for_status

        # Always the URL of the hub, because the one that it redirects to is signed for one hour only. The session does
        # not send the token to other hosts.
        url = self._url(remote.repo, remote.filename, remote.commit)
        headers = self._headers(url) | ({"Range": f"bytes={start}-"} if start else {})
        with (
            self._translated_errors(remote.repo, remote.filename),
            get_session().stream("GET", url, headers=headers, timeout=_timeout_s(), follow_redirects=True) as response,
        ):
            hf_raise_for_status(response)
            position = _first_position(response)
            for chunk in response.iter_bytes():
                yield position, chunk
                position += len(chunk)

    def page_of(self, repo: str) -> str:
        """Return the URL of a repository's page."""
        return f"{self.endpoint}/{repo}"

    def _url(self, repo: str, filename: str, revision: str) -> str:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.errors import HFValidationError

        try:
            return hf_hub_url(repo, filename, revision=revision, endpoint=self.endpoint)
        except HFValidationError:
            raise DownloadError(f"the catalog names {repo!r}, which is not a valid repository name") from None

    def _headers(self, url: str) -> dict[str, str]:
        # NOTE: not the headers of huggingface_hub: they reveal installed packages and the parent program, which
        # costs one more request to find out.
        headers = {"User-Agent": f"mold/{VERSION}", "Accept-Encoding": "identity"}
        if self._token and _origin(url) == _origin(self.endpoint):
            headers["Authorization"] = f"Bearer {self._token}"
        return headers

    def _request(self, method: str, url: str) -> Any:
        from huggingface_hub import get_session

        return get_session().request(
            method, url, headers=self._headers(url), timeout=_timeout_s(), follow_redirects=False
        )

    @contextmanager
    def _translated_errors(self, repo: str, filename: str, gated: bool = False) -> Iterator[None]:
        from huggingface_hub import errors

        try:
            yield
        except errors.HfHubHTTPError as error:
            raise self._refused(error.response, repo, filename, gated) from error
        except errors.OfflineModeIsEnabled as error:
            raise DownloadError(
                f"HF_HUB_OFFLINE is set, so {filename} of {repo} is not downloaded", hint="unset it to download models"
            ) from error
        except errors.HTTPError as error:  # type: ignore[attr-defined]  # httpx up to 1.x, httpx2 since 2.0
            raise self._lost(error) from error

    def _lost(self, error: Exception) -> ConnectionLost:
        log.info("a request to %s failed: %s", self.endpoint, error)
        host = urlsplit(self.endpoint).hostname
        kinds = {kind.__name__ for kind in type(error).__mro__}
        causes = _causes(error)
        if any(isinstance(cause, socket.gaierror) for cause in causes):
            return ConnectionLost(f"the host name {host} cannot be resolved; is this machine online?", reached=False)
        if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
            return ConnectionLost(f"{self.endpoint} refuses connections", reached=False)
        if "TimeoutException" in kinds:
            return ConnectionLost(
                f"{host} sent nothing for {_timeout_s():.0f} s", reached="ConnectTimeout" not in kinds
            )
        if any(isinstance(cause, ssl.SSLError) for cause in causes):
            return ConnectionLost(f"no secure connection to {host} (is its certificate valid?)", reached=False)
        if "ProxyError" in kinds:
            return ConnectionLost(f"the proxy refuses requests to {host}", reached=False)
        if "ConnectError" in kinds:
            return ConnectionLost(f"{host} cannot be reached", reached=False)
        return ConnectionLost(f"the connection to {host} was lost")

    def _refused(self, response: Any, repo: str, filename: str, gated: bool) -> DownloadError | ConnectionLost:
        status, code = response.status_code, response.headers.get("X-Error-Code")
        host, page = urlsplit(self.endpoint).hostname, self.page_of(repo)
        if status in _RETRIED_STATUSES:
            wait = response.headers.get("Retry-After", "")
            return ConnectionLost(f"{host} responds with {status}", wait_s=float(wait) if wait.isdigit() else 0.0)
        if status == 401 and "Invalid credentials" in response.headers.get("X-Error-Message", ""):
            return DownloadError(
                f"{host} does not accept the token in HF_TOKEN", hint=f"create a new one at {_PUBLIC}/settings/tokens"
            )
        if code == "GatedRepo" or (gated and status in (401, 403)):
            return self._gated(repo, page)
        if code in ("RepoNotFound", "RevisionNotFound") or status == 401:
            return DownloadError(f"{host} has no repository {repo}, or it is private", value=repo)
        if status == 403:
            return DownloadError(f"{host} refuses access to {repo}", hint=f"the reason may be on its page: {page}")
        if status == 416:
            return DownloadError(f"{host} has fewer bytes of {filename} of {repo} than it announced")
        if status == 404:
            return DownloadError(f"the repository {repo} has no file {filename}", hint=f"check its page: {page}")
        return DownloadError(f"{host} responds with {status} to the request for {filename} of {repo}")

    def _gated(self, repo: str, page: str) -> DownloadError:
        if self._token:
            return DownloadError(
                f"the account of your Hugging Face token has no access to {repo}",
                hint=f"accept its licence at {page} with that account (and let the token read gated repositories)",
            )
        return DownloadError(
            f"{repo} requires accepting its licence",
            hint=f"accept it at {page}, then set HF_TOKEN to a token of that account ({_PUBLIC}/settings/tokens)",
        )


def _remote_file(repo: str, filename: str, response: Any) -> RemoteFile | None:
    """Return the file that a response to HEAD describes, or None if it is only a redirect to a renamed repository."""
    headers = response.headers
    redirected = headers.get("Location") is not None
    commit = headers.get("X-Repo-Commit")
    etag = headers.get("X-Linked-Etag") or (None if redirected else headers.get("ETag"))
    if not commit or not etag:
        return None
    size = headers.get("X-Linked-Size") or (None if redirected else headers.get("Content-Length"))
    etag = etag.removeprefix("W/").strip('"')
    size_bytes = int(size) if size and size.isdigit() else None
    return RemoteFile(repo=repo, filename=filename, commit=commit, etag=etag, size_bytes=size_bytes)


def _first_position(response: Any) -> int:
    """Return the position in the file at which the body starts: from Content-Range, or 0 for a complete file."""
    if response.status_code != 206:
        return 0
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if not found:
        raise ConnectionLost("the server sent a range of the file without saying which one")
    return int(found[1])


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _timeout_s() -> float:
    from huggingface_hub import constants

    return float(constants.HF_HUB_DOWNLOAD_TIMEOUT)


def _causes(error: BaseException | None) -> list[BaseException]:
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain
