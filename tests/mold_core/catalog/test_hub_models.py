"""What is in no catalog comes from the hub: the files that are meant, what they are, and their licence."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import attrs
import pytest
from fake_hub import FakeHub, fake_hub
from PIL import Image

from mold_core import DownloadError, ValidationError, load_plugins
from mold_core.catalog.hub import Hub
from mold_core.catalog.hub_models import HubSource, files_to_fetch, parse_source, read_repository
from mold_core.recognition import knowledge_of
from mold_core.recognition.remote import recognise_remote

Mold = Callable[..., CompletedProcess[Any]]
NANO = Path(__file__).parents[3] / "plugins" / "mold_nano" / "mold_nano" / "models" / "flux-nano"
HOUSE = "someone/House-Painter"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fake_hub() as hub:
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("NO_PROXY", "*")
        yield hub


@pytest.fixture
def house(hub: FakeHub) -> FakeHub:
    """A repository with the transformer of flux-nano."""
    content = (NANO / "flux-nano.safetensors").read_bytes()
    hub.add(HOUSE, "house-painter_bf16.safetensors", content)
    hub.add(HOUSE, "README.md", b"# A painter", large=False)
    hub.cards[HOUSE] = {"license": "mit"}
    return hub


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("hf:org/repo", HubSource("org/repo")),
        ("hf:org/repo:model-Q4_K_M.gguf", HubSource("org/repo", "model-Q4_K_M.gguf")),
        ("hf:org/repo/split/model.safetensors", HubSource("org/repo", "split/model.safetensors")),
        ("https://huggingface.co/org/repo", HubSource("org/repo")),
        ("https://huggingface.co/org/repo/tree/main", HubSource("org/repo")),
        ("https://huggingface.co/org/repo/tree/main/split", HubSource("org/repo", "split/*")),
        ("https://hf.co/org/repo/blob/main/a%20b.gguf", HubSource("org/repo", "a b.gguf")),
        ("https://huggingface.co/org/repo/resolve/main/x/y.gguf?download=true", HubSource("org/repo", "x/y.gguf")),
        ("http://localhost:8080/org/repo", HubSource("org/repo")),
    ],
)
def test_a_source_is_read(text: str, source: HubSource) -> None:
    assert parse_source(text, "http://localhost:8080") == source


@pytest.mark.parametrize(
    "text",
    [
        "hf:repo",
        "hf:org/re po",
        "hf:org/repo:../../etc/passwd",
        "hf:../..",
        "https://example.com/org/repo",
        "https://huggingface.co/datasets/org/repo",
        "https://huggingface.co/org/repo/resolve/v2/file.gguf",
        "https://huggingface.co",
        "https://[huggingface.co/org/repo",
        "https:///org/repo",
    ],
)
def test_what_names_no_repository_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        parse_source(text)


def test_a_size_that_fits_no_disk_leaves_a_file_unknown(house: FakeHub) -> None:
    hub, knowledge = Hub(), knowledge_of(load_plugins())
    remote = hub.look_up(HOUSE, "house-painter_bf16.safetensors")
    assert recognise_remote(hub, remote, knowledge) is not None
    for size_bytes in (2**62, 2**63):
        assert recognise_remote(hub, attrs.evolve(remote, size_bytes=size_bytes), knowledge) is None


def names(hub: FakeHub, repo: str, wanted: str = "") -> list[str]:
    return [file.path for file in files_to_fetch(read_repository(Hub(), repo), wanted)]


def test_the_files_that_are_meant(hub: FakeHub) -> None:
    for name in ("m-Q4_K_M.gguf", "m-Q8_0.gguf", "m-bf16-00001-of-00002.gguf", "m-bf16-00002-of-00002.gguf"):
        hub.add("org/several", name, b"GGUF" + bytes(2_000_000))
    hub.add("org/pickle", "model.ckpt", b"PK")
    for name in (
        "model_index.json", "transformer/diffusion_pytorch_model.safetensors", "vae/config.json",
        "transformer/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.fp16.safetensors",
        "whole.safetensors",
    ):  # fmt: skip
        hub.add("org/pipeline", name, b"{}")
    assert names(hub, "org/several", "m-Q8_0.gguf") == ["m-Q8_0.gguf"]
    assert names(hub, "org/several", "*Q4*") == ["m-Q4_K_M.gguf"]
    assert names(hub, "org/several", "m-bf16-00002-of-00002.gguf") == [
        "m-bf16-00001-of-00002.gguf", "m-bf16-00002-of-00002.gguf",
    ]  # fmt: skip
    with pytest.raises(DownloadError, match=r"has 3 models: m-Q4_K_M\.gguf \(2\.0 MB\)") as refused:
        names(hub, "org/several")
    assert "mold pull hf:org/several:FILE" in str(refused.value)
    with pytest.raises(DownloadError, match=r"has no file other\.gguf"):
        names(hub, "org/several", "other.gguf")
    with pytest.raises(DownloadError, match="pickle files"):
        names(hub, "org/pickle")
    assert names(hub, "org/pipeline") == [
        "transformer/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.fp16.safetensors",
        "model_index.json", "vae/config.json",
    ]  # fmt: skip
    with pytest.raises(DownloadError, match="no repository org/none"):
        names(hub, "org/none")


def test_a_repository_becomes_a_model_that_draws(house: FakeHub, mold: Mold, home: Path) -> None:
    done = mold("pull", f"hf:{HOUSE}", text=True)
    assert done.returncode == 0, done.stderr
    before = done.stderr.partition("fetching")[0]
    assert "house-painter_bf16.safetensors: flux-nano transformer, bf16" in before
    assert "7.2 MB" in before
    assert "licence: mit" in before
    assert "house-painter:bf16" in done.stdout
    assert "README" not in done.stderr
    file = home / f"models/hf-{HOUSE}/house-painter_bf16.safetensors"
    assert file.read_bytes() == (NANO / "flux-nano.safetensors").read_bytes()
    drawn = mold("run", "-m", "house-painter", "a red house", "--seed", "3", stdin=b"", text=False)
    assert Image.open(io.BytesIO(drawn.stdout)).size == (128, 128), drawn.stderr
    again = mold("pull", f"{house.url}/{HOUSE}/resolve/main/house-painter_bf16.safetensors?download=true")
    assert again.returncode == 0, again.stderr
    assert "fetching" not in again.stderr  # it is here
    assert "deleted" in mold("rm", "house-painter", "--yes").stdout
    assert not file.exists()


def test_what_no_plugin_runs_is_named_before_it_is_fetched(hub: FakeHub, mold: Mold) -> None:
    from safetensors.torch import save
    from torch import zeros

    hub.add("org/other", "tae.safetensors", save({"taesd_decoder.1.weight": zeros(64, 4, 3, 3)}))
    done = mold("pull", "hf:org/other")
    assert "tae.safetensors: tiny autoencoder for previews (TAESD) VAE, fp32" in done.stderr
    assert "licence: not stated" in done.stderr
    assert "No model was found that mold runs." in done.stdout


def test_a_gated_repository_says_how_to_get_in(hub: FakeHub, mold: Mold) -> None:
    hub.add("org/gated", "model.safetensors", b"secret", gated=True)
    hub.cards["org/gated"] = {"license": "other", "license_name": "flux-1-dev-non-commercial-license"}
    done = mold("pull", "hf:org/gated")
    assert done.returncode == 1
    assert "requires accepting its licence" in done.stderr


def test_files_that_lie_are_refused(hub: FakeHub, mold: Mold) -> None:
    hub.add("org/liar", "model.safetensors", bytes(5000), served=bytes(4999) + b"\1")
    done = mold("pull", "hf:org/liar")
    assert done.returncode == 1
    assert "sha256" in done.stderr


def test_a_server_does_not_pull_from_the_hub(mold: Mold) -> None:
    done = mold("pull", "hf:org/repo", "--host", "localhost:1")
    assert done.returncode == 2
    assert "applies to this machine only" in done.stderr
    assert "MOLD_OFFLINE is set" in mold("pull", "hf:org/repo", MOLD_OFFLINE="1").stderr
