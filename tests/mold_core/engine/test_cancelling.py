"""Work is cancelled in the middle of a step, and a model that was interrupted anywhere is as good as before."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from mold_core import CancelledError, ExpandRequest, GenerateRequest, Settings, UpscaleRequest, load_plugins
from mold_core.engine.worker.local import LocalWorker
from mold_core.jobs.kinds.expand import ExpandTask
from mold_core.jobs.kinds.generate import GenerateTask
from mold_core.jobs.kinds.upscale import UpscaleTask
from mold_core.media.images import encode_image
from mold_core.testing import RecordedRun

pytest.importorskip("mold_nano")

PLACES = 6


class Interrupted(RecordedRun):
    """A run that is cancelled when it is asked for the time of number `at`."""

    def __init__(self, at: int | None = None) -> None:
        super().__init__()
        self.at = at
        self.asked = 0

    def check(self) -> None:
        """Count, and raise when the time has come."""
        self.asked += 1
        if self.asked == self.at:
            raise CancelledError("the job was cancelled")


@pytest.fixture(scope="module")
def worker() -> LocalWorker:
    return LocalWorker("cpu", Settings(threads=1, compile="off"), load_plugins(None))


def drawn(worker: LocalWorker, run: Any, **fields: Any) -> bytes:
    request = GenerateRequest(
        **{
            "prompt": "a red house",
            "model": "flux-nano:bf16",
            "width": 64,
            "height": 64,
            "steps": 2,
            "guidance": 1.0,
            "seed": 7,
            **fields,
        }
    )
    spec = load_plugins(None).models[str(request.model)]
    (frames,) = worker.run(GenerateTask(spec, [request]), run)
    return b"".join(image.tobytes() for image in frames.images)


def filmed(worker: LocalWorker, run: Any) -> bytes:
    return drawn(worker, run, model="ltx2-nano:bf16", frames=9, fps=8)


def enlarged(worker: LocalWorker, run: Any) -> bytes:
    from PIL import Image

    image = encode_image(Image.new("RGB", (200, 200), "red"), "png")
    request = UpscaleRequest(image=image, model="esrgan-nano-x4:fp32", tile_size=64)
    return worker.run(UpscaleTask(worker.plugins.models["esrgan-nano-x4:fp32"], request), run).image.data


def written(worker: LocalWorker, run: Any) -> bytes:
    request = ExpandRequest(prompt="a house", model="flux-nano:bf16", model_family="flux", variations=1, seed=3)
    return "".join(worker.run(ExpandTask(request), run)).encode()


@pytest.mark.parametrize(
    ("work", "more_than"),
    [(drawn, 40), (filmed, 40), (enlarged, 10), (written, 20)],
    ids=["drawn", "filmed", "enlarged", "written"],
)
def test_work_stops_wherever_it_is_and_the_model_is_as_good_as_before(
    worker: LocalWorker, work: Callable[[LocalWorker, Any], bytes], more_than: int
) -> None:
    work(worker, RecordedRun())  # loads the model
    undisturbed = Interrupted()
    expected = work(worker, undisturbed)
    assert undisturbed.asked > more_than
    for at in sorted(random.Random(5).sample(range(1, undisturbed.asked + 1), PLACES)):
        run = Interrupted(at)
        with pytest.raises(CancelledError):
            work(worker, run)
        assert run.asked == at
    assert work(worker, RecordedRun()) == expected


def test_loading_stops_between_two_tensors(worker: LocalWorker) -> None:
    spec = load_plugins(None).models["flux-nano:bf16"]
    worker.unload()
    undisturbed = Interrupted()
    worker.load(spec, undisturbed)
    assert undisturbed.asked > 100
    worker.unload()
    with pytest.raises(CancelledError):
        worker.load(spec, Interrupted(undisturbed.asked // 2))
    assert worker.loaded() == frozenset()
    assert drawn(worker, RecordedRun())
