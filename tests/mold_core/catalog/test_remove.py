"""Models are taken off the disk with what is theirs alone, and never more; leftovers are found and deleted."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from mold_core import ModelFile, ModelNotFoundError, ModelSpec, PluginError, ValidationError
from mold_core.catalog import ModelStore
from mold_core.catalog.clean import delete, find_leftovers
from mold_core.catalog.marker import holding, pull_runs
from mold_core.catalog.remove import plan_removal, remove

SHARED = "shared/paint/t5.safetensors"
SMALL = "shared/t5-gguf/t5-Q8_0.gguf"


def model(name: str, *, shared: bool = True) -> ModelSpec:
    own = ModelFile(component="transformer", path=f"{name.replace(':', '-')}/weights.safetensors", repo="paint/x")
    encoder = ModelFile(component="t5", path=SHARED, instead=(SMALL,))
    return ModelSpec(name=name, family="paint", files=(own, encoder) if shared else (own,))


def encoder(name: str, path: str) -> ModelSpec:
    return ModelSpec(name=name, family="t5", part_of="paint", files=(ModelFile(component="t5", path=path),))


HOUSE, TREE = model("house:q8"), model("tree:q8")
CATALOG = {spec.name: spec for spec in (HOUSE, TREE, encoder("t5:fp16", SHARED), encoder("t5:q8", SMALL))}


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def put(store: ModelStore, *paths: str, size: int = 100) -> None:
    for name in paths:
        path = store.models_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)


def here(store: ModelStore) -> set[str]:
    return {
        path.relative_to(store.models_dir).as_posix()
        for path in store.models_dir.rglob("*")
        if path.is_file() or path.is_symlink()
    }


HOUSE_PATH, TREE_PATH = "house-q8/weights.safetensors", "tree-q8/weights.safetensors"


def test_shared_files_stay_while_another_model_needs_them(store: ModelStore) -> None:
    put(store, HOUSE_PATH, TREE_PATH, SHARED)
    done = remove(HOUSE, CATALOG, store)
    assert here(store) == {TREE_PATH, SHARED}
    assert (done.size_bytes, [kept.why for kept in done.kept]) == (100, ["tree:q8 needs it"])
    assert not (store.models_dir / "house-q8").exists()
    assert remove(TREE, CATALOG, store).size_bytes == 200
    assert here(store) == set()


def test_a_model_of_which_something_is_missing_needs_nothing(store: ModelStore) -> None:
    put(store, HOUSE_PATH, SHARED)
    remove(HOUSE, CATALOG, store)
    assert here(store) == set()


def test_a_part_goes_only_when_another_can_stand_in_for_it(store: ModelStore) -> None:
    put(store, HOUSE_PATH, SHARED)
    assert plan_removal(CATALOG["t5:fp16"], CATALOG, store).files == ()
    put(store, SMALL)
    remove(CATALOG["t5:fp16"], CATALOG, store)
    assert here(store) == {HOUSE_PATH, SMALL}
    assert store.has(HOUSE)
    assert plan_removal(CATALOG["t5:q8"], CATALOG, store).files == ()


def test_a_model_that_is_being_pulled_is_not_removed(store: ModelStore) -> None:
    put(store, HOUSE_PATH)
    with holding(store.marker_of(HOUSE)), pytest.raises(ValidationError, match="house:q8 is being pulled"):
        remove(HOUSE, CATALOG, store)
    assert here(store) == {HOUSE_PATH}


def test_the_marker_of_a_pull_that_was_killed_hinders_nothing(store: ModelStore) -> None:
    put(store, HOUSE_PATH, "house-q8/.pulling")
    remove(HOUSE, CATALOG, store)
    assert here(store) == set()


def test_of_a_link_only_the_link_goes(store: ModelStore, tmp_path: Path) -> None:
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(b"mine")
    (store.models_dir / "house-q8").mkdir(parents=True)
    (store.models_dir / HOUSE_PATH).symlink_to(mine)
    remove(HOUSE, CATALOG, store)
    assert mine.read_bytes() == b"mine"
    assert here(store) == set()


def test_what_lies_in_a_folder_that_is_a_link_to_elsewhere_stays(store: ModelStore, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    store.models_dir.mkdir()
    (store.models_dir / "house-q8").symlink_to(elsewhere)
    put(store, HOUSE_PATH)
    planned = plan_removal(HOUSE, CATALOG, store)
    assert (planned.files, [kept.why for kept in planned.kept]) == ((), ["is outside of the models folder"])
    remove(HOUSE, CATALOG, store)
    assert (elsewhere / "weights.safetensors").is_file()


def test_a_path_out_of_the_models_folder_is_refused(store: ModelStore, tmp_path: Path) -> None:
    outside = tmp_path / "precious"
    outside.write_bytes(b"x")
    evil = ModelSpec(name="evil:q8", family="paint", files=(ModelFile(component="a", path="../precious"),))
    with pytest.raises(PluginError, match="is not allowed in the models folder"):
        remove(evil, CATALOG, store)
    assert outside.exists()


def test_what_is_not_here_or_part_of_mold_is_told(store: ModelStore, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="house:q8 is not downloaded"):
        remove(HOUSE, CATALOG, store)
    with pytest.raises(ValidationError, match="ships with mold"):
        remove(ModelSpec(name="tiny:v1", family="paint", root=tmp_path), CATALOG, store)


def test_bytes_that_have_another_name_are_not_counted(store: ModelStore) -> None:
    put(store, HOUSE_PATH, SHARED)
    os.link(store.models_dir / HOUSE_PATH, store.models_dir / "copy")
    assert plan_removal(HOUSE, CATALOG, store).size_bytes == 100


# --- leftovers ---------------------------------------------------------------------------------------------------


def found(store: ModelStore, hours: float = 0.0, catalog: Mapping[str, ModelSpec] = CATALOG) -> dict[str, str]:
    leftovers = find_leftovers(catalog, store, store.models_dir.parent / "cache", older_than_s=hours * 3600)
    return {leftover.path.relative_to(store.models_dir.parent).as_posix(): leftover.kind for leftover in leftovers}


PART = ".hf-cache/models--paint--x/blobs/abc.incomplete"


def test_leftovers_are_found_and_deleted_and_all_else_stays(store: ModelStore) -> None:
    put(store, TREE_PATH, "tree-q8/.pulling", "house-q8/.mold-0123456789abcdef.part", PART, SHARED, "shared/my/own.bin")
    put(store, "../cache/kernels/a.so")
    assert found(store) == {
        "models/tree-q8/.pulling": "marker of a dead pull",
        "models/house-q8/.mold-0123456789abcdef.part": "unfinished file",
        f"models/{PART}": "unfinished download",
        "cache/kernels/a.so": "cache",
    }
    leftovers = find_leftovers(CATALOG, store, store.models_dir.parent / "cache", older_than_s=0)
    assert delete(leftovers) == 300
    assert here(store) == {TREE_PATH, SHARED, "shared/my/own.bin"}
    assert found(store) == {}


def test_shared_files_of_no_model_are_orphans_and_unknown_files_are_not(store: ModelStore) -> None:
    put(store, SHARED, SMALL, "shared/paint/mine.safetensors")
    assert found(store) == {f"models/{SHARED}": "shared file of no model", f"models/{SMALL}": "shared file of no model"}
    put(store, HOUSE_PATH)
    assert found(store) == {}


def test_what_was_written_a_moment_ago_stays(store: ModelStore) -> None:
    put(store, PART, SHARED)
    old = time.time() - 7200
    os.utime(store.models_dir / SHARED, (old, old))
    assert found(store, hours=1) == {f"models/{SHARED}": "shared file of no model"}


def test_what_a_running_pull_works_on_stays(store: ModelStore) -> None:
    from filelock import FileLock

    put(store, PART, SHARED)
    locks = store.models_dir / ".hf-cache" / ".locks"
    locks.mkdir()
    with FileLock(locks / "abc.lock"), holding(store.marker_of(HOUSE)):
        assert found(store) == {}
    assert pull_runs(store.marker_of(HOUSE)) is False
    assert set(found(store)) == {f"models/{PART}", f"models/{SHARED}"}


def test_links_are_neither_followed_nor_named(store: ModelStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "t5.safetensors").write_bytes(b"x")
    (outside / ".pulling").write_bytes(b"")
    (store.models_dir / "shared").mkdir(parents=True)
    (store.models_dir / "shared" / "paint").symlink_to(outside)
    (store.models_dir / "house-q8").symlink_to(outside)
    assert found(store) == {}


# --- markers -----------------------------------------------------------------------------------------------------


def test_a_marker_stands_until_the_last_pull_ends(store: ModelStore) -> None:
    marker = store.marker_of(HOUSE)
    with holding(marker):
        with holding(marker):
            assert pull_runs(marker)
        assert pull_runs(marker)
        with holding(marker, exclusive=True) as ours:
            assert not ours
        assert marker.exists()
    assert not marker.exists()
