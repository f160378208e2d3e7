"""Kernels that torch writes for a GPU compile to machine code of every generation, where Triton is installed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import triton_compiling

from mold_core.weights import kernels

# Turing, Ampere, Ada, Hopper, Blackwell.
CAPABILITIES = ("75", "80", "89", "90", "100")


@pytest.mark.soak
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="soak: Triton is not installed")
@pytest.mark.parametrize("name", kernels.KERNELS)
def test_a_kernel_compiles_for_every_generation(name: str, tmp_path: Path) -> None:
    caches = {"TRITON_CACHE_DIR": str(tmp_path / "triton"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    done = subprocess.run(
        [sys.executable, triton_compiling.__file__, name, *CAPABILITIES],
        env={**os.environ, **caches, "TRITON_DEFAULT_FP_FUSION": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [capability for capability, *_ in lines] == list(CAPABILITIES)
    for _, *sizes in lines:
        assert sizes and all(int(size) > 1000 for size in sizes)
    print(name, done.stdout.replace("\n", "; "))
