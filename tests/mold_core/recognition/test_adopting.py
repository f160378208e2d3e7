"""Folders of other programs: what is found in them becomes models, in place."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from io import BytesIO
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from http_server import serving
from PIL import Image
from real_files import layout, shapes_of, write_real

from mold_core import Engine, GenerateRequest, ModelNotFoundError, OutputError, Settings
from mold_core.catalog.adopted import Adopted, read_adopted
from mold_core.recognition.adopting import Found, Plan
from mold_core.recognition.programs import locations_of
from mold_core.recognition.recognised import Recognised
from mold_core.recognition.transfer import transferred

Mold = Callable[..., CompletedProcess[Any]]
HOUSE = "a red house under a yellow moon"


@pytest.fixture
def adopt(mold: Mold) -> Callable[..., str]:
    """Run `mold adopt` and return what it prints."""

    def run(*arguments: str | Path) -> str:
        done = mold("adopt", *arguments)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    return run


def files_below(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_the_components_of_a_model_in_a_comfyui_draw_the_house(
    comfy: Path, adopt: Callable[..., str], home: Path, tmp_path: Path
) -> None:
    before = files_below(comfy)
    printed = adopt(comfy)
    assert "house-painter:bf16" in printed
    assert "4x-house:fp32" in printed
    assert files_below(comfy) == before
    with Engine(Settings.load()) as engine:
        spec = engine.resolve("house-painter")
        paths = {file.component: file.path for file in spec.files}
        assert paths["transformer"] == str(comfy / "models/unet/house_painter_bf16.safetensors")
        assert paths["vae"] == str(comfy / "models/vae/house.vae.safetensors")
        assert paths["t5_tokenizer"].endswith("t5_tokenizer.json")  # ships with the plugin
        images = [
            engine.generate(GenerateRequest(prompt=HOUSE, model=name, seed=3)).images[0].data
            for name in (spec.name, "flux-nano:bf16")
        ]
    assert images[0] is not None
    adopted, embedded = (Image.open(BytesIO(image)).convert("RGB") for image in images)
    assert adopted.tobytes() == embedded.tobytes()


def test_a_dry_run_changes_nothing(comfy: Path, adopt: Callable[..., str], home: Path) -> None:
    assert "Would adopt:\n  house-painter:bf16" in adopt(comfy, "--dry-run")
    assert not (home / "adopted.json").exists()


def test_adopted_models_are_listed_while_their_drive_is_away(
    comfy: Path, adopt: Callable[..., str], mold: Mold
) -> None:
    adopt(comfy)
    away = comfy.rename(comfy.with_name("elsewhere"))
    listed = mold("list").stdout
    assert "house-painter:bf16" in listed.partition("Not mounted:")[2].partition("Available")[0]
    assert "(not mounted)" in adopt("list")
    assert "No model was found" in adopt()  # a search finds nothing there, and forgets nothing
    refused = mold("run", "-m", "house-painter", "a house")
    assert "its drive is not mounted" in refused.stderr
    away.rename(comfy)
    assert "Not mounted" not in mold("list").stdout


def test_a_running_engine_notices_adoptions(comfy: Path, adopt: Callable[..., str], home: Path) -> None:
    with Engine(Settings.load()) as engine:
        with pytest.raises(Exception, match="unknown model"):
            engine.resolve("house-painter")
        adopt(comfy)
        spec = engine.resolve("house-painter")
        assert next(entry for entry in engine.models() if entry.spec == spec).downloaded
        adopt("forget", "house-painter:bf16")
        assert "house-painter:bf16" not in engine.plugins.models


def test_a_running_server_shows_adopted_models_and_not_where_they_lie(
    comfy: Path, adopt: Callable[..., str], home: Path
) -> None:
    with serving(home, MOLD_PLUGINS="http,flux,nano,esrgan") as server:
        adopt(comfy)
        models = {model["name"]: model for model in server.ask("GET", "/api/models").json()}
        assert models["house-painter:bf16"]["downloaded"]
        assert models["house-painter:bf16"]["runnable"]
        assert models["4x-house:fp32"]["family"] == "upscaler"
        details = server.ask("GET", "/api/models/details?model=house-painter:bf16")
        assert details.json()["files"][0]["path"] == "house_painter_bf16.safetensors"
        body = {"prompt": HOUSE, "model": "house-painter", "width": 64, "height": 64, "steps": 1}
        assert server.ask("POST", "/api/generate", body).type == "image/png"
        for answer in (details, server.ask("GET", "/api/models"), server.ask("GET", "/api/loras")):
            assert str(comfy.parent).encode() not in answer.body


def test_what_was_forgotten_stays_forgotten_until_it_is_named(
    comfy: Path, adopt: Callable[..., str], home: Path
) -> None:
    adopt(comfy)
    adopt("forget", "house-painter:bf16")
    assert "house-painter" not in adopt()
    assert "house-painter:bf16" in adopt(comfy / "models/unet/house_painter_bf16.safetensors")
    adopt("forget", comfy, comfy / "models/unet/house_painter_bf16.safetensors")
    assert read_adopted(home).folders == ()
    assert read_adopted(home).models == {}


def test_a_second_search_keeps_names_and_drops_files_that_are_gone(
    comfy: Path, adopt: Callable[..., str], home: Path
) -> None:
    adopt(comfy)
    shutil.copyfile(
        comfy / "models/unet/house_painter_bf16.safetensors", comfy / "models/unet/House-Painter-bf16.safetensors"
    )
    (comfy / "models/upscale_models/4x_House.safetensors").unlink()
    adopt()
    models = read_adopted(home).models
    assert models["house-painter:bf16"]["files"]["transformer"].endswith("house_painter_bf16.safetensors")
    assert models["house-painter-2:bf16"]["files"]["transformer"].endswith("House-Painter-bf16.safetensors")
    assert "4x-house:fp32" not in models


@pytest.mark.parametrize("how", ["--copy", "--link"])
def test_files_are_copied_or_linked_when_asked(how: str, comfy: Path, adopt: Callable[..., str], home: Path) -> None:
    adopt(comfy, how)
    file = home / "models/house-painter-bf16/house_painter_bf16.safetensors"
    assert file.is_symlink() == (how == "--link")
    assert file.stat().st_size == (comfy / "models/unet/house_painter_bf16.safetensors").stat().st_size
    assert read_adopted(home).models["house-painter:bf16"]["files"]["transformer"] == str(file)


def test_loras_get_names_and_components_of_other_families_none(
    tmp_path: Path, adopt: Callable[..., str], mold: Mold
) -> None:
    write_real(tmp_path / "A1111/models/Lora/Ghibsky.safetensors", shapes_of("lora:flux_lora_kohya_format"), "bf16")
    write_real(tmp_path / "A1111/models/Lora/pony.safetensors", shapes_of("lora:sdxl"), "fp16")
    write_real(tmp_path / "A1111/models/VAE/sdxl.safetensors", layout("vae-4"), "fp16")
    printed = adopt(tmp_path / "A1111")
    assert "Ghibsky" in printed
    assert "Recognised, but no installed plugin runs them: 2" in printed
    assert [lora["name"] for lora in json.loads(mold("list", "--loras", "--json").stdout)] == ["Ghibsky"]


def test_the_best_file_completes_a_model(tmp_path: Path, adopt: Callable[..., str], home: Path) -> None:
    root = tmp_path / "models"
    write_real(root / "unet/my_flux_fp8.safetensors", layout("flux-dev"), "fp8")
    write_real(root / "unet/flux1-fill-dev.safetensors", layout("flux-fill"), "bf16")
    write_real(root / "clip/t5xxl_fp8_e4m3fn.safetensors", layout("t5-xxl"), "fp8")
    write_real(root / "clip/t5xxl_fp16.safetensors", layout("t5-xxl"), "fp16")
    write_real(root / "clip/clip_l.safetensors", layout("clip-l"), "fp16")
    write_real(root / "vae/ae.safetensors", layout("vae-16"), "fp32")
    write_real(root / "vae/sdxl.safetensors", layout("vae-4"), "fp32")
    adopt(root)
    table = read_adopted(home).models["my-flux:fp8"]
    assert table["like"] == "flux-dev:q8"
    assert {component: Path(path).name for component, path in table["files"].items()} == {
        "transformer": "my_flux_fp8.safetensors",
        "t5_encoder": "t5xxl_fp16.safetensors",
        "clip_encoder": "clip_l.safetensors",
        "vae": "ae.safetensors",
    }
    with Engine(Settings.load()) as engine:
        fill = engine.resolve("flux1-fill-dev:bf16")
        assert (fill.defaults.guidance, fill.defaults.width) == (30.0, 1024)
    with Engine(Settings.load()) as engine, pytest.raises(ModelNotFoundError, match=r"2 of 6 files \(0\.0 GB\)"):
        engine.store.locate(engine.resolve("my-flux"))  # the tokenizers, which the catalog fetches


def test_a_hugging_face_cache_is_searched_through_its_links(
    tmp_path: Path, comfy: Path, adopt: Callable[..., str], home: Path
) -> None:
    repo = tmp_path / "hub/models--someone--House-Painter"
    for name, blob in (("transformer", "unet/house_painter_bf16"), ("vae", "vae/house.vae")):
        (repo / "blobs").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(comfy / f"models/{blob}.safetensors", repo / "blobs" / name)
        for commit in ("a" * 40, "b" * 40):
            link = repo / "snapshots" / commit / name / "diffusion_pytorch_model.safetensors"
            link.parent.mkdir(parents=True)
            link.symlink_to(repo / "blobs" / name)
    adopt(tmp_path / "hub")
    assert list(read_adopted(home).models) == ["house-painter:bf16"]  # once, though two snapshots have it


def test_extra_model_paths_name_folders(comfy: Path, tmp_path: Path) -> None:
    (tmp_path / "store/unets").mkdir(parents=True)
    (tmp_path / "store/more").mkdir()
    (comfy / "extra_model_paths.yaml").write_text(
        "comfyui:\n  base_path: ../store\n  is_default: true\n  checkpoints: nowhere\n"
        "  diffusion_models: |\n    unets\n    more\nother:\n  base_path: /nowhere\n  vae: vae\n"
    )
    unets, more = tmp_path / "store/unets", tmp_path / "store/more"
    assert locations_of(comfy).roots == (comfy / "models", unets, more)
    assert locations_of(comfy / "extra_model_paths.yaml").roots == (unets, more)


@pytest.mark.parametrize("text", ["a: [", "a: 2001-02-30"])
def test_a_damaged_yaml_is_a_remark_and_no_end(text: str, comfy: Path) -> None:
    (comfy / "extra_model_paths.yaml").write_text(text)
    locations = locations_of(comfy)
    assert locations.roots == (comfy / "models",)
    assert "cannot be read" in locations.notes[0]


def test_folders_with_impossible_names_are_left_out(comfy: Path) -> None:
    long = "z" * 5000
    (comfy / "extra_model_paths.yaml").write_text(f"a:\n  vae: {long}\n")
    (comfy / "config.txt").write_text(json.dumps({"path_checkpoints": [long, "a\0b"]}))
    assert locations_of(comfy).roots == (comfy / "models",)


def test_models_that_invokeai_uses_in_place_are_found_under_its_names(
    tmp_path: Path, comfy: Path, adopt: Callable[..., str], home: Path
) -> None:
    root = tmp_path / "invokeai"
    (root / "databases").mkdir(parents=True)
    (root / "models/0a1b").mkdir(parents=True)
    shutil.copyfile(comfy / "models/vae/house.vae.safetensors", root / "models/0a1b/model.safetensors")
    unet = comfy / "models/unet/house_painter_bf16.safetensors"
    with closing(sqlite3.connect(root / "databases/invokeai.db")) as database, database:
        database.execute("CREATE TABLE models (id TEXT PRIMARY KEY, config TEXT NOT NULL)")
        for path, name in ((str(unet), "Painter of Houses"), ("0a1b", "VAE"), ("gone", "Gone")):
            database.execute("INSERT INTO models VALUES (?, ?)", (name, json.dumps({"path": path, "name": name})))
    adopt(root)
    table = read_adopted(home).models["painter-of-houses:bf16"]
    assert table["files"]["vae"] == str(root / "models/0a1b/model.safetensors")


def test_links_that_lead_in_circles_end(comfy: Path, adopt: Callable[..., str], home: Path) -> None:
    (comfy / "models/unet/again").symlink_to(comfy / "models", target_is_directory=True)
    adopt(comfy)
    assert len(read_adopted(home).models) == 2


def test_a_path_that_is_not_there_is_an_error(mold: Mold, tmp_path: Path) -> None:
    done = mold("adopt", tmp_path / "nowhere")
    assert done.returncode == 1
    assert "there is no such file or folder" in done.stderr


def test_info_shows_what_a_file_is(comfy: Path, mold: Mold) -> None:
    shown = mold("info", comfy / "models/unet/house_painter_bf16.safetensors").stdout
    assert "flux-nano transformer, bf16" in shown
    assert "the family flux runs it" in shown
    folder = mold("info", comfy / "models").stdout
    assert "vae/house.vae.safetensors: VAE of flux-nano, bf16" in folder
    report = json.loads(mold("info", comfy / "models/vae/house.vae.safetensors", "--json").stdout)
    assert (report["title"], report["verdict"]["runs"]) == ("VAE of flux-nano, bf16", None)
    assert "no such file" in mold("info", comfy / "nowhere.safetensors").stderr


@pytest.mark.parametrize("copy", [True, False])
def test_components_whose_files_have_one_name_stay_apart(copy: bool, tmp_path: Path) -> None:
    name, sources = "diffusion_pytorch_model.safetensors", {}
    for component in ("transformer", "vae"):
        sources[component] = tmp_path / "folder" / component / name
        sources[component].parent.mkdir(parents=True)
        sources[component].write_text(f"the {component}")
    plan = planned({component: str(path) for component, path in sources.items()})
    transferred(plan, tmp_path / "models", copy=False, report=print)
    files = transferred(plan, tmp_path / "models", copy=copy, report=print).adopted.models["m:bf16"]["files"]
    for component, path in files.items():
        assert Path(path).is_relative_to(tmp_path / "models")
        assert Path(path).read_text() == sources[component].read_text() == f"the {component}"
        assert Path(path).is_symlink() != copy


def test_a_copy_does_not_go_through_a_link_into_another_file(tmp_path: Path) -> None:
    mine, source = tmp_path / "mine.safetensors", tmp_path / "new" / "x.safetensors"
    mine.write_text("mine")
    source.parent.mkdir()
    source.write_text("longer than mine")
    target = tmp_path / "models" / "m-bf16" / "x.safetensors"
    target.parent.mkdir(parents=True)
    target.symlink_to(mine)
    transferred(planned({"transformer": str(source)}), tmp_path / "models", copy=True, report=print)
    assert (mine.read_text(), target.read_text()) == ("mine", "longer than mine")


def test_a_file_that_is_gone_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "models/m-bf16").mkdir(parents=True)
    (tmp_path / "models/m-bf16/gone").write_text("an older one")
    with pytest.raises(OutputError, match="gone"):
        transferred(planned({"vae": str(tmp_path / "gone")}), tmp_path / "models", copy=True, report=print)


def planned(files: dict[str, str]) -> Plan:
    found = Found(Recognised(paths=tuple(files.values()), size_bytes=1), "m", "folder")
    adopted = Adopted(models={"m:bf16": {"files": files}})
    return Plan(adopted=adopted, models={"m:bf16": found}, loras={}, components=(), others=(), unknown=(), missing={})


def test_the_settings_of_a_model_in_config_toml_come_first(
    comfy: Path, adopt: Callable[..., str], home: Path, mold: Mold
) -> None:
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.toml").write_text('[models."house-painter:bf16"]\nlike = "flux-nano:bf16"\ndescription = "mine"\n')
    assert "house-painter-2:bf16" in adopt(comfy)
    assert "mine" in mold("list").stdout


@pytest.mark.parametrize(
    "text",
    [
        '{"folders": 3, "models": []',
        '{"folders": [], "models": {"x:y": {"family": "flux", "files": [1]}}, "loras": {}, "ignored": []}',
        '{"folders": [], "models": {"x:y": {"files": {"vae": 1}, "sizes": [2]}}, "loras": {}, "ignored": []}',
    ],
)
def test_a_damaged_list_of_adopted_models_is_like_none(text: str, home: Path) -> None:
    home.mkdir(parents=True)
    (home / "adopted.json").write_text(text)
    with Engine(Settings.load()) as engine:
        assert "flux-nano:bf16" in engine.plugins.models
