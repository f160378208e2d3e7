"""The HTTP client, with the methods of `Engine`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, urlencode

import attrs

from mold_core.catalog import DefaultModel, ModelEntry, ModelSpec
from mold_core.client.connection import Connection, server_address
from mold_core.client.files import upscale_file
from mold_core.client.jobs import Last, RemoteJob, read_frames
from mold_core.client.models import RemoteModels, listed
from mold_core.deprecated import renamed_fields
from mold_core.errors import CancelledError, MoldError, UnreachableError, ValidationError
from mold_core.jobs.kinds import JobKind, job_kind_of
from mold_core.settings import Settings
from mold_core.upscaling.requests import FileUpscaleRequest
from mold_core.wire import (
    ChainRequest,
    ChainResponse,
    ExpandRequest,
    ExpandResponse,
    GenerateRequest,
    GenerateResponse,
    ParameterInfo,
    ProgressEvent,
    PullRequest,
    PullResponse,
    Request,
    UpscaleRequest,
    UpscaleResponse,
)
from mold_core.wire.convert import check, from_json, to_json
from mold_core.wire.fields import wire_field
from mold_core.wire.request import Result

if TYPE_CHECKING:
    from mold_core.client.disk_usage import RemoteDiskInventory
    from mold_core.client.gallery import RemoteGallery

__all__ = ["Client", "ServerStatus"]

_HEALTH_TIMEOUT_S = 5.0


@attrs.frozen(kw_only=True)
class ServerStatus:
    """The current state of a server."""

    version: str = wire_field("Version of mold.")
    models_loaded: tuple[str, ...] = wire_field("Models in memory.")
    busy: bool = wire_field("Whether a job is running.")
    uptime_secs: int = wire_field("Seconds since the server started.")
    hostname: str | None = wire_field("Name of the machine.", default=None)
    memory_status: str | None = wire_field("Free memory, as text.", default=None)
    queue_depth: int = wire_field("Number of waiting jobs.", default=0)
    queue_capacity: int = wire_field("Maximum number of waiting jobs.", default=0)
    queue_paused: bool = wire_field("Whether the queue is paused.", default=False)


@renamed_fields(shelf="disk")
class Client:
    """Runs requests on the server at `host`, with the methods, events and errors of `Engine`.

        with Client("gpu-box") as client:
            response = client.generate(GenerateRequest(prompt="a red house under a yellow moon"))

    `host` is a name, ``name:port`` or an http or https URL; default: the setting MOLD_HOST, else this machine.
    `api_key` is sent with every request; default: the first key in MOLD_API_KEY. The client connects only when a method
    is called, never needs torch, and may be used from any thread.

    Every method raises UnreachableError if the server cannot be reached, and errors of the server as the same classes
    that its engine raised.
    """

    def __init__(self, host: str | None = None, api_key: str | None = None) -> None:
        settings = Settings.load() if host is None or api_key is None else None
        if host is None:
            assert settings is not None
            host = settings.host or f"127.0.0.1:{settings.port}"
        key = api_key if settings is None or api_key is not None else settings.first_api_key()
        self.connection = Connection(server_address(host), key or None)

    @property
    def address(self) -> str:
        """URL of the server."""
        return self.connection.address

    # --- requests ------------------------------------------------------------------------------------------------

    def submit(self, request: Request[Result], *, idempotency_key: str | None = None) -> RemoteJob[Result]:
        """Queue a request of any kind and return its job immediately. The job continues if this program ends.

        Raises what `Engine.submit` raises.
        """
        kind = _kind_of(request)
        check(request)
        headers = {"Accept": "application/json"}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        body = {"kind": kind.name, "request": to_json(request)}
        _, response_headers = self.connection.ask("POST", "/api/jobs", body, headers=headers)
        path = response_headers["Location"] or ""
        about = {"id": path.rpartition("/")[2], "kind": kind.name, "model": getattr(request, "model", None)}
        return RemoteJob(self.connection, about)

    def run(self, request: Request[Result], on_event: Callable[[ProgressEvent], object] | None = None) -> Result:
        """Return the result of a request of any kind; see `Engine.run`.

        The job on the server is cancelled if `on_event` returns False or an exception is raised, Ctrl-C included.
        """
        if isinstance(request, FileUpscaleRequest):
            return cast(Result, upscale_file(request, lambda inner: self.run(inner, on_event)))
        with closing(self._stream(request)) as items:
            for item in items:
                if isinstance(item, Last):
                    return item.response
                if on_event is not None and on_event(item) is False:
                    raise CancelledError("the job was cancelled")
        raise UnreachableError(f"the connection to {self.address} was lost before the job finished")

    def generate(
        self, request: GenerateRequest, on_event: Callable[[ProgressEvent], object] | None = None
    ) -> GenerateResponse:
        """Return the images or the video of a request; see `run`."""
        return self.run(request, on_event)

    def chain(self, request: ChainRequest, on_event: Callable[[ProgressEvent], object] | None = None) -> ChainResponse:
        """Return the long video of a request; see `run`."""
        return self.run(request, on_event)

    def expand(
        self, request: ExpandRequest, on_event: Callable[[ProgressEvent], object] | None = None
    ) -> ExpandResponse:
        """Return the expanded prompts of a request; see `run`."""
        return self.run(request, on_event)

    def upscale(
        self, request: UpscaleRequest, on_event: Callable[[ProgressEvent], object] | None = None
    ) -> UpscaleResponse:
        """Return the upscaled image; see `run`. Files are read and written on this machine."""
        return self.run(request, on_event)

    def stream(self, request: Request[Result]) -> Iterator[ProgressEvent | Result]:
        """Yield progress events, then the response. Closing the iterator cancels the job."""
        with closing(self._stream(request)) as items:
            for item in items:
                yield item.response if isinstance(item, Last) else item

    def _stream(self, request: Request[Result]) -> Generator[ProgressEvent | Last[Result]]:
        """Yield events, then the response in a `Last`. Closing the generator early cancels the job."""
        kind = _kind_of(request)
        check(request)
        if kind.stream_route is None:
            yield from self._submit_and_follow(kind, request)
            return
        # Closing the connection cancels the job on the server, also if this program is killed.
        with closing(self.connection.frames("POST", kind.stream_route, to_json(request))) as frames:
            yield from read_frames(frames, kind.name)

    def _submit_and_follow(self, kind: JobKind, request: Request[Result]) -> Iterator[ProgressEvent | Last[Result]]:
        """Yield what `_stream` yields, for kinds without a streaming route."""
        shared = kind.dedupe_key(request) is not None
        others = {job.id for job in self.jobs(kind=kind.name)} if shared else set()
        job = self.submit(request)
        ended = False
        try:
            yield from job.events()
            yield Last(job.result())
            ended = True
        except MoldError as error:
            ended = not isinstance(error, UnreachableError)
            raise
        finally:
            if not ended and job.id not in others:  # a job that another client submitted continues
                with suppress(MoldError):
                    job.cancel()

    # --- jobs ----------------------------------------------------------------------------------------------------

    def job(self, id: str) -> RemoteJob:
        """Return a job by its id. Raises JobNotFoundError for an unknown or expired id."""
        return RemoteJob(self.connection, self.connection.json("GET", f"/api/jobs/{quote(id, safe='')}"))

    def jobs(self, *, state: str | None = None, kind: str | None = None) -> list[RemoteJob]:
        """Return the jobs stored on the server, oldest first."""
        query = {name: word for name, word in (("state", state), ("kind", kind)) if word is not None}
        found = self.connection.json("GET", f"/api/jobs?{urlencode(query)}" if query else "/api/jobs")
        return [RemoteJob(self.connection, about) for about in reversed(found)]

    # --- models --------------------------------------------------------------------------------------------------

    @cached_property
    def _models(self) -> RemoteModels:
        return listed(self.connection.json("GET", "/api/models?kind=all"))

    def models(self) -> list[ModelEntry]:
        """Return every model of the server's catalog with its state there."""
        self.__dict__.pop("_models", None)
        return self._models.entries()

    def loaded(self) -> frozenset[str]:
        """Return the full names of the models in the server's memory."""
        return frozenset(self.status().models_loaded)

    def load(self, name: str | None) -> str:
        """Load a model into the server's memory and return its full name. Raises what `Engine.load` raises."""
        spec = self.resolve(name)
        self.connection.ask("POST", "/api/models/load", {"model": spec.name}, timeout_s=None)
        return spec.name

    def unload(self, name: str | None = None) -> tuple[str, ...]:
        """Unload a model, or all models, from the server's memory. Returns the names of the unloaded models."""
        body = None if name is None else {"model": name}
        data, _ = self.connection.ask("DELETE", "/api/models/unload", body, timeout_s=None)
        words = data.decode("utf-8", "replace").strip()
        return tuple(words.removeprefix("unloaded ").split(", ")) if words.startswith("unloaded ") else ()

    def default_model(self) -> DefaultModel:
        """Return the model for requests that name none, and the reason for the choice."""
        return self._models.default()

    def resolve(self, name: str | None) -> ModelSpec:
        """Return the server's model for a name; None means the default. Raises UnknownModelError."""
        return self._models.resolve(name)

    def catalog(self) -> dict[str, ModelSpec]:
        """Return the models of the server by full name."""
        return self._models.specs()

    def capabilities(self, spec: ModelSpec) -> frozenset[str]:
        """Return the capabilities of a model's family, such as image-to-image."""
        found = self._models.by_name.get(spec.name)
        return frozenset(found.capabilities if found else ())

    def parameters(self, spec: ModelSpec) -> tuple[ParameterInfo, ...]:
        """Return the parameters that a model of the server accepts."""
        families = self.connection.json("GET", "/api/capabilities").get("families", ())
        family: dict[str, Any] = next((family for family in families if family.get("name") == spec.family), {})
        return tuple(from_json(ParameterInfo, item) for item in family.get("parameters", ()))

    def chain_frames(self, spec: ModelSpec) -> int | None:
        """Return the default number of frames of a clip in chains of a model; None if it has no chains."""
        found = self._models.by_name.get(spec.name)
        return found.chain_frames if found else None

    def pull(
        self, name: str, on_event: Callable[[ProgressEvent], object] | None = None, *, skip_verify: bool = False
    ) -> PullResponse:
        """Download the missing files of a model to the server, and return when the model is complete."""
        spec = self.resolve(name)
        self.run(PullRequest(model=spec.name, skip_verify=skip_verify), on_event)
        sizes = {entry.spec.name: entry.spec.size_bytes for entry in self.models()}
        return PullResponse(model=spec.name, size_bytes=sizes.get(spec.name, 0))

    # --- stored results and files --------------------------------------------------------------------------------

    @property
    def gallery(self) -> RemoteGallery:
        """The gallery of the server."""
        from mold_core.client.gallery import RemoteGallery

        return RemoteGallery(self.connection)

    @property
    def disk(self) -> RemoteDiskInventory:
        """The server's disk: details and removal of models, LoRAs, disk usage, stored chains."""
        from mold_core.client.disk_usage import RemoteDiskInventory

        return RemoteDiskInventory(self.connection)

    # --- the server ----------------------------------------------------------------------------------------------

    def health(self, timeout_s: float = _HEALTH_TIMEOUT_S) -> None:
        """Return when the server responds. Raises UnreachableError if it does not within `timeout_s` seconds."""
        self.connection.ask("GET", "/health", timeout_s=timeout_s)

    def status(self) -> ServerStatus:
        """Return the current state of the server."""
        return from_json(ServerStatus, self.connection.json("GET", "/api/status"))

    def shutdown(self) -> None:
        """Ask the server to shut down after the running jobs."""
        self.connection.ask("POST", "/api/shutdown", timeout_s=_HEALTH_TIMEOUT_S)

    def close(self) -> None:
        """Do nothing: every request has its own connection, so there is none to close."""

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _kind_of(request: Any) -> JobKind:
    kind = job_kind_of(request)
    if type(request) is not kind.request_class:
        raise ValidationError(f"a server does not accept a {type(request).__name__}")
    return kind
