"""The tables of models in the documentation are those of the catalogs."""

from __future__ import annotations

from pathlib import Path

from mold_core import ModelFile, ModelSpec, load_plugins
from mold_core.cli.models_page import models_table, update_tables

PAGE = Path(__file__).parents[3] / "docs" / "models.md"


def test_the_page_of_models_is_up_to_date() -> None:
    page = PAGE.read_text("utf-8")
    assert update_tables(page, load_plugins(("flux",)).models.values()) == page, (
        "run: python -m mold_core.cli.models_page docs/models.md"
    )
    assert "| `flux-dev:bf16` |" in page


def test_a_table_counts_own_and_shared_files_and_names_the_gates() -> None:
    own = ModelFile(component="a", path="a-q8/a", size_bytes=2_000_000_000, repo="a/a", gated=True)
    shared = ModelFile(component="b", path="shared/b", size_bytes=500_000_000, repo="b/b")
    table = models_table([ModelSpec(name="a:q8", family="f", description="A", files=(own, shared))])
    gate = "[a/a](https://huggingface.co/a/a)"
    assert table.splitlines()[-1] == f"| `a:q8` | A | – | 2.0 GB | 2.5 GB | not stated | {gate} |"
