"""A tiny LTX-2 on disk, loaded once for all tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ltx2_files import TinyLtx2, tiny_ltx2, write_files
from ltx2_loading import load


@pytest.fixture(scope="session")
def tiny() -> TinyLtx2:
    """The modules."""
    return tiny_ltx2()


@pytest.fixture(scope="session")
def files(tiny: TinyLtx2, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same as files in the official layout, by component."""
    return write_files(tiny, tmp_path_factory.mktemp("ltx2") / "ltx-2-tiny")


@pytest.fixture(scope="session")
def one_stage(files: dict[str, Path]) -> Any:
    """The pipeline without the upsampler."""
    return load({name: path for name, path in files.items() if name != "spatial_upscaler"})
