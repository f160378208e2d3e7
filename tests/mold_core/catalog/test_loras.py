"""LoRA by name or path: what is found, and what requests over the network may not name."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from mold_core import GenerateRequest, LoraWeight, ValidationError
from mold_core.catalog import LoraFolder, SuppliedLora, refuse_lora_paths


@pytest.fixture
def folder(tmp_path: Path) -> LoraFolder:
    path = tmp_path / "loras"
    for name in ("sepia.safetensors", "sub/ink.safetensors", "v1.5.safetensors", "notes.txt"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).touch()
    (tmp_path / "secret.safetensors").touch()
    return LoraFolder(path)


def located(folder: LoraFolder, text: str) -> str:
    return folder.locate(LoraWeight(path=text), "loras[0].path").path


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("sepia", "sepia.safetensors"),
        ("sepia.safetensors", "sepia.safetensors"),
        ("sub/ink", "sub/ink.safetensors"),
        ("v1.5", "v1.5.safetensors"),
    ],
)
def test_a_name_is_a_file_of_the_folder(folder: LoraFolder, name: str, file: str) -> None:
    assert located(folder, name) == str(folder.path / file)


def test_names_are_listed_with_their_files(folder: LoraFolder) -> None:
    assert [name for name, _ in folder.names()] == ["sepia", "sub/ink", "v1.5"]
    assert all(located(folder, name) == str(file) for name, file in folder.names())
    assert list(LoraFolder(folder.path / "absent").names()) == []


def test_an_absolute_path_is_taken_as_it_is(
    folder: LoraFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = str(tmp_path / "secret.safetensors")
    assert located(folder, secret) == secret
    monkeypatch.setenv("HOME", str(tmp_path))
    assert located(folder, "~/secret.safetensors") == secret


def test_an_unknown_name_is_answered_with_the_nearest(folder: LoraFolder) -> None:
    with pytest.raises(
        ValidationError, match=r"loras\[0\]\.path is not a LoRA in .*'sepai'; nearest: sepia; mold list --loras"
    ):
        located(folder, "sepai")


@pytest.mark.parametrize("name", ["../secret", "sub/../../secret", "sub", ".", "", "\0", "a\0b", "x" * 5000])
def test_a_name_never_leads_out_of_the_folder(folder: LoraFolder, name: str) -> None:
    with pytest.raises(ValidationError):
        located(folder, name)


def test_a_path_that_is_no_file_is_an_error(folder: LoraFolder) -> None:
    with pytest.raises(ValidationError, match="is not a file"):
        located(folder, str(folder.path / "absent.safetensors"))


@pytest.mark.parametrize("path", ["/etc/passwd", "~/x", "~root/x", "C:\\x", "\\\\host\\share\\x", "//host/x"])
@pytest.mark.parametrize("field", ["lora", "loras"])
def test_the_network_names_no_files(path: str, field: str) -> None:
    lora = LoraWeight(path=path)
    request = GenerateRequest(prompt="a", **{field: lora if field == "lora" else (lora,)})  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="a server accepts only names"):
        refuse_lora_paths(request)


def test_the_network_names_adapters_of_the_folder(folder: LoraFolder) -> None:
    request = GenerateRequest(prompt="a", loras=(LoraWeight(path="sub/ink"), LoraWeight(path="sepia")))
    refuse_lora_paths(request)
    assert [Path(lora.path).name for lora in folder.located(request) or ()] == ["ink.safetensors", "sepia.safetensors"]
    refuse_lora_paths(GenerateRequest(prompt="a"))


def test_a_name_that_leads_upwards_is_no_path_but_found_nowhere(folder: LoraFolder) -> None:
    request = GenerateRequest(prompt="a", loras=(LoraWeight(path="../secret"),))
    refuse_lora_paths(request)
    with pytest.raises(ValidationError, match=r"loras\[0\]\.path is not a LoRA"):
        folder.located(request)


def test_adapters_of_the_catalog_go_by_the_names_they_are_pulled_by(tmp_path: Path) -> None:
    here = tmp_path / "static.safetensors"
    here.write_bytes(b"x")
    folder = LoraFolder(
        tmp_path / "loras",
        {
            "camera:static": SuppliedLora(file=here, models="big-1"),
            "camera:in": SuppliedLora(file=tmp_path / "in.safetensors", models="big-1"),
        },
        "big-1-fast:fp8",
    )
    assert folder.locate(LoraWeight(path="camera:static"), "lora.path").path == str(here)
    with pytest.raises(ValidationError, match="camera:in is not downloaded") as caught:
        folder.locate(LoraWeight(path="camera:in"), "lora.path")
    assert caught.value.hint == "download it: mold pull camera:in"
    with pytest.raises(ValidationError, match="nearest: camera:static"):
        folder.locate(LoraWeight(path="camera:statik"), "lora.path")
    other = attrs.evolve(folder, model="big-2:fp8")
    with pytest.raises(ValidationError, match=r"camera:static is for big-1 models, not for big-2:fp8"):
        other.locate(LoraWeight(path="camera:static"), "loras[0].path")
