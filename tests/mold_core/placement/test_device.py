"""The device is the one asked for, or the best there is."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from mold_core import Settings, SettingsError
from mold_core.placement import device as device_module
from mold_core.placement.device import budget_bytes, choose_device, choose_devices, torch_name


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set up a machine as torch sees it; without an argument it has no torch."""

    def set_up(*devices: str) -> None:
        torch: Any = ModuleType("torch")
        torch.cuda = SimpleNamespace(
            is_available=lambda: "cuda" in devices,
            device_count=lambda: devices.count("cuda"),
            mem_get_info=lambda device: (1_000, 10_000_000_000),
            memory_reserved=lambda device: 500,
            memory_allocated=lambda device: 300,
        )
        torch.backends = SimpleNamespace(mps=SimpleNamespace(is_available=lambda: "mps" in devices))
        monkeypatch.setitem(sys.modules, "torch", torch if devices else None)
        monkeypatch.setattr(device_module, "_may_have_gpu", lambda: True)

    return set_up


@pytest.mark.parametrize(
    ("devices", "chosen"),
    [(("cpu",), "cpu"), (("cpu", "mps"), "mps"), (("cpu", "mps", "cuda"), "cuda"), ((), "cpu")],
)
def test_auto_takes_the_best_there_is(machine: Any, devices: tuple[str, ...], chosen: str) -> None:
    machine(*devices)
    assert choose_device(Settings()) == chosen


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_there_is_taken(machine: Any, device: Any) -> None:
    machine("cpu", device)
    assert choose_device(Settings(device=device)) == device


def test_torch_is_not_asked_where_there_can_be_no_gpu(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine("cpu", "cuda")
    monkeypatch.setattr(device_module, "_may_have_gpu", lambda: False)
    assert choose_device(Settings()) == "cpu"


def test_the_cpu_needs_no_torch(machine: Any) -> None:
    machine()
    assert choose_device(Settings(device="cpu")) == "cpu"


def test_a_device_that_is_not_there_is_refused_and_those_that_are_there_are_named(machine: Any) -> None:
    machine("cpu", "mps")
    with pytest.raises(SettingsError, match="device 'cuda' is not available; this machine has: mps, cpu"):
        choose_device(Settings(device="cuda"))


def test_asking_for_a_gpu_without_torch_is_refused(machine: Any) -> None:
    machine()
    with pytest.raises(SettingsError, match="device 'cuda' needs torch, which is not installed; pip install torch"):
        choose_device(Settings(device="cuda"))


def test_the_budget_is_that_of_the_setting() -> None:
    assert budget_bytes(Settings(memory_budget_gb=1.5), "cpu") == 1_500_000_000


def test_the_budget_of_a_gpu_is_a_share_of_its_memory(machine: Any) -> None:
    machine("cpu", "cuda")
    assert budget_bytes(Settings(), "cuda:0") == 8_000_000_000


def test_the_budget_of_the_cpu_is_a_share_of_the_machines_memory() -> None:
    assert 100_000_000 < budget_bytes(Settings(), "cpu") < 10**15


@pytest.mark.parametrize(
    ("gpus", "asked", "chosen"),
    [
        (1, None, ("cuda:0",)),
        (2, None, ("cuda:0", "cuda:1")),
        (3, ("2", "0"), ("cuda:2", "cuda:0")),
        (1, ("0", "0"), ("cuda:0",)),
    ],
)
def test_all_gpus_are_used_or_those_that_are_named(
    machine: Any, gpus: int, asked: tuple[str, ...] | None, chosen: tuple[str, ...]
) -> None:
    machine("cpu", *["cuda"] * gpus)
    assert choose_devices(Settings(gpus=asked)) == chosen


def test_a_gpu_that_is_not_there_is_refused(machine: Any) -> None:
    machine("cpu", "cuda", "cuda")
    with pytest.raises(SettingsError, match="there is no GPU '2'; this machine has: 0, 1"):
        choose_devices(Settings(gpus=("0", "2")))


def test_several_workers_share_the_cpu_and_its_memory(machine: Any) -> None:
    machine("cpu")
    devices = choose_devices(Settings(cpu_workers=3))
    assert devices == ("cpu:0", "cpu:1", "cpu:2")
    assert {torch_name(device) for device in devices} == {"cpu"}
    whole = budget_bytes(Settings(), "cpu")
    assert budget_bytes(Settings(cpu_workers=3), "cpu") == whole // 3
