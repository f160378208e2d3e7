"""The tasks of a chain: render a clip while earlier clips are decoded and encoded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs

from mold_core.cancelling import cancelled_by
from mold_core.catalog import ModelSpec
from mold_core.chains import ClipWork
from mold_core.chains.clips import encode_clip, render_clip
from mold_core.errors import CancelledError
from mold_core.hookspecs import ChainRenderer, Run
from mold_core.jobs.task import WorkerHost
from mold_core.jobs.within_memory import saying_out_of_memory
from mold_core.placement.device import use_device
from mold_core.plugin_errors import wrap_plugin_errors
from mold_core.wire import GenerateRequest

__all__ = ["EncodeClipTask", "RenderClipTask"]

log = logging.getLogger("mold.engine")


@attrs.frozen
class RenderClipTask:
    """Writes the latents of a clip to disk, and in parallel the frames of the rendered clips in `meanwhile`.

    A clip of `meanwhile` that cannot be decoded does not fail the task, because the cause may be a lack of memory. Its
    files are missing afterwards, and the kind decodes it alone.
    """

    spec: ModelSpec
    work: ClipWork
    meanwhile: Sequence[ClipWork] = ()

    @property
    def requests(self) -> tuple[GenerateRequest]:
        """The request of the clip."""
        return (self.work.request,)

    def __call__(self, host: WorkerHost, run: Run) -> None:
        """Render the clip."""
        spec, meanwhile = self.spec, self.meanwhile
        pipeline = host.pipeline(spec, run, self.requests)
        renderer, plan = host.plugins.chain_renderers[spec.family], host.plan_of(spec)
        if host.device == "cpu" or (plan is not None and not plan.fits_two()):
            # Memory does not suffice for both. PERF: on the CPU each uses all cores, and two sets of torch threads
            # wait for each other, so rendering would take twice as long.
            for other in meanwhile:
                _encode_or_skip(renderer, pipeline, other, run)
            meanwhile = ()
        with ThreadPoolExecutor(1, "mold-encode", use_device, (host.device,)) as thread:
            for other in meanwhile:
                thread.submit(_encode_or_skip, renderer, pipeline, other, run)
            failure = f"{spec.name} failed while rendering"
            with wrap_plugin_errors(failure), saying_out_of_memory(failure, host.device):
                render_clip(renderer, pipeline, self.work, run)


@attrs.frozen
class EncodeClipTask:
    """Writes the frames and the sound of a rendered clip to disk."""

    spec: ModelSpec
    work: ClipWork

    @property
    def requests(self) -> tuple[GenerateRequest]:
        """The request of the clip."""
        return (self.work.request,)

    def __call__(self, host: WorkerHost, run: Run) -> None:
        """Decode and encode the clip."""
        pipeline = host.pipeline(self.spec, run, self.requests)
        renderer, failure = host.plugins.chain_renderers[self.spec.family], f"{self.spec.name} failed while decoding"
        with wrap_plugin_errors(failure), saying_out_of_memory(failure, host.device):
            encode_clip(renderer, pipeline, self.work)


def _encode_or_skip(renderer: ChainRenderer, pipeline: Any, work: ClipWork, run: Run) -> None:
    try:
        with cancelled_by(run.check):
            encode_clip(renderer, pipeline, work)
    except CancelledError:
        pass  # the rendering of the other clip is cancelled too, and raises the error
    except (Exception, SystemExit) as error:
        log.warning("a clip could not be decoded while another rendered: %s: %s", type(error).__name__, error)
