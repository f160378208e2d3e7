"""Loading says how far it is, and what it compiles, as it goes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gguf_files import write_gguf
from sparse_files import write_sparse
from torch import nn

from mold_core import ProgressEvent, StageDone, StageStart, WeightLoad
from mold_core.weights import LoadProgress, empty_modules, load_weights, read_weights


def network(layers: int, width: int) -> nn.Module:
    with empty_modules():
        return nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(layers)))


def test_bytes_are_reported_as_they_come(tmp_path: Path) -> None:
    layers, width = 30, 4096
    path = write_sparse(tmp_path / "x", {f"{n}.weight": ("BF16", (width, width)) for n in range(layers)})
    size_bytes, events = layers * width * width * 2, list[ProgressEvent]()
    progress = LoadProgress(events.append, "transformer", size_bytes, size_bytes + 1000, 1000)
    load_weights(network(layers, width), read_weights(path), path, dtype=torch.bfloat16, progress=progress)
    progress.finish()
    loads = [event for event in events if isinstance(event, WeightLoad)]
    assert loads == events
    assert 10 <= len(loads) <= 51
    loaded = [event.bytes_loaded for event in loads]
    assert loaded == sorted(set(loaded))
    assert loaded[0] < 0.1 * size_bytes
    assert loaded[-1] == loads[-1].bytes_total == size_bytes + 1000


def test_a_small_part_is_one_event(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "x", {f"{n}.weight": ("BF16", (8, 8)) for n in range(5)})
    events: list[ProgressEvent] = []
    progress = LoadProgress(events.append, "vae", 640, 640)
    load_weights(network(5, 8), read_weights(path), path, progress=progress)
    progress.finish()
    assert events == [WeightLoad(bytes_loaded=640, bytes_total=640, component="vae")]


def test_compiling_is_told_before_it_begins_also_where_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    write_gguf(tmp_path / "x", {"0.weight": torch.zeros(64, 64)}, {"0.weight": "Q4_0"})
    events: list[ProgressEvent] = []
    progress = LoadProgress(events.append, "transformer", 640, 640)
    load_weights(network(1, 64), read_weights(tmp_path / "x"), "x", compile="on", cache_dir=tmp_path, progress=progress)
    told = [event for event in events if isinstance(event, StageStart | StageDone)]
    assert [event.name for event in told] == ["Compiling the kernel for Q4_0, once on this machine"] * 2
