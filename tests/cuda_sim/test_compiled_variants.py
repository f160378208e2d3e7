"""Every variant of every model is compiled, and one that is not says so."""

from __future__ import annotations

import gc
import logging
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mold_core.weights import compiled_blocks, with_loras_applied
from mold_core.weights.lora_linear import LoraDelta, LoraUp
from mold_flux.compile import compile_blocks, problem_of
from mold_flux.transformer import FluxConfig, FluxTransformer, rope

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own modules

CONFIG = FluxConfig(
    hidden_size=32, heads=1, depth_double=1, depth_single=1, context_dim=16, pooled_dim=16, axes_dim=(8, 12, 12)
)


class Compiler:
    """Counts the graphs it gets, and the tag that compiled code would be cached under; compiles nothing."""

    def __init__(self) -> None:
        self.graphs = 0
        self.tags: set[str] = set()

    def __call__(self, graph: torch.fx.GraphModule, inputs: object) -> Callable[..., Any]:
        self.graphs += 1
        self.tags.add(torch.compiler.config.cache_key_tag)  # type: ignore[attr-defined]
        return graph.forward


def model(compiler: Compiler | None = None, attention: str = "default") -> FluxTransformer:
    torch.manual_seed(3)
    transformer = FluxTransformer(CONFIG).eval().requires_grad_(False)
    if compiler is not None:
        compile_blocks(transformer, backend=compiler, attention=attention)
    return transformer


def velocity(transformer: FluxTransformer, side: int = 4, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    with torch.inference_mode():
        return transformer(
            torch.randn(batch, side * side, 64, generator=generator),
            torch.randn(batch, 6, 16, generator=generator),
            torch.randn(batch, 16, generator=generator),
            torch.tensor([0.5]),
            torch.full((batch,), 3.5),
            rope(CONFIG, 6, side, side),
        )


def lora(transformer: FluxTransformer, rank: int) -> tuple[dict[str, LoraDelta], float]:
    torch.manual_seed(rank)
    layers = {
        name: layer
        for name, layer in transformer.named_modules()
        if isinstance(layer, nn.Linear) and "_blocks" in name and "mod" not in name
    }
    return {
        name: LoraDelta(
            down=torch.randn(rank, layer.in_features),
            ups=(LoraUp(weight=torch.randn(layer.out_features, rank), first=0, ranks=slice(0, rank)),),
        )
        for name, layer in layers.items()
    }, 0.1


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()


def test_a_model_has_variants_of_its_own_and_one_too_many_is_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compiled_blocks, "_MOST_VARIANTS", 2)
    first, second = Compiler(), Compiler()
    one, other = model(first), model(second)
    for side, batch in ((4, 1), (4, 2)):
        velocity(one, side, batch)
    assert (first.graphs, problem_of(one)) == (4, None)
    with with_loras_applied(one, [lora(one, 2)]), caplog.at_level(logging.WARNING, "mold.weights"):
        slow = velocity(one)
    told = problem_of(one)
    assert told is not None and "compiled blocks are not used" in told
    assert problem_of(one) is None  # once is enough
    assert [record.name for record in caplog.records].count("mold.weights") == 1
    plain = model()
    with with_loras_applied(plain, [lora(plain, 2)]):
        assert torch.allclose(slow, velocity(plain), atol=1e-5)
    # Another model begins with nothing counted against it.
    velocity(other)
    assert (second.graphs, problem_of(other)) == (2, None)


def test_compiled_code_is_cached_by_the_kernel_of_attention_in_it() -> None:
    seen = []
    for attention in ("cudnn", "math"):
        compiler = Compiler()
        velocity(model(compiler, attention))
        seen.append(compiler.tags)
    assert seen == [{"mold-cudnn"}, {"mold-math"}]


def test_compiled_code_is_kept_in_the_folder_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, "")  # so that it is as before afterwards
        monkeypatch.delenv(name)
    compile_blocks(model(), backend="eager", cache_dir=tmp_path)
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).is_relative_to(tmp_path)
    assert Path(os.environ["TRITON_CACHE_DIR"]).is_relative_to(tmp_path)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/mine")
    compile_blocks(model(), backend="eager", cache_dir=tmp_path)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/mine"


def test_what_torch_was_told_before_holds_again_after_a_step() -> None:
    before = torch._dynamo.config.recompile_limit, torch._dynamo.config.fail_on_recompile_limit_hit
    velocity(model(Compiler()))
    assert (torch._dynamo.config.recompile_limit, torch._dynamo.config.fail_on_recompile_limit_hit) == before


@pytest.mark.soak
def test_sizes_batches_adapters_and_models_are_all_compiled() -> None:
    for _ in range(2):
        compiler = Compiler()
        transformer = model(compiler)
        for side, batch in ((4, 1), (5, 1), (6, 1), (4, 2), (4, 3)):
            velocity(transformer, side, batch)
        for rank in (2, 3, 4, 5, 6, 7):
            before = compiler.graphs
            with with_loras_applied(transformer, [lora(transformer, rank)]):
                velocity(transformer)
            assert compiler.graphs == before + 2
        assert problem_of(transformer) is None
        print(f"{compiler.graphs} graphs")


def test_compiled_code_is_gone_with_its_model() -> None:
    """CUDA frees the memory of recorded graphs with the last compiled function that has one."""
    kept: list[weakref.ref[Any]] = []

    def compiler(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., Any]:
        def compiled(*arguments: Any) -> Any:
            return graph.forward(*arguments)

        kept.append(weakref.ref(compiled))
        return compiled

    transformer = model()
    compile_blocks(transformer, backend=compiler)
    velocity(transformer)
    assert len(kept) == 2 and all(function() is not None for function in kept)
    del transformer
    gc.collect()
    assert all(function() is None for function in kept)
