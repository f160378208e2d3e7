"""Large folders: a ComfyUI with 300 models of real sizes, and 20,000 small files."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import pytest
from real_files import comfy_tree, layout, write_real

from mold_core import load_plugins
from mold_core.catalog.adopted import Adopted
from mold_core.recognition import Knowledge, knowledge_of
from mold_core.recognition.adopting import Found, plan_adoption
from mold_core.recognition.cache import RecognitionCache
from mold_core.recognition.search import search

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def knowledge() -> Knowledge:
    return knowledge_of(load_plugins())


def test_every_file_of_a_comfyui_is_recognised(tmp_path: Path, knowledge: Knowledge) -> None:
    written = comfy_tree(tmp_path / "ComfyUI")
    started = time.process_time()
    found = search([str(tmp_path / "ComfyUI")], RecognitionCache(tmp_path / "cache.json", knowledge))
    spent_s = time.process_time() - started
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    size_bytes = sum(item.recognised.size_bytes for item in found)
    print(f"{len(found)} files, {size_bytes / 1e12:.1f} TB: {spent_s:.1f} s of processor time, peak {peak_mb:.0f} MB")
    assert len(found) == len(written) >= 300
    assert [item.recognised.paths[0] for item in found if not item.recognised.known or item.recognised.problem] == []
    plan = plan_adoption(found, Adopted(), [str(tmp_path)], knowledge, load_plugins(), load_plugins().models)
    assert plan.unknown == ()
    assert len(plan.models) + len(plan.loras) + len(plan.components) + len(plan.others) == len(written)


def test_twenty_thousand_files_are_searched_again_from_the_cache(tmp_path: Path, knowledge: Knowledge) -> None:
    for number in range(200):
        folder = tmp_path / "hub" / f"folder-{number}"
        for index in range(100):
            write_real(folder / f"vae-{index}.safetensors", {"taesd_decoder.1.weight": (64, 4, 3, 3)}, "bf16")
    first = _timed(tmp_path, knowledge)
    again = _timed(tmp_path, knowledge)
    assert again[0] == first[0]
    print(f"20,000 files: {first[1]:.1f} s, then {again[1]:.1f} s from the cache")


def _timed(tmp_path: Path, knowledge: Knowledge) -> tuple[list[Found], float]:
    cache = RecognitionCache(tmp_path / "cache.json", knowledge)
    started = time.process_time()
    found = search([str(tmp_path / "hub")], cache)
    cache.save()
    assert len(found) == 20_000
    return found, time.process_time() - started


def test_the_real_layouts_are_of_real_sizes() -> None:
    numbers = sum(_product(shape) for shape in layout("flux-dev").values())
    assert numbers == 11_901_408_320  # as Black Forest Labs say: 12 billion


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
