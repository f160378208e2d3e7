"""The repeated blocks of LTX-2 run as compiled code, and quantised weights are dequantized once where there is room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from ltx2_loading import load, spec_of

from mold_core import GenerateRequest, LoadContext, LocalFiles, MemoryPlan
from mold_core.families.loading import _PlanLoader
from mold_core.testing import RecordedRun
from mold_core.weights.compiled_blocks import problem_of
from mold_ltx2.component_sizes import model_components
from mold_ltx2.loading import _Networks, compile_transformer

CLIP = GenerateRequest(
    prompt="a red ball flies", width=64, height=32, frames=9, fps=25, seed=3, steps=2, guidance=1.0, enable_audio=False
)


class Compiler:
    """Counts the graphs it gets; compiles nothing."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: object) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own modules
def test_compiled_blocks_give_the_same_clip(files: dict[str, Path]) -> None:
    torch._dynamo.reset()
    pipeline = load({name: path for name, path in files.items() if name != "spatial_upscaler"})
    (plain,) = pipeline.generate([CLIP], RecordedRun())
    compiler = Compiler()
    with pipeline.components.use("transformer", lambda event: None) as transformer:
        compile_transformer(transformer, backend=compiler)
        (compiled,) = pipeline.generate([CLIP], RecordedRun())
        assert problem_of(transformer) is None
        assert transformer.compilation.works
        blocks = len(transformer.transformer_blocks)
    assert blocks > 1
    assert 1 <= compiler.graphs <= 2  # not one for each block
    assert [image.tobytes() for image in compiled.images] == [image.tobytes() for image in plain.images]
    pipeline.close()


@pytest.mark.parametrize(
    ("choice", "room", "dense"), [("auto", 10**12, True), ("auto", 0, False), ("never", 10**12, False)]
)
def test_there_must_be_room_for_weights_that_are_dequantized_once(
    files: dict[str, Path], choice: Any, room: int, dense: bool
) -> None:
    paths = LocalFiles({name: (path,) for name, path in files.items()})
    context = LoadContext(device="cpu", threads=1, cache_dir=Path("/nowhere"), report=lambda event: None)
    context = attrs.evolve(context, expand_weights=choice)
    spec = spec_of(files)
    parts = model_components(spec, paths, context)
    plan = MemoryPlan(strategy="eager", components=parts, available_bytes={"cpu": room})
    loader = _PlanLoader(plan, context, _Networks(spec, paths, context, plan).component)
    within = loader._dequantize_within("transformer", loader._build("transformer"))
    assert (within is not None and within > 2 * plan.held_bytes("transformer")) is dense
