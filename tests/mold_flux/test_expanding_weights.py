"""Quantised weights are made dense where there is room for it and it is wished, and draw the same image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from nano_formats import nano_in
from torch import nn

from mold_core import Engine, GenerateRequest, LoadContext, Settings, plan_memory
from mold_core.placement.memory_plan import needed_bytes
from mold_core.settings import ExpandWeights
from mold_core.testing import RecordedRun
from mold_core.weights import PackedLinear

REQUEST = GenerateRequest(
    prompt="a red house under a yellow moon", model="flux-nano:bf16", width=128, height=128, steps=2, guidance=0.0,
    seed=7,
)  # fmt: skip


def drawn(folder: Path, wish: ExpandWeights, spare_bytes: int) -> tuple[type[nn.Module], Any]:
    """Return the kind of layer that flux-nano in Q8_0 is loaded with, and its image."""
    with Engine(Settings(device="cpu")) as engine:
        spec = nano_in("Q8_0", engine.resolve("flux-nano:bf16"), folder)
        family, files = engine.family_of(spec), engine.store.files_of(spec)
        context = LoadContext(
            device="cpu", threads=1, cache_dir=folder, report=lambda event: None, compile="off", expand_weights=wish
        )
        parts = family.components(spec, files, context)  # type: ignore[attr-defined]
        plan = plan_memory(parts, {"cpu": needed_bytes(parts, "eager")["cpu"] + spare_bytes})
        assert plan.strategy == "eager"

        pipeline: Any = family.load(spec, files, attrs.evolve(context, plan=plan))
    with pipeline.components.use("transformer", lambda event: None) as transformer:
        kind = type(transformer.double_blocks[0].img_attn.qkv)
    image = np.asarray(pipeline.generate([REQUEST], RecordedRun())[0].images[0], np.int16)
    pipeline.close()
    return kind, image


@pytest.mark.parametrize(
    ("wish", "spare_mb", "kind"),
    [
        ("never", 1000, PackedLinear),
        ("auto", 1000, nn.Linear),
        ("auto", 1, PackedLinear),
        ("always", 20, nn.Linear),
    ],
)
def test_weights_are_made_dense_where_it_is_wished_and_fits(
    tmp_path: Path, wish: ExpandWeights, spare_mb: int, kind: type[nn.Module]
) -> None:
    assert drawn(tmp_path, wish, spare_mb * 1_000_000)[0] is kind


def test_the_image_is_the_same(tmp_path: Path) -> None:
    packed, dense = (drawn(tmp_path, wish, 10**9)[1] for wish in ("never", "auto"))  # type: ignore[arg-type]
    assert np.abs(packed - dense).max() <= 1
