"""Events look on the wire as the API page says."""

from __future__ import annotations

from typing import get_args

import attrs
import pytest

from mold_core import CacheHit, DenoiseStep, Info, Preview, ProgressEvent, Queued, StageDone, StageStart, WeightLoad
from mold_core.wire import ChainEvent, DownloadDone, DownloadProgress, PullComplete, event_type
from mold_core.wire.events import event_to_json


@pytest.mark.parametrize(
    ("event", "json"),
    [
        (Queued(position=1), {"type": "queued", "position": 1}),
        (StageStart(name="Loading"), {"type": "stage_start", "name": "Loading"}),
        (StageDone(name="Loading", elapsed_ms=12), {"type": "stage_done", "name": "Loading", "elapsed_ms": 12}),
        (Info(message="a"), {"type": "info", "message": "a"}),
        (CacheHit(resource="prompt"), {"type": "cache_hit", "resource": "prompt"}),
        (
            DenoiseStep(step=1, total=25, elapsed_ms=640),
            {"type": "denoise_step", "step": 1, "total": 25, "elapsed_ms": 640},
        ),
        (
            WeightLoad(bytes_loaded=1, bytes_total=2, component="vae"),
            {"type": "weight_load", "bytes_loaded": 1, "bytes_total": 2, "component": "vae"},
        ),
        (
            DownloadProgress(filename="a", file_index=1, total_files=2, bytes_downloaded=3, bytes_total=4),
            {
                "type": "download_progress",
                "filename": "a",
                "file_index": 1,
                "total_files": 2,
                "bytes_downloaded": 3,
                "bytes_total": 4,
                "batch_bytes_downloaded": 0,
                "batch_bytes_total": 0,
                "batch_elapsed_ms": 0,
            },
        ),
        (
            DownloadDone(filename="a", file_index=1, total_files=2, batch_bytes_downloaded=5),
            {
                "type": "download_done",
                "filename": "a",
                "file_index": 1,
                "total_files": 2,
                "batch_bytes_downloaded": 5,
                "batch_bytes_total": 0,
                "batch_elapsed_ms": 0,
            },
        ),
        (
            Preview(step=1, total=4, image=b"\xff\xd8", index=2),
            {"type": "preview", "step": 1, "total": 4, "image": "/9g=", "index": 2},
        ),
        (PullComplete(model="flux-dev:q4"), {"type": "pull_complete", "model": "flux-dev:q4"}),
    ],
)
def test_an_event_has_the_shape_of_the_page(event: ProgressEvent, json: dict[str, object]) -> None:
    assert event_to_json(event) == json


def test_every_event_has_a_type_of_its_own_but_for_those_of_chains() -> None:
    chains = set(get_args(ChainEvent))
    kinds = [kind for kind in get_args(ProgressEvent) if kind not in chains]
    assert len({event_type(kind) for kind in kinds}) == len(kinds)
    assert len({event_type(kind) for kind in chains}) == len(chains) == 5


@pytest.mark.parametrize("kind", get_args(ProgressEvent))
def test_events_cannot_be_changed(kind: type) -> None:
    event = kind(**{field.name: 1 for field in attrs.fields(kind) if field.default is attrs.NOTHING})
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(event, attrs.fields(kind)[0].name, 2)
