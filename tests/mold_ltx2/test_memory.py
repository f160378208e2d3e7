"""However LTX-2 is held in memory, it makes the same clip, and takes what the plan says."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from ltx2_loading import load, spec_of

from mold_core import CacheHit, GenerateRequest, LoadContext, LocalFiles, MemoryPlan, WeightLoad, plan_memory
from mold_core.chains import ClipFiles, ClipWork, render_clip
from mold_core.media.preview import PreviewFrames
from mold_core.placement.memory_plan import needed_bytes
from mold_core.testing import RecordedRun
from mold_ltx2.chain import Ltx2ChainRenderer
from mold_ltx2.family import Ltx2Family

REQUEST = GenerateRequest(
    prompt="a red ball flies", width=64, height=32, frames=17, fps=25, seed=3, steps=4, guidance=3.0, enable_audio=True
)


def plan(files: dict[str, Path], strategy: Any = None, room: dict[str, int] | None = None) -> MemoryPlan:
    context = LoadContext(device="cpu", threads=1, cache_dir=Path("/nowhere"), report=lambda event: None)
    local = LocalFiles({name: (path,) for name, path in files.items()})
    return plan_memory(Ltx2Family().components(spec_of(files), local, context), room or {}, strategy)


class Watching(RecordedRun):
    """Notes the most that a pipeline holds, and which parts, at every event."""

    def __init__(self, pipeline: Any) -> None:
        super().__init__()
        self.pipeline = pipeline
        self.most = 0
        self.held: list[tuple[str, ...]] = []

    def report(self, event: Any) -> None:
        super().report(event)
        self._look()

    def step(self, step: int, total: int, elapsed_ms: int) -> None:
        self._look()
        super().step(step, total, elapsed_ms)

    def before(self, drop: Callable[[str], None]) -> Callable[[str], None]:
        """Return what looks, and then drops a part."""

        def looked(name: str) -> None:
            self._look()
            drop(name)

        return looked

    def _look(self) -> None:
        self.most = max(self.most, self.pipeline.size_bytes)
        self.held.append(self.pipeline.components.names)


def made(pipeline: Any, run: RecordedRun | None = None) -> Any:
    (frames,) = pipeline.generate([REQUEST], run or RecordedRun())
    return frames


@pytest.mark.parametrize("strategy", ["sequential", "offload"])
def test_a_strategy_does_not_change_the_clip(strategy: str, files: dict[str, Path]) -> None:
    whole, parted = made(load(files)), made(load(files, plan=plan(files, strategy)))
    assert [image.tobytes() for image in whole.images] == [image.tobytes() for image in parted.images]
    assert (whole.sound.samples == parted.sound.samples).all()


@pytest.mark.parametrize("strategy", ["eager", "sequential", "offload"])
def test_a_pipeline_takes_what_its_plan_says(
    strategy: str, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = plan(files, strategy)
    pipeline = load(files, plan=held)
    run = Watching(pipeline)
    monkeypatch.setattr(pipeline.components, "drop", run.before(pipeline.components.drop))
    made(pipeline, run)
    weights = {
        "eager": sum(part.size_bytes for part in held.components),
        "sequential": max(part.size_bytes for part in held.components),
        "offload": max(held.held_bytes(part.name) for part in held.components),
    }[strategy]
    assert run.most == pytest.approx(weights, rel=0.02)
    assert run.most <= pipeline.peak_bytes


def test_parts_are_told_with_what_they_take(files: dict[str, Path]) -> None:
    parts = {part.name: part for part in plan(files).components}
    assert list(parts) == [
        "text_encoder", "connectors", "transformer", "vae", "audio_vae", "vocoder", "spatial-x2"
    ]  # fmt: skip
    assert {name for name, part in parts.items() if part.streamed_bytes} == {"text_encoder", "transformer"}
    eager, sequential, offload = (
        needed_bytes(tuple(parts.values()), strategy)["cpu"] for strategy in ("eager", "sequential", "offload")
    )
    assert eager > sequential >= offload


def test_gemma_is_gone_before_the_transformer_comes(files: dict[str, Path]) -> None:
    pipeline = load(files, plan=plan(files, "sequential"))
    run = Watching(pipeline)
    made(pipeline, run)
    assert ("transformer",) in run.held
    assert all(len(names) <= 1 for names in run.held)
    assert pipeline.size_bytes == 0


def test_a_known_prompt_needs_no_gemma(files: dict[str, Path]) -> None:
    pipeline = load(files, plan=plan(files, "sequential"))
    made(pipeline)
    run = RecordedRun()
    made(pipeline, run)
    assert CacheHit(resource="prompt conditioning") in run.events
    assert "text_encoder" not in [event.component for event in run.events if isinstance(event, WeightLoad)]


def test_the_prompts_of_a_chain_bring_gemma_once(files: dict[str, Path], tmp_path: Path) -> None:
    pipeline, run = load(files, plan=plan(files, "sequential")), RecordedRun()
    requests = [attrs.evolve(REQUEST, prompt=prompt) for prompt in ("a red ball", "a blue boat", "the sea")]
    before: ClipFiles | None = None
    for index, request in enumerate(requests):
        names = ("latents", "video", "sound", "faded", "preview")
        clip = ClipFiles(**{name: tmp_path / f"{index}.{name}" for name in names})
        later = tuple(requests[index + 1 :])
        work = ClipWork(
            request=request,
            files=clip,
            before=before,
            overlap=9 if before else 0,
            frames=8,
            preview_frames=PreviewFrames(1),
            later=later,
        )
        render_clip(Ltx2ChainRenderer(), pipeline, work, run)
        before = clip
    loaded = [event.component for event in run.events if isinstance(event, WeightLoad)]
    assert loaded.count("text_encoder") == loaded.count("connectors") == 1
    assert loaded.count("transformer") > 3


def test_files_that_are_not_here_are_measured_by_the_catalog() -> None:
    from mold_ltx2.plugin import mold_models

    spec = next(spec for spec in mold_models() if spec.name == "ltx-2-19b-distilled:fp8")
    files = LocalFiles({file.component: (Path("/nowhere") / file.path,) for file in spec.files})
    context = LoadContext(device="cuda", threads=1, cache_dir=Path("/nowhere"), report=lambda event: None)
    parts = {part.name: part for part in Ltx2Family().components(spec, files, context)}
    assert parts["text_encoder"].size_bytes == pytest.approx(24.4e9, rel=0.01)
    assert sum(part.size_bytes for part in parts.values()) == pytest.approx(24.4e9 + 27.1e9 + 1e9, rel=0.02)
    assert parts["transformer"].streamed_bytes == pytest.approx(1.3e9, rel=0.2)


def test_a_tiled_clip_shows_every_frame_where_the_whole_one_does(
    one_stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mold_ltx2 import tiles

    latents = torch.randn(1, 16, 15, 29, 6, generator=torch.Generator().manual_seed(0))
    with one_stage.components.use("vae", lambda event: None) as vae:
        whole = torch.cat(list(tiles.decoded(vae, latents)), 1)
        monkeypatch.setattr(tiles, "TILE_PX_FRAMES", 1000)
        tiled = torch.cat(list(tiles.decoded(vae, latents)), 1)
    assert tiled.shape == whole.shape == (3, 113, 232, 48)
    off = (tiled - whole).abs()
    moved = (tiled[:, 1:] - whole[:, :-1]).abs()
    # What is far from where a tile ends has all its context.
    assert float(off[:, :20, :60].mean()) < 1e-3
    assert float(off.mean()) < 0.2 * float(moved.mean())


def test_a_video_encoded_in_tiles_has_the_latents_of_the_whole(one_stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mold_ltx2 import tiles

    pixels = torch.randn(1, 3, 113, 232, 48, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    with one_stage.components.use("vae", lambda event: None) as vae, torch.inference_mode():
        whole = tiles.encoded(vae, pixels)
        monkeypatch.setattr(tiles, "TILE_PX_FRAMES", 1000)
        tiled = tiles.encoded(vae, pixels)
    assert tiled.shape == whole.shape == (1, 16, 15, 29, 6)
    off = (tiled - whole).abs()
    assert float(off[:, :, :9, :4].max()) < 1e-3  # far from where the first tile ends
    moved = (whole[:, :, 1:] - whole[:, :, :-1]).abs()
    assert float(off.mean()) < 0.3 * float(moved.mean())


@pytest.mark.parametrize("length", [1, 16, 17, 29, 30, 43, 60])
def test_tiles_cover_everything_and_none_is_thin(length: int) -> None:
    from mold_ltx2.tiles import _spans

    spans = _spans(length, 16, 3)
    assert spans[0][0] == 0 and spans[-1][1] == length
    assert len({last - first for first, last in spans}) == 1
    assert all(before[1] - after[0] >= 3 for before, after in pairwise(spans))
