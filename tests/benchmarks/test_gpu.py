"""The benchmark for GPUs counts true, keeps to its time, goes on where it ended, and runs whole on a processor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mold_flux.transformer import rope

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu" / "run.py"


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Import modules of the benchmark by name, and forget them afterwards."""
    from importlib import import_module

    monkeypatch.syspath_prepend(SCRIPT.parent)
    before = set(sys.modules)
    yield import_module
    for name in set(sys.modules) - before:
        if str(SCRIPT.parent) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def run(*arguments: str | Path, timeout_s: float = 500) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=environment)


def test_operations_are_those_that_torch_counts(modules: Any) -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    made = modules("random_flux")
    case = made.Case(config=made.SMALL, device="cpu", side_px=64, steps=1, text_tokens=8)
    transformer, inputs = made.random_transformer(case, None), made.Inputs.random(case)
    with torch.inference_mode():
        rotations = rope(case.config, 8, 4, 4)
        time, guidance = torch.tensor([0.5]), torch.tensor([3.5])
        conditioning = transformer.prepare(inputs.txt, inputs.pooled, time, guidance, rotations)
        # On a CPU torch counts attention only where it is made of matrix products.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            transformer.step(torch.zeros(1, 16, 64, dtype=torch.bfloat16), conditioning, 0)
    assert case.operations() == pytest.approx(counter.get_total_flops(), rel=1e-6)


def test_random_blocks_of_every_kind_are_small_numbers(modules: Any) -> None:
    for kind in modules("correctness").KINDS:
        blocks = modules("random_flux").random_blocks((64, 256), kind, "cpu", torch.Generator().manual_seed(1))
        numbers = blocks.expand()
        assert numbers.isfinite().all(), kind
        assert 0 < numbers.abs().max() < 2, kind


def test_wrong_and_lost_numbers_are_found(modules: Any) -> None:
    agree = modules("stage_setup").agree
    right = torch.arange(1.0, 9)
    assert agree("it", right, right, 0) == 0
    for wrong in (right * 1.02, right * float("nan"), -right):
        with pytest.raises(AssertionError, match=r"it is .* off"):
            agree("it", wrong, right, 0.01)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so() -> None:
    assert run().stdout == "skipped: this machine has no CUDA device (--device cpu --tiny runs the code on the CPU)\n"


def test_a_stage_that_takes_too_long_is_ended_and_tried_again_last(modules: Any, tmp_path: Path) -> None:
    Outcome, Results = modules("results").Outcome, modules("results").Results
    outcome = Outcome(**modules("run")._in_process("check steps", "cpu", True, tmp_path, 0.2))
    assert outcome.status == "out of time"
    results = Results.of(tmp_path / "results.json", "cpu", True)
    results.note("check steps", outcome)
    results.note("machine", Outcome(status="passed"))
    remaining = Results.of(tmp_path / "results.json", "cpu", True).remaining()
    assert "machine" not in remaining
    assert remaining[-1] == "check steps"
    # Results of another device or size are not gone on with.
    assert "machine" in Results.of(tmp_path / "results.json", "cuda:0", True).remaining()


def test_the_page_names_the_device_and_compares(modules: Any, tmp_path: Path) -> None:
    Outcome = modules("results").Outcome
    results = modules("results").Results.of(tmp_path / "results.json", "cuda:0", False)
    results.note("machine", Outcome(status="passed", figures={"device": "NVIDIA H200", "capability": "9.0"}))
    results.note("check loras", Outcome(status="failed", reason="AssertionError: two LoRAs is 9.00% off"))
    results.note("flux bf16", Outcome(status="passed", figures={"step s": 0.12}))
    results.note("diffusers eager", Outcome(status="passed", figures={"step s": 0.2}))
    page = modules("result_page").page(results)
    assert page.startswith("### NVIDIA H200\n")
    assert "| two LoRAs at once, and none after them | failed: AssertionError: two LoRAs is 9.00% off |" in page
    assert "| FLUX.1 bf16 ÷ diffusers eager | 0.600 | at most 0.63 |" in page
    assert "| FLUX.1 fp8 ÷ bf16 | not measured | at most 0.75 |" in page
    assert "| LTX-2 19B, bf16, 8 steps, compiled | not reached |  |" in page


@pytest.mark.soak
def test_it_runs_whole_on_a_processor_and_goes_on_where_it_ended(modules: Any, tmp_path: Path) -> None:
    tiny = ("--device", "cpu", "--tiny", "--out", tmp_path)
    assert "not reached" in run(*tiny, "--minutes", "0.2").stdout
    begun = json.loads((tmp_path / "results.json").read_text())["stages"]
    done = run(*tiny, "--minutes", "60", timeout_s=3600)
    assert done.returncode == 0, done.stdout
    stages = json.loads((tmp_path / "results.json").read_text())["stages"]
    assert set(stages) == {stage.name for stage in modules("stages").STAGES}
    assert all(stages[name] == outcome for name, outcome in begun.items() if outcome["status"] == "passed")
    skipped = {name for name, outcome in stages.items() if outcome["status"] == "skipped"}
    assert skipped == {"check out of memory"}
    page = (tmp_path / "results.md").read_text()
    assert "not reached" not in page
    assert "not measured" not in page
