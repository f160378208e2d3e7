"""The benchmark for GPUs counts true, passes over machines without one, and its code runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mold_flux.transformer import rope

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_flux.py"


@pytest.fixture
def gpu_flux(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import gpu_flux

    return gpu_flux  # type: ignore[no-any-return]


def test_operations_are_those_that_torch_counts(gpu_flux: ModuleType) -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    case = gpu_flux.Case(config=gpu_flux.TINY, device="cpu", side_px=64, steps=1, runs=1, text_tokens=8)
    transformer = gpu_flux.random_transformer(case, None)
    inputs = gpu_flux.Inputs.random(case)
    with torch.inference_mode():
        rotations = rope(case.config, 8, 4, 4)
        time, guidance = torch.tensor([0.5]), torch.tensor([3.5])
        conditioning = transformer.prepare(inputs.txt, inputs.pooled, time, guidance, rotations)
        # On a CPU torch counts attention only where it is made of matrix products.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            transformer.step(torch.zeros(1, 16, 64, dtype=torch.bfloat16), conditioning, 0)
    assert case.operations() == pytest.approx(counter.get_total_flops(), rel=1e-6)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K", "F8_E4M3"])
def test_random_blocks_are_small_numbers(gpu_flux: ModuleType, kind: str) -> None:
    numbers = gpu_flux.random_blocks((64, 256), kind, "cpu", torch.Generator().manual_seed(1)).expand()
    assert numbers.isfinite().all()
    assert 0 < numbers.abs().max() < 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so(
    gpu_flux: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_flux.py"])
    gpu_flux.main()
    assert capsys.readouterr().out == "skipped: this machine has no CUDA device (--tiny runs the code on the CPU)\n"


@pytest.mark.soak
def test_its_code_runs_at_a_tiny_size() -> None:
    command = [sys.executable, SCRIPT, "--tiny", "--backend", "eager", "--runs", "1", "--steps", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=500)
    lines = done.stdout.splitlines()
    assert len([line for line in lines if " step " in line]) == 10  # four formats and diffusers, each also compiled
    assert json.loads(lines[-1])["name"] == "gpu_flux"
