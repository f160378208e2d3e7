"""A batch of small images is shared among threads: the same images, the same steps, one error."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import nn

from mold_core import CancelledError, DenoiseStep, Engine, GenerateRequest, GenerateResponse, ProgressEvent, Settings
from mold_core.media.images import decode_image
from mold_core.weights import PackedLinear, PackedTensor
from mold_core.weights.types import GGUF_TYPES
from mold_flux.thread_parallel import can_share, shares, thread_parallel

NANO = "flux-nano:bf16"


def test_images_are_shared_as_equally_as_can_be() -> None:
    assert shares(8, 2) == [slice(0, 4), slice(4, 8)]
    assert shares(8, 3) == [slice(0, 2), slice(2, 5), slice(5, 8)]
    assert shares(2, 16) == [slice(0, 1), slice(1, 2)]
    assert shares(5, 1) == shares(5, 0) == [slice(0, 5)]


def test_parts_are_worked_on_at_the_same_time_and_put_together_in_order() -> None:
    meeting = threading.Barrier(3, timeout=120)

    def work(part: slice, check: Callable[[], None]) -> tuple[int, bool, int]:
        meeting.wait()  # breaks unless all three are here
        return part.start, torch.is_inference_mode_enabled(), torch.get_num_threads()

    before = torch.get_num_threads()
    try:
        assert thread_parallel(work, shares(9, 3)) == [(0, True, 1), (3, True, 1), (6, True, 1)]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("failing", [0, 1])
def test_the_error_of_one_part_ends_the_others_and_is_raised(failing: int) -> None:
    ended = []

    def work(part: slice, check: Callable[[], None]) -> None:
        if part.start == failing:
            raise CancelledError("enough")
        try:
            while True:
                check()
                time.sleep(0.001)
        finally:
            ended.append(part.start)

    with pytest.raises(CancelledError, match="enough"):
        thread_parallel(work, shares(2, 2))
    assert ended == [1 - failing]


def test_layers_with_memory_of_their_own_are_not_shared() -> None:
    dense = nn.Sequential(nn.Linear(32, 32))
    assert can_share(dense)
    blocks = torch.zeros(32, 34, dtype=torch.uint8)
    packed = PackedLinear(PackedTensor(data=blocks, type=GGUF_TYPES[8], shape=(32, 32)))
    assert not can_share(nn.Sequential(packed))
    dense[0].register_forward_pre_hook(lambda module, arguments: None)
    assert not can_share(dense)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(Settings(device="cpu", threads=3)) as engine:
        yield engine


def request(**fields: object) -> GenerateRequest:
    values = {"prompt": "a red house under a yellow moon", "model": NANO, "seed": 5, **fields}
    return GenerateRequest(**values)  # type: ignore[arg-type]


def pixels(response: GenerateResponse, index: int = 0) -> np.ndarray:
    return np.asarray(decode_image(response.images[index].data), dtype=np.int16)


def test_a_image_of_a_shared_batch_is_the_image_made_alone_within_rounding(engine: Engine) -> None:
    batch = engine.generate(request(batch_size=7))
    for index in range(7):
        difference = np.abs(pixels(batch, index) - pixels(engine.generate(request(seed=5 + index))))
        assert difference.mean() < 0.6
        assert np.quantile(difference, 0.999) <= 12


def test_steps_are_reported_once_each(engine: Engine) -> None:
    events: list[ProgressEvent] = []
    engine.generate(request(batch_size=6, steps=5), events.append)
    assert [event.step for event in events if isinstance(event, DenoiseStep)] == [1, 2, 3, 4, 5]


def test_a_shared_batch_can_be_cancelled(engine: Engine) -> None:
    with pytest.raises(CancelledError):
        engine.generate(request(batch_size=6, steps=100), lambda event: not isinstance(event, DenoiseStep))
    engine.generate(request())  # follows when the batch has ended
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("mold-share")]
