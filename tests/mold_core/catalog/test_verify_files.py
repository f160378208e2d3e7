"""Every file of a model is read and compared with what the catalog says."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from mold_core import ModelFile, ModelSpec
from mold_core.catalog import ModelStore
from mold_core.catalog.verify import ChecksumLedger, verify_files

CONTENT = b"house" * 300_000


def spec(**values: object) -> ModelSpec:
    known = {"size_bytes": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}
    return ModelSpec(
        name="house:q8",
        family="paint",
        files=(ModelFile(component="a", path="house-q8/a", **{**known, **values}),),  # type: ignore[arg-type]
    )


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    (tmp_path / "house-q8").mkdir()
    (tmp_path / "house-q8" / "a").write_bytes(CONTENT)
    return ModelStore(tmp_path)


@pytest.mark.parametrize(
    ("values", "content", "right", "words"),
    [
        ({}, CONTENT, True, "has the correct sha256"),
        ({"sha256": None}, CONTENT, True, "has the correct size; no checksum is known"),
        ({"sha256": None, "size_bytes": None}, CONTENT, True, "exists; no size or checksum is known"),
        ({}, CONTENT[:-1], False, "has 1,499,999 bytes instead of 1,500,000"),
        ({}, CONTENT[:-1] + b"!", False, "has the sha256"),
        ({}, None, False, "is missing"),
    ],
)
def test_a_file_is_held_to_what_is_known(
    store: ModelStore, values: dict[str, object], content: bytes | None, right: bool, words: str
) -> None:
    path = store.models_dir / "house-q8" / "a"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    (verdict,) = verify_files(spec(**values), store)
    assert verdict.right is right
    assert verdict.words.startswith(words)


def test_without_a_checksum_in_the_catalog_the_one_of_the_pull_counts(store: ModelStore) -> None:
    from contextlib import nullcontext

    path = store.models_dir / "house-q8" / "a"
    ChecksumLedger(store.models_dir, nullcontext).record(path, "0" * 64)
    (verdict,) = verify_files(spec(sha256=None), store)
    assert not verdict.right
    assert verdict.words.endswith("instead of " + "0" * 64)


def test_progress_goes_up_to_the_size(store: ModelStore) -> None:
    seen: list[tuple[int, int]] = []
    list(verify_files(spec(), store, lambda path, done, total: seen.append((done, total))))
    assert [done for done, _ in seen] == [1 << 20, len(CONTENT)]
    assert {total for _, total in seen} == {len(CONTENT)}
