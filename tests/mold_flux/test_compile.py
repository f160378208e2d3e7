"""Compiled blocks give what the others give, and whatever fails costs speed alone."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from mold_flux import compile
from mold_flux.compile import compile_blocks, fast_attention, worth_compiling
from mold_flux.transformer import FluxConfig, FluxTransformer, rope

CONFIG = FluxConfig(
    hidden_size=64, heads=2, depth_double=2, depth_single=2, context_dim=32, pooled_dim=16, axes_dim=(8, 12, 12)
)


def network() -> FluxTransformer:
    torch.manual_seed(3)
    return FluxTransformer(CONFIG).eval().requires_grad_(False)


def velocity(transformer: FluxTransformer, side: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    with torch.inference_mode():
        return transformer(
            torch.randn(1, side * side, 64, generator=generator),
            torch.randn(1, 6, 32, generator=generator),
            torch.randn(1, 16, generator=generator),
            torch.tensor([0.5]),
            torch.tensor([3.5]),
            rope(CONFIG, 6, side, side),
        )


def test_real_rotations_are_the_complex_ones() -> None:
    plain, real = network(), network()
    real.real_rope = True
    assert torch.allclose(velocity(plain), velocity(real), atol=1e-6)


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own modules, when its compiler is imported
@pytest.mark.parametrize("side", [4, 6])
def test_compiled_blocks_give_the_same(side: int, caplog: pytest.LogCaptureFixture) -> None:
    compiled = network()
    compile_blocks(compiled)
    with caplog.at_level(logging.WARNING):
        assert torch.allclose(velocity(network(), side), velocity(compiled, side), atol=1e-5)
    assert not caplog.records


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_queries_and_keys_stay_out_of_memory_in_fp32() -> None:
    import re

    from torch._inductor.utils import run_and_get_code

    transformer, tokens = network().bfloat16(), 6 + 16
    transformer.real_rope = True
    seen: list[tuple[object, ...]] = []
    block = transformer.single_blocks[0]
    block.register_forward_pre_hook(lambda module, arguments: seen.append(arguments))
    with torch.inference_mode():
        half = [torch.zeros(*shape, dtype=torch.bfloat16) for shape in ((1, 16, 64), (1, 6, 32), (1, 16))]
        transformer(*half, torch.tensor([0.5]), torch.tensor([3.5]), rope(CONFIG, 6, 4, 4))
    with torch.no_grad():
        arguments = [part.clone() if isinstance(part, Tensor) else part for part in seen[0]]
        _, codes = run_and_get_code(torch.compile(type(block).forward), block, *arguments)
    shapes = re.findall(r"empty_strided_cpu\(\(([^)]*)\), \([^)]*\), torch.float32\)", "".join(codes))
    sizes = [torch.Size(int(part) for part in shape.split(",") if part.strip()).numel() for shape in shapes]
    assert sizes
    assert max(sizes) < tokens * CONFIG.hidden_size * 2


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiler_sees_blocks_without_a_break(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> object:
        calls.append(len(graph.graph.nodes))
        return graph.forward

    compile_ = torch.compile
    monkeypatch.setattr(
        compile.torch, "compile", lambda function, **options: compile_(function, backend=backend, fullgraph=True)
    )
    compiled = network()
    compile_blocks(compiled)
    assert torch.allclose(velocity(network()), velocity(compiled), atol=1e-6)
    assert 2 <= len(calls) <= 4  # one graph for each kind of block, and not one for each block of a large model


def test_a_compiler_that_fails_costs_speed_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(function: object, **options: object) -> object:
        def fail(*arguments: object) -> None:
            raise RuntimeError("no compiler\nand many words")

        return fail

    monkeypatch.setattr(compile.torch, "compile", broken)
    compiled = network()
    compile_blocks(compiled)
    with caplog.at_level(logging.WARNING):
        assert torch.allclose(velocity(network()), velocity(compiled), atol=1e-6)
    assert [record.getMessage() for record in caplog.records] == [
        "compiled blocks are not used: RuntimeError: no compiler"
    ]


def test_memory_that_runs_out_is_no_fault_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(compile.torch, "compile", lambda function, **options: full)
    compiled = network()
    compile_blocks(compiled)
    with pytest.raises(torch.OutOfMemoryError):
        velocity(compiled)


@pytest.mark.parametrize(
    ("mode", "device", "gigabytes", "expected"),
    [
        ("auto", "cpu", 24, False),
        ("auto", "cuda", 24, True),
        ("auto", "cuda:1", 0.1, False),
        ("on", "cpu", 0.1, True),
        ("off", "cuda", 24, False),
    ],
)
def test_large_models_on_cuda_are_compiled(mode: str, device: str, gigabytes: float, expected: bool) -> None:
    assert worth_compiling(mode, device, int(gigabytes * 1e9)) is expected


def test_the_choice_of_attention_leaves_the_cpu_alone() -> None:
    with fast_attention("cpu", "cudnn"):
        assert velocity(network()).isfinite().all()


def test_the_order_of_attention_is_that_of_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.nn import attention

    seen: list[list[str]] = []

    def kernel(backends: list[object], set_priority: bool) -> object:
        from contextlib import nullcontext

        seen.append([str(backend).rpartition(".")[2] for backend in backends])
        return nullcontext()

    monkeypatch.setattr(attention, "sdpa_kernel", kernel)
    for capability, choice in (((9, 0), "auto"), ((8, 9), "auto"), ((8, 9), "flash")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, it=capability: it)
        with fast_attention("cuda", choice):
            pass
    assert [names[0] for names in seen] == ["CUDNN_ATTENTION", "FLASH_ATTENTION"]
