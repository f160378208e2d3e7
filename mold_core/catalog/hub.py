"""The Hugging Face hub: what a repository says about a file, and the file's bytes from any position on.

Names, tokens, sessions, proxies, offline mode and error answers are those of huggingface_hub. The bytes are read here
because its `hf_hub_download` (looked at in 1.32 and 2.4) cannot go on with an interrupted file: every call writes to a
file with a name of its own and deletes it when it fails, which at 23 GB is not acceptable.
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
_WORTH_REPEATING = frozenset({408, 429, 500, 502, 503, 504})


class ConnectionLost(Exception):
    """The hub cannot be reached, or fell silent; asking again may help. The text says why, to people.

    `reached` says whether the hub was there at all, `wait_s` how long it asked to be left alone.
    """

    def __init__(self, why: str, *, reached: bool = True, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.reached = reached
        self.wait_s = wait_s


@attrs.frozen(kw_only=True)
class RemoteFile:
    """A file of a repository, pinned to a commit. `etag` names its content: the sha256 for every large file."""

    repo: str
    filename: str
    commit: str
    etag: str
    size_bytes: int | None

    @property
    def sha256(self) -> str | None:
        """The checksum that the hub knows the content by, if it is one."""
        return self.etag if _SHA256.fullmatch(self.etag) else None


class Hub:
    """The hub at `endpoint` (default: HF_ENDPOINT, else huggingface.co), with a token (default: HF_TOKEN, else the one
    that `hf auth login` stored).

    Raises DownloadError when huggingface_hub is not installed.
    """

    def __init__(self, *, token: str | None = None, endpoint: str | None = None) -> None:
        try:
            from huggingface_hub import get_token
        except ImportError:
            raise DownloadError(
                "fetching models needs the package huggingface_hub", hint="pip install 'mold-core[hub]'"
            ) from None
        self.endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or _PUBLIC).rstrip("/")
        if not _is_address(self.endpoint):
            raise DownloadError(f"HF_ENDPOINT must be an address such as {_PUBLIC}, not {self.endpoint!r}")
        self._token = token or get_token()
        if self._token and not (self._token.isascii() and self._token.isprintable()):
            raise DownloadError("the Hugging Face token in HF_TOKEN holds characters that no token has")

    def look_up(self, repo: str, filename: str, *, gated: bool = False) -> RemoteFile:
        """Return what the hub says about a file. Raises DownloadError, or ConnectionLost when asking again may help."""
        from huggingface_hub import hf_raise_for_status

        url = self._url(repo, filename, "main")
        with self._translated_errors(repo, filename, gated):
            for _ in range(_MAX_REDIRECTS):
                response = self._request("HEAD", url)
                hf_raise_for_status(response)
                remote = _read_answer(repo, filename, response)
                if remote:
                    return remote
                if not response.headers.get("Location"):
                    break
                url = urljoin(url, response.headers["Location"])
        raise DownloadError(
            f"{self.endpoint} does not answer like a Hugging Face hub when asked for {filename} of {repo}",
            hint="look at HF_ENDPOINT, and at the proxy if there is one",
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
        """Yield (position, bytes) from `start` on, or from 0 on when the server cannot skip.

        Raises DownloadError, or ConnectionLost when asking again may help.
        """
        from huggingface_hub import get_session, hf_raise_for_status

        # The address of the hub, not the one it redirects to: that one is signed for an hour, and does not want the
        # token, which the session leaves out when it follows to another host.
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
        """Return the address of a repository's page."""
        return f"{self.endpoint}/{repo}"

    def _url(self, repo: str, filename: str, revision: str) -> str:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.errors import HFValidationError

        try:
            return hf_hub_url(repo, filename, revision=revision, endpoint=self.endpoint)
        except HFValidationError:
            raise DownloadError(f"the catalog names the repository {repo!r}, which no hub can have") from None

    def _headers(self, url: str) -> dict[str, str]:
        # NOTE: not huggingface_hub's own headers. Those tell of the other packages installed here, and of the program
        # that started us, which they find out by one more request.
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
                f"HF_HUB_OFFLINE is set, so {filename} of {repo} is not fetched", hint="unset it to fetch models"
            ) from error
        except errors.HTTPError as error:  # type: ignore[attr-defined]  # of httpx up to 1.x, of httpx2 from 2.0 on
            raise self._lost(error) from error

    def _lost(self, error: Exception) -> ConnectionLost:
        log.info("a request to %s failed: %s", self.endpoint, error)
        host = urlsplit(self.endpoint).hostname
        kinds = {kind.__name__ for kind in type(error).__mro__}
        causes = _causes(error)
        if any(isinstance(cause, socket.gaierror) for cause in causes):
            return ConnectionLost(f"the name {host} cannot be found; is this machine online?", reached=False)
        if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
            return ConnectionLost(f"{self.endpoint} refuses connections", reached=False)
        if "TimeoutException" in kinds:
            return ConnectionLost(
                f"{host} sent nothing for {_timeout_s():.0f} s", reached="ConnectTimeout" not in kinds
            )
        if any(isinstance(cause, ssl.SSLError) for cause in causes):
            return ConnectionLost(f"no safe connection to {host} comes about (its certificate?)", reached=False)
        if "ProxyError" in kinds:
            return ConnectionLost(f"the proxy does not let a request to {host} through", reached=False)
        if "ConnectError" in kinds:
            return ConnectionLost(f"{host} cannot be reached", reached=False)
        return ConnectionLost(f"the connection to {host} broke off")

    def _refused(self, response: Any, repo: str, filename: str, gated: bool) -> DownloadError | ConnectionLost:
        status, code = response.status_code, response.headers.get("X-Error-Code")
        host, page = urlsplit(self.endpoint).hostname, self.page_of(repo)
        if status in _WORTH_REPEATING:
            wait = response.headers.get("Retry-After", "")
            return ConnectionLost(f"{host} answers {status}", wait_s=float(wait) if wait.isdigit() else 0.0)
        if status == 401 and "Invalid credentials" in response.headers.get("X-Error-Message", ""):
            return DownloadError(
                f"{host} does not accept the token in HF_TOKEN", hint=f"make a new one at {_PUBLIC}/settings/tokens"
            )
        if code == "GatedRepo" or (gated and status in (401, 403)):
            return self._gated(repo, page)
        if code in ("RepoNotFound", "RevisionNotFound") or status == 401:
            return DownloadError(f"{host} has no repository {repo}, or it is private", value=repo)
        if status == 403:
            return DownloadError(f"{host} refuses access to {repo}", hint=f"its page may say why: {page}")
        if status == 416:
            return DownloadError(f"{host} has fewer bytes of {filename} of {repo} than it says")
        if status == 404:
            return DownloadError(f"the repository {repo} has no file {filename} any more", hint=f"its page is {page}")
        return DownloadError(f"{host} answers {status} to the request for {filename} of {repo}")

    def _gated(self, repo: str, page: str) -> DownloadError:
        if self._token:
            return DownloadError(
                f"the account of your Hugging Face token has no access to {repo}",
                hint=f"accept its licence at {page} with that account (and let the token read gated repositories)",
            )
        return DownloadError(
            f"{repo} asks for an accepted licence",
            hint=f"accept it at {page}, then set HF_TOKEN to a token of that account ({_PUBLIC}/settings/tokens)",
        )


def _read_answer(repo: str, filename: str, response: Any) -> RemoteFile | None:
    """Return what the answer to HEAD says of the file, or None if it only says to look elsewhere (it was renamed)."""
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
    """Return where in the file the body begins: what Content-Range says, 0 for a whole file."""
    if response.status_code != 206:
        return 0
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if not found:
        raise ConnectionLost("the server sent a part of the file and does not say which")
    return int(found[1])


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _is_address(text: str) -> bool:
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
