"""Prompt expansion: short prompts become detailed ones, as a separate job or before an image is generated."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence

import attrs

from mold_core.catalog import ModelSpec
from mold_core.errors import ModelNotFoundError, ValidationError, WorkerError
from mold_core.hookspecs import Run, Worker
from mold_core.jobs.batch import BatchRun, fail_jobs
from mold_core.jobs.job import Job
from mold_core.jobs.kinds.kind import JobKind, Prepared, RunContext
from mold_core.jobs.task import WorkerHost
from mold_core.jobs.within_memory import saying_out_of_memory
from mold_core.plugin_errors import wrap_plugin_errors
from mold_core.requests.models import Models
from mold_core.requests.prompt_expansion import Expanding
from mold_core.wire import ExpandRequest, ExpandResponse, GenerateRequest, Info
from mold_core.wire.generate import MAX_SEED

__all__ = ["ExpandKind", "check_expansion", "expand_prompts"]

log = logging.getLogger("mold.engine")

_RANDOM_SEED_BITS = 32
_MOST_VARIATIONS = 10


@attrs.frozen
class ExpandTask:
    """Writes prompts for one idea. The language model is unloaded afterwards."""

    request: ExpandRequest
    spec: None = None
    requests: tuple[()] = ()

    def __call__(self, host: WorkerHost, run: Run) -> tuple[str, ...]:
        """Return the prompts that a complete request asks for."""
        expanding = Expanding.of(self.request, host.settings, host.plugins, host.device)
        failure = "the prompt could not be expanded"
        with wrap_plugin_errors(failure), saying_out_of_memory(failure, host.device):
            expanding.check()
            host.make_available(expanding.size_bytes())
            return expanding.write(run)


class ExpandKind(JobKind):
    """Prompt expansion: detailed prompts from short ones."""

    name = "expand"
    request_class = ExpandRequest
    response_class = ExpandResponse

    def prepare(self, request: ExpandRequest, models: Models) -> Prepared:
        """Return the request with model, family and seed filled in.

        `model` need not be downloaded, because only its name and family are used. Raises the errors that the expander
        can detect before it runs.
        """
        spec = _target(request, models)
        completed = attrs.evolve(
            request,
            model=spec.name if spec is not None else None,
            model_family=spec.family if spec is not None else request.model_family or _first_family(models),
            seed=request.seed if request.seed is not None else secrets.randbits(_RANDOM_SEED_BITS),
        )
        try:
            _check(completed, models)
        except (ModelNotFoundError, ValidationError):
            substitute = _for_installed_expander(completed, models)
            if substitute is None:
                raise
            _check(substitute, models)
            warning = (
                f"written by the language model of {substitute.model}, the only one that is installed; it may know "
                f"the family {completed.model_family} badly"
            )
            return Prepared(request=substitute, warnings=(warning,))
        return Prepared(request=completed)

    def run(self, jobs: Sequence[Job], context: RunContext) -> None:
        """Expand the prompts of each job."""
        for job in jobs:
            if job.finished:
                continue
            try:
                request: ExpandRequest = job.request
                prompts = context.worker.run(ExpandTask(request), BatchRun([job]))
                response = ExpandResponse(
                    original=request.prompt, expanded=prompts, seed_used=request.seed, warnings=job.warnings or None
                )
                context.deliver(job, response)
            except WorkerError:
                raise
            except Exception as error:
                fail_jobs([job], error)


def _check(request: ExpandRequest, models: Models) -> None:
    """Raise the errors that the expander of a complete request can detect before it runs."""
    with wrap_plugin_errors("the prompt could not be expanded"):
        Expanding.of(request, models.settings, models.plugins).check()


def _for_installed_expander(request: ExpandRequest, models: Models) -> ExpandRequest | None:
    """Return a request that names only a family, changed to name an installed model that includes an expander.

    Returns None if a model is named, an expander is configured, or no such model is installed.
    """
    if request.model is not None or models.settings.expand_backend != "local" or not models.settings.expand_own:
        return None
    able = (spec for spec in models.plugins.models.values() if spec.expander and models.store.has(spec))
    return next((attrs.evolve(request, model=spec.name) for spec in able), None)


def _first_family(models: Models) -> str:
    """Return the family that prompts are written for if neither model nor family is known."""
    return next(iter(models.plugins.families), "default")


def _target(request: ExpandRequest, models: Models) -> ModelSpec | None:
    """Return the model that prompts are for: the named one, or the default if no family is named either."""
    if request.model:
        return models.resolve(request.model)
    try:
        return None if request.model_family else models.default().spec
    except ModelNotFoundError:
        return None  # prompts can be written even if no model is installed


def check_expansion(request: GenerateRequest, models: Models) -> None:
    """Raise the errors that can be detected now of a generate request whose prompt will be expanded."""
    with wrap_plugin_errors("the prompt could not be expanded"):
        Expanding.of(_expand_requests(request, models)[0], models.settings, models.plugins).check()


def expand_prompts(job: Job, worker: Worker, models: Models) -> tuple[str, ...]:
    """Return a prompt for each image of a job, or none if the job requests no expansion.

    Each prompt depends on the seed of its image: requested alone, the image gets the same prompt.
    """
    request: GenerateRequest = job.request
    if not request.expand:
        return ()
    prompts: list[str] = []
    run = BatchRun([job])
    for expand_request in _expand_requests(request, models):
        prompts += worker.run(ExpandTask(expand_request), run)
    for prompt in prompts:
        job.report(Info(message=f"expanded to: {prompt}"))
    return tuple(prompts)


def _expand_requests(request: GenerateRequest, models: Models) -> list[ExpandRequest]:
    """Return expand requests that together yield one prompt per image."""
    assert request.seed is not None  # the request is complete
    family = models.resolve(request.model).family
    return [
        ExpandRequest(
            prompt=request.prompt,
            model=request.model,
            model_family=family,
            variations=min(_MOST_VARIATIONS, request.batch_size - first),
            seed=(request.seed + first) % (MAX_SEED + 1),
        )
        for first in range(0, request.batch_size, _MOST_VARIATIONS)
    ]
