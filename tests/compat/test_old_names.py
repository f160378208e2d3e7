"""The names that mold 0.1 had still lead to what they named, with a warning that gives the new one."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from mold_core.deprecated import NAMES

OLD_NAMES = [(package, old, new) for package, names in NAMES.items() for old, new in names.items()]


@pytest.mark.parametrize(("package", "old", "new"), OLD_NAMES)
def test_an_old_name_leads_to_the_new_one_and_warns(package: str, old: str, new: str) -> None:
    module = importlib.import_module(package)
    with pytest.warns(DeprecationWarning, match=rf"^{package}\.{old} is called {new} since mold 0\.2$"):
        found = getattr(module, old)
    assert found is getattr(module, new)
    assert new in module.__all__
    assert old not in module.__all__


@pytest.mark.parametrize("package", NAMES)
def test_a_name_that_never_was_is_refused_as_usual(package: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'Manager'"):
        _ = importlib.import_module(package).Manager


def test_an_old_name_can_be_imported() -> None:
    with pytest.warns(DeprecationWarning, match="Film"):
        from mold_core import Film  # type: ignore[attr-defined]
    from mold_core import DecodedClip

    assert Film is DecodedClip


def test_an_argument_keeps_its_old_name() -> None:
    import torch

    from mold_core.weights import load_weights

    network = torch.nn.Linear(2, 2)
    with pytest.warns(DeprecationWarning, match="argument 'expand_within_bytes' of load_weights"):
        load_weights(network, network.state_dict(), "a test", expand_within_bytes=0)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["Engine", "Client"])
def test_the_disk_keeps_its_old_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mold_core

    monkeypatch.setenv("MOLD_HOME", str(tmp_path))
    with getattr(mold_core, name)() as owner:
        with pytest.warns(DeprecationWarning, match=rf"{name}\.shelf is called disk since mold 0\.2"):
            old = owner.shelf
        assert type(old) is type(owner.disk)


def test_a_method_keeps_its_old_name() -> None:
    from mold_core.weights import LoraCache
    from mold_flux.lora_names import FluxNames

    cache = LoraCache(FluxNames())
    with pytest.warns(DeprecationWarning, match=r"LoraCache\.beside is called attached"):
        assert cache.beside == cache.attached  # type: ignore[attr-defined]
