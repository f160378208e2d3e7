"""Will it fit? With numbers, for models that are here and for those that are not; and which T5 file is used."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_files import write_gguf
from safetensors.torch import load_file

from mold_core import Engine, ModelNotFoundError, Settings, ValidationError
from mold_core.placement.memory import memory_report
from mold_core.weights import fast_dtype


@pytest.fixture
def engine(home: Path) -> Iterator[Engine]:
    with Engine(Settings(home=home, device="cpu", memory_budget_gb=100)) as engine:
        yield engine


def report(engine: Engine, name: str, **settings: Any) -> Any:
    import attrs

    spec = engine.resolve(name)
    return memory_report(
        engine.family_of(spec), spec, engine.store, attrs.evolve(engine.settings, **settings), engine.plugins
    )


def test_what_is_not_downloaded_is_measured_by_the_catalog(engine: Engine) -> None:
    told = report(engine, "flux-dev:q4")
    wide = fast_dtype("cpu") == torch.float32
    sizes = {part.name: part.size_bytes / 1e9 for part in told.parts}
    assert sizes["transformer"] == pytest.approx(7.53, abs=0.01)
    assert sizes["t5_encoder"] == pytest.approx(9.79 * (2 if wide else 1), abs=0.01)
    assert told.chosen == "eager"
    assert list(told.needs) == ["eager", "sequential", "offload"]


@pytest.mark.skipif(fast_dtype("cpu") == torch.float32, reason="16-bit files take twice their size here")
@pytest.mark.parametrize(("gigabytes", "chosen"), [(40, "eager"), (26, "sequential"), (12, "offload"), (0.5, None)])
def test_less_memory_means_another_strategy(engine: Engine, gigabytes: float, chosen: str | None) -> None:
    told = report(engine, "flux-dev:bf16", memory_budget_gb=gigabytes)
    assert told.chosen == chosen
    assert (told.problem is None) == (chosen is not None)
    assert [told.fits(strategy) for strategy in told.needs].count(True) == {None: 0, "offload": 1, "sequential": 2}.get(
        chosen, 3
    )


def test_the_command_shows_parts_strategies_and_the_choice(mold: Callable[..., Any]) -> None:
    shown = mold("info", "flux-nano", "--memory-gb", "0.011").stdout
    assert "Memory available: 11.0 MB on cpu" in shown
    assert re.search(r"transformer +7\.\d MB +and .* to compute  flux-nano\.safetensors", shown)
    assert re.search(r"✗ eager .*\n✓ sequential .*← used\n✓ offload", shown)
    told = json.loads(mold("info", "flux-nano", "--json", "--offload").stdout)["memory"]
    assert (told["chosen"], told["fits"]["eager"]) == ("offload", True)


# --- which T5 ----------------------------------------------------------------------------------------------------

FP16 = "shared/flux/t5xxl_fp16.safetensors"
Q8 = "shared/t5-gguf/t5-v1_1-xxl-encoder-Q8_0.gguf"
Q4 = "shared/t5-gguf/t5-v1_1-xxl-encoder-Q4_K_M.gguf"


@pytest.fixture
def encoders(engine: Engine) -> Path:
    """Put tiny files where the three are expected; their sizes fall as those of the real ones."""
    from safetensors.torch import save_file

    folder = engine.store.models_dir
    for name in (FP16, Q8, Q4):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    weight = torch.ones(64, 256)
    save_file({"shared.weight": weight.half()}, folder / FP16)
    for name, kind in ((Q8, "Q8_0"), (Q4, "Q4_0")):
        write_gguf(folder / name, {"token_embd.weight": weight}, {"token_embd.weight": kind}, "t5encoder")
    assert load_file(folder / FP16)
    return folder


def chosen_t5(engine: Engine, **settings: Any) -> str:
    (part,) = (part for part in report(engine, "flux-dev:q4", **settings).parts if part.name == "t5_encoder")
    return str(part.files[0].relative_to(engine.store.models_dir))


def test_the_best_that_fits_is_taken(engine: Engine, encoders: Path) -> None:
    from mold_core import LoadContext

    spec = engine.resolve("flux-dev:q4")
    family, files = engine.family_of(spec), engine.store.files_of(spec)

    def chosen(room: int | None) -> str:
        context = LoadContext(
            device="cpu",
            threads=1,
            cache_dir=Path(),
            report=lambda event: None,
            available_bytes={} if room is None else {"cpu": room},
        )
        (part,) = (part for part in family.components(spec, files, context) if part.name == "t5_encoder")  # type: ignore[attr-defined]
        return str(part.files[0].relative_to(encoders))

    number_bytes = fast_dtype("cpu").itemsize
    working = 512 * 4096 * 40 * number_bytes
    assert chosen(None) == FP16
    assert chosen(working + 64 * 256 * number_bytes) == FP16
    assert chosen(working + 64 * 256 * 34 // 32) == Q8
    assert chosen(working + 64 * 256 * 18 // 32) == Q4
    assert chosen(1) == Q4


def test_a_variant_that_is_asked_for_is_taken_or_told_how_to_get(engine: Engine, encoders: Path) -> None:
    assert chosen_t5(engine) == FP16
    assert chosen_t5(engine, t5_variant="q4") == Q4
    with pytest.raises(ModelNotFoundError, match=r"'q6' is not downloaded; mold pull t5:q6"):
        chosen_t5(engine, t5_variant="q6")


def test_a_model_is_whole_with_any_of_them(engine: Engine, encoders: Path) -> None:
    spec = engine.resolve("flux-dev:q4")
    assert {file.component for file in engine.store.missing(spec)} == {
        "transformer",
        "vae",
        "clip_encoder",
        "t5_tokenizer",
        "clip_tokenizer",
    }
    (encoders / FP16).unlink()
    (encoders / Q8).unlink()
    assert not any(file.component == "t5_encoder" for file in engine.store.missing(spec))
    assert engine.store.files_of(spec).one("t5_encoder") == encoders / Q4
    assert engine.store.has(engine.resolve("t5:q4"))
    assert not engine.store.has(engine.resolve("t5:fp16"))


def test_a_part_is_no_model(engine: Engine, encoders: Path) -> None:
    with pytest.raises(ValidationError, match="'t5:q8' is a component of models of the family flux"):
        engine.family_of(engine.resolve("t5"))
    assert engine.default_model().spec.name == "flux-nano:bf16"
