"""Each part computes in a type that its device multiplies and its numbers fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mold_core import Engine, GenerateRequest, LoadContext, ModelSpec, Settings
from mold_core.weights import dtypes, fast_dtype, overflows_fp16, wide_dtype
from mold_core.weights.blocks32 import f8_e4m3
from mold_flux import loading
from mold_flux.components import COMPONENTS, dtype_of
from mold_flux.transformer import FluxConfig, FluxTransformer, rope
from mold_ltx2 import dtypes as ltx2_dtypes

CONFIG = FluxConfig(
    hidden_size=64, heads=2, depth_double=2, depth_single=2, context_dim=32, pooled_dim=16, axes_dim=(8, 12, 12)
)


@pytest.mark.parametrize(
    ("device", "capability", "fast", "wide"),
    [
        ("cuda:0", (7, 0), "float16", "float32"),  # V100
        ("cuda:0", (7, 5), "float16", "float32"),  # T4, the 20 series
        ("cuda:1", (8, 0), "bfloat16", "bfloat16"),
        ("cuda:0", (9, 0), "bfloat16", "bfloat16"),
        ("cuda:0", None, "bfloat16", "bfloat16"),
        ("mps", None, "bfloat16", "bfloat16"),
    ],
)
def test_half_types_are_those_that_the_device_multiplies(
    device: str, capability: tuple[int, int] | None, fast: str, wide: str
) -> None:
    assert str(fast_dtype(device, capability)).removeprefix("torch.") == fast
    assert str(wide_dtype(device, capability)).removeprefix("torch.") == wide


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ("flags\t\t: fpu avx512_bf16 sse\n", torch.bfloat16),
        ("flags : fpu amx_tile\n", torch.bfloat16),
        ("flags : fpu avx512f\n", torch.float32),
        (None, torch.float32),
    ],
)
def test_a_torch_that_reports_no_cpu_features_leaves_it_to_the_system(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: str | None, dtype: torch.dtype
) -> None:
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"processor : 0\nmodel name : bf16\n{flags}bugs : none\n")
    monkeypatch.setattr(dtypes, "_CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    dtypes.cpu_multiplies_bf16.cache_clear()
    assert fast_dtype("cpu") == dtype
    dtypes.cpu_multiplies_bf16.cache_clear()


def context(capability: tuple[int, int]) -> LoadContext:
    return LoadContext(
        device="cuda:0",
        threads=1,
        cache_dir=Path("/nowhere"),
        report=lambda event: None,
        capabilities={"cuda:0": capability},
    )


def test_on_a_t4_only_fluxs_transformer_is_fp16_and_nothing_of_ltx2() -> None:
    old = {name: dtype_of(name, context((7, 5))) for name in COMPONENTS}
    assert old.pop("transformer") == torch.float16
    assert set(old.values()) == {torch.float32}
    assert {dtype_of(name, context((8, 6))) for name in COMPONENTS} == {torch.bfloat16}
    spec: Any = ModelSpec(name="m:v1", family="ltx2", files=())
    parts = ("text_encoder", "transformer", "vae")
    assert {ltx2_dtypes.dtype_of(part, spec, "cuda:0", (7, 5)) for part in parts} == {torch.float32}
    assert {ltx2_dtypes.dtype_of(part, spec, "cuda:0", (8, 9)) for part in parts} == {torch.bfloat16}


def test_weights_that_fp16_has_no_room_for_are_found() -> None:
    small, large = torch.ones(4, dtype=torch.bfloat16), torch.tensor([1.0, -70_000.0])
    assert not overflows_fp16([small, torch.arange(10) * 10_000, torch.empty(0)])
    assert overflows_fp16([small, large])


def test_residuals_that_outgrow_fp16_stay_finite() -> None:
    torch.manual_seed(3)
    transformer = FluxTransformer(CONFIG).eval().requires_grad_(False).half()
    for block in transformer.double_blocks:
        block.txt_mlp[2].bias.fill_(60_000)
        block.img_mlp[2].bias.fill_(-60_000)
        for mod in (block.img_mod, block.txt_mod):
            mod.lin.bias.fill_(2)
    with torch.inference_mode():
        velocity = transformer(
            torch.randn(1, 16, 64).half(),
            torch.randn(1, 6, 32).half(),
            torch.randn(1, 16).half(),
            torch.tensor([0.5]),
            torch.tensor([3.5]),
            rope(CONFIG, 6, 4, 4),
        )
    assert velocity.dtype == torch.float16
    assert velocity.isfinite().all()


@pytest.mark.parametrize("large", [False, True])
def test_an_image_in_fp16_is_that_of_fp32(large: bool, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = []
    if large:
        monkeypatch.setattr(loading, "overflows_fp16", lambda tensors: True)
    for dtype in (torch.float16, torch.float32):
        chosen = dict.fromkeys(COMPONENTS, torch.float32) | {"transformer": dtype}
        monkeypatch.setattr(loading, "dtype_of", lambda component, context, chosen=chosen: chosen[component])
        with Engine(Settings(home=home, device="cpu")) as engine:
            made = engine.generate(GenerateRequest(prompt="a red house", model="flux-nano", seed=3, steps=4))
            images.append(torch.from_numpy(made.images[0].to_numpy().copy()).float())
    difference = (images[0] - images[1]).abs().mean()
    assert difference == 0 if large else 0 < difference < 3


class _Types(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        self.seen |= {tensor.dtype for tensor in tree_leaves(made) if isinstance(tensor, torch.Tensor)}
        return made


def test_mps_expands_fp8_without_knowing_the_type() -> None:
    f8_e4m3(torch.zeros(2, 4, dtype=torch.uint8))  # the table of all numbers is made once
    with FakeTensorMode(allow_non_fake_inputs=True), _Types() as types:
        made = f8_e4m3(torch.zeros(2, 4, dtype=torch.uint8, device="mps"))
    assert (made.shape, made.dtype, made.device.type) == ((2, 4), torch.float32, "mps")
    assert torch.float8_e4m3fn not in types.seen
