"""Progress on a pretend GPU: a step is reported when the one before it has been computed."""

from __future__ import annotations

import torch
from pretend_cuda import pretend_cuda

from mold_core.families import StepReporter
from mold_core.testing import RecordedRun


def test_progress_is_at_most_one_step_ahead_of_the_gpu() -> None:
    computed: list[int] = []
    with pretend_cuda() as gpu:

        class Run(RecordedRun):
            def step(self, step: int, total: int, elapsed_ms: int) -> None:
                computed.append(gpu.host[gpu.default])
                super().step(step, total, elapsed_ms)

        steps, latents = StepReporter(Run(), 4, "cuda:0"), torch.ones(2).to("cuda:0")
        queued = []
        for _ in range(4):
            latents = latents * 2
            queued.append(gpu.default.clock[gpu.default])
            steps.advance()
    # The GPU has computed what was queued up to the step before, and the host has not waited for more.
    assert computed == [0, *queued[:3]]
