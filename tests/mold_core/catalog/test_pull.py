"""The files of a model come from a hub, whole, verified and once, whatever happens on the way."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_hub import FakeFile, FakeHub, fake_hub
from huggingface_hub import close_session, constants

from mold_core import (
    CancelledError,
    CheckpointError,
    DownloadError,
    ModelFile,
    ModelSpec,
    OutputError,
    PluginError,
    UnknownModelError,
)
from mold_core.catalog import ModelStore, fetch, report, verify
from mold_core.catalog.pull import pull
from mold_core.testing import FakePlugin, engine_with
from mold_core.wire import CacheHit, DownloadDone, DownloadProgress, Info, PullComplete

WEIGHTS = bytes(range(256)) * 800
ENCODER = bytes(reversed(range(256))) * 300
TOKENIZER = b'{"words": ["red", "house"]}'


@pytest.fixture(autouse=True, scope="module")
def session() -> Iterator[None]:
    """One session for all tests here: a new one takes 80 ms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "*")
        close_session()
        yield
        close_session()


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody is logged in, and nobody waits between attempts."""
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr(fetch, "_WAITS_S", (0.0, 0.0, 0.0, 0.0, 0.0))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fake_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


@pytest.fixture
def weights(hub: FakeHub) -> FakeFile:
    return hub.add("paint/house", "house.safetensors", WEIGHTS)


@pytest.fixture
def house(hub: FakeHub, weights: FakeFile) -> ModelSpec:
    """A model of one large file of its own, a large shared one, and a small one without a known checksum."""
    encoder = hub.add("paint/encoders", "t5.safetensors", ENCODER)
    hub.add("paint/encoders", "tokenizer.json", TOKENIZER, large=False)
    return spec(
        entry("house-q8/house.safetensors", "paint/house", weights),
        entry("shared/paint/t5.safetensors", "paint/encoders", encoder),
        ModelFile(component="c2", path="shared/paint/tokenizer.json", repo="paint/encoders", size_bytes=len(TOKENIZER)),
    )


def entry(path: str, repo: str, file: FakeFile | None, **values: Any) -> ModelFile:
    known = {"size_bytes": len(file.content), "sha256": file.sha256} if file else {}
    return ModelFile(**{"component": path, "path": path, "repo": repo, **known, **values})


def spec(*files: ModelFile, name: str = "house:q8", **values: Any) -> ModelSpec:
    return ModelSpec(name=name, family="sketch", files=files, **values)


def files_below(folder: Path) -> dict[str, bytes]:
    """Return what lies in the models folder, but for locks and the ledger."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: path.read_bytes() for name, path in found.items() if ".locks" not in name and name != ".verified.json"
    }


class Listener:
    """Keeps the events; answers False once `bytes_until_stop` of a file are here."""

    def __init__(self, bytes_until_stop: int | None = None) -> None:
        self.events: list[Any] = []
        self.bytes_until_stop = bytes_until_stop

    def __call__(self, event: Any) -> bool:
        self.events.append(event)
        stop = self.bytes_until_stop
        return stop is None or not isinstance(event, DownloadProgress) or event.bytes_downloaded < stop

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def every_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "_EVENT_EVERY_S", 0.0)


# --- what arrives ------------------------------------------------------------------------------------------------


def test_every_file_comes_to_where_the_catalog_says(house: ModelSpec, store: ModelStore) -> None:
    files = pull(house, store)
    assert files_below(store.models_dir) == {
        "house-q8/house.safetensors": WEIGHTS,
        "shared/paint/t5.safetensors": ENCODER,
        "shared/paint/tokenizer.json": TOKENIZER,
    }
    assert files.one("c2").read_bytes() == TOKENIZER
    assert store.has(house)


def test_a_second_pull_asks_nobody_and_reads_nothing(
    house: ModelSpec, store: ModelStore, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull(house, store)
    hub.requests.clear()
    monkeypatch.setattr(verify, "update_digest", None)
    listener = Listener()
    pull(house, store, on_event=listener)
    assert hub.requests == []
    assert [event.resource for event in listener.of(CacheHit)] == [
        "house.safetensors",
        "t5.safetensors",
        "tokenizer.json",
    ]
    assert listener.events[-1] == PullComplete(model="house:q8")


def test_a_shared_file_is_fetched_once(house: ModelSpec, store: ModelStore, hub: FakeHub) -> None:
    pull(house, store)
    barn = hub.add("paint/barn", "barn.safetensors", b"barn")
    own = entry("barn-q8/barn.safetensors", "paint/barn", barn)
    pull(spec(own, *house.files[1:], name="barn:q8"), store)
    assert hub.files["paint/encoders", "t5.safetensors"].bytes_sent == len(ENCODER)


@pytest.mark.parametrize("links", [True, False])
def test_content_that_is_here_under_another_path_is_not_fetched(
    house: ModelSpec, store: ModelStore, hub: FakeHub, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull(house, store)
    hub.requests.clear()
    if not links:
        monkeypatch.setattr(os, "link", refuse(errno.EPERM))
    other = entry("elsewhere/encoder.safetensors", "another/repo", hub.files["paint/encoders", "t5.safetensors"])
    here = pull(spec(other, name="other:q8"), store).one(other.path)
    assert here.read_bytes() == ENCODER
    assert here.samefile(store.models_dir / "shared/paint/t5.safetensors") == links
    assert hub.requests == []


def test_a_file_put_there_by_hand_is_taken(house: ModelSpec, store: ModelStore, weights: FakeFile) -> None:
    put(store, "house-q8/house.safetensors", WEIGHTS)
    pull(house, store)
    assert weights.bytes_sent == 0


@pytest.mark.parametrize("wrong", [WEIGHTS[:-1], WEIGHTS[:-1] + b"!"])
def test_a_wrong_file_is_explained_and_replaced(house: ModelSpec, store: ModelStore, wrong: bytes) -> None:
    path = put(store, "house-q8/house.safetensors", wrong)
    listener = Listener()
    pull(house, store, on_event=listener)
    assert path.read_bytes() == WEIGHTS
    assert any("exists but has" in event.message for event in listener.of(Info))


def test_skip_verify_leaves_what_is_here(house: ModelSpec, store: ModelStore) -> None:
    path = put(store, "house-q8/house.safetensors", b"my own")
    pull(house, store, skip_verify=True)
    assert path.read_bytes() == b"my own"


def test_a_changed_file_is_looked_at_again(house: ModelSpec, store: ModelStore, weights: FakeFile) -> None:
    pull(house, store)
    path = put(store, "house-q8/house.safetensors", WEIGHTS[:-1] + b"!")
    os.utime(path, ns=(1, 1))
    pull(house, store)
    assert path.read_bytes() == WEIGHTS
    assert weights.bytes_sent == 2 * len(WEIGHTS)


@pytest.mark.parametrize("damage", ["", "[]", '{"house-q8/house.safetensors": 7}', "{"])
def test_a_damaged_ledger_costs_a_look_and_no_more(
    house: ModelSpec, store: ModelStore, weights: FakeFile, damage: str
) -> None:
    pull(house, store)
    (store.models_dir / ".verified.json").write_text(damage)
    pull(house, store)
    assert weights.bytes_sent == len(WEIGHTS)


def test_a_folder_linked_from_another_disk_gets_a_copy(
    house: ModelSpec, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.replace

    def replace(source: Path, target: Path) -> None:
        if Path(source).suffix == ".incomplete":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(source, target)

    monkeypatch.setattr(os, "replace", replace)
    pull(house, store)
    assert files_below(store.models_dir)["house-q8/house.safetensors"] == WEIGHTS
    assert not list(store.models_dir.rglob("*.incomplete"))


def put(store: ModelStore, path: str, content: bytes) -> Path:
    target = store.models_dir / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return target


def refuse(number: int) -> Any:
    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return refused


# --- interruptions -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("every_event")
def test_a_cancelled_pull_goes_on_where_it_stopped(house: ModelSpec, store: ModelStore, weights: FakeFile) -> None:
    with pytest.raises(CancelledError):
        pull(house, store, on_event=Listener(bytes_until_stop=80_000))
    (part,) = store.models_dir.rglob("*.incomplete")
    came = part.read_bytes()
    assert 80_000 <= len(came) < len(WEIGHTS)
    assert not store.has(house)
    assert not store.marker_of(house).exists()
    pull(house, store)
    assert weights.ranges == ["", f"bytes={len(came)}-"]
    # By answer: the server may still be sending the first one when the second is asked for.
    assert weights.sent[1] == len(WEIGHTS) - len(came)
    assert files_below(store.models_dir)["house-q8/house.safetensors"] == WEIGHTS


def test_a_dropped_connection_is_taken_up_again(house: ModelSpec, store: ModelStore, weights: FakeFile) -> None:
    weights.drops = [50_000, 70_000]
    listener = Listener()
    pull(house, store, on_event=listener)
    assert files_below(store.models_dir)["house-q8/house.safetensors"] == WEIGHTS
    assert weights.bytes_sent == len(WEIGHTS)
    assert weights.ranges == ["", "bytes=50000-", "bytes=120000-"]
    assert sum("retrying" in event.message for event in listener.of(Info)) == 2


def test_a_connection_that_brings_nothing_is_given_up_and_what_came_is_kept(
    house: ModelSpec, store: ModelStore, weights: FakeFile
) -> None:
    weights.drops = [50_000] + [0] * 6
    with pytest.raises(DownloadError, match=r"6 times in a row; downloaded bytes are kept: pull again"):
        pull(house, store)
    pull(house, store)
    assert weights.bytes_sent == len(WEIGHTS)


def test_a_busy_hub_is_asked_again(house: ModelSpec, store: ModelStore, weights: FakeFile) -> None:
    weights.statuses = [503, 429, 500]
    pull(house, store)
    assert weights.statuses == []


def test_a_hub_that_stays_busy_is_given_up(house: ModelSpec, store: ModelStore, weights: FakeFile) -> None:
    weights.statuses = [503] * 6
    with pytest.raises(DownloadError, match=r"127.0.0.1 responds with 503, 6 times in a row"):
        pull(house, store)


@pytest.mark.usefixtures("every_event")
def test_a_hub_that_cannot_skip_sends_all_again(house: ModelSpec, store: ModelStore, weights: FakeFile) -> None:
    weights.drops, weights.ignores_ranges = [50_000], True
    pull(house, store)
    assert files_below(store.models_dir)["house-q8/house.safetensors"] == WEIGHTS
    assert weights.bytes_sent == len(WEIGHTS) + 50_000


@pytest.mark.parametrize("leftover", [b"rubbish of the same etag", WEIGHTS + b"more"])
def test_a_wrong_beginning_never_becomes_a_file(
    house: ModelSpec, store: ModelStore, weights: FakeFile, leftover: bytes
) -> None:
    part = f".hf-cache/models--paint--house/blobs/{weights.sha256}.incomplete"
    put(store, part, leftover)
    if len(leftover) < len(WEIGHTS):
        with pytest.raises(DownloadError, match="arrived damaged and was deleted"):
            pull(house, store)
    pull(house, store)
    assert files_below(store.models_dir)["house-q8/house.safetensors"] == WEIGHTS


def test_a_whole_file_that_was_not_moved_yet_is_not_fetched_again(
    house: ModelSpec, store: ModelStore, weights: FakeFile
) -> None:
    put(store, f".hf-cache/models--paint--house/blobs/{weights.sha256}.incomplete", WEIGHTS)
    pull(house, store)
    assert weights.bytes_sent == 0


def test_a_stale_marker_blocks_nothing(house: ModelSpec, store: ModelStore) -> None:
    pull(house, store)
    store.marker_of(house).touch()
    assert not store.has(house)
    pull(house, store)
    assert store.has(house)


def test_a_model_is_not_here_while_it_is_pulled(house: ModelSpec, store: ModelStore) -> None:
    here: list[bool] = []
    pull(
        house, store, on_event=lambda event: here.append(store.has(house)) if isinstance(event, DownloadDone) else None
    )
    assert here == [False, False, False]


def test_pulls_at_the_same_time_fetch_a_file_once(house: ModelSpec, store: ModelStore, weights: FakeFile) -> None:
    weights.hold_after = 40_000
    follower = Listener()
    threads = [threading.Thread(target=pull, args=(house, store))]
    threads[0].start()
    assert weights.held.wait(120)

    def follow(event: Any) -> None:
        follower(event)
        if isinstance(event, Info) and "waiting for it" in event.message:
            weights.released.set()

    pull(house, store, on_event=follow)
    threads[0].join()
    assert weights.bytes_sent == len(WEIGHTS)
    assert "another process is downloading house.safetensors; waiting for it" in [
        event.message for event in follower.of(Info)
    ]
    assert files_below(store.models_dir).keys() == {file.path for file in house.files}


# --- what the hub sends is not what the catalog means ------------------------------------------------------------


def test_damaged_bytes_are_deleted_and_both_checksums_named(
    house: ModelSpec, store: ModelStore, weights: FakeFile
) -> None:
    weights.served = WEIGHTS[:-1] + b"!"
    got = hashlib.sha256(weights.served).hexdigest()
    words = f"house.safetensors of paint/house arrived damaged.*expected sha256 {weights.sha256}, got {got}"
    with pytest.raises(DownloadError, match=words):
        pull(house, store)
    assert files_below(store.models_dir) == {}
    weights.served = None
    pull(house, store)
    assert store.has(house)


@pytest.mark.parametrize("served", [WEIGHTS[:90_000], WEIGHTS[:90_000] + b"!"])
def test_a_file_that_is_shorter_than_the_hub_says_is_refused(
    house: ModelSpec, store: ModelStore, weights: FakeFile, served: bytes
) -> None:
    weights.served = served
    with pytest.raises(DownloadError, match=r"has fewer bytes of house.safetensors of paint/house than it announced"):
        pull(house, store)
    assert not (store.models_dir / "house-q8/house.safetensors").exists()


def test_a_file_that_is_longer_than_the_hub_says_is_refused(
    house: ModelSpec, store: ModelStore, weights: FakeFile
) -> None:
    weights.served = WEIGHTS + b"more"
    with pytest.raises(DownloadError, match=r"more than the 204,800 bytes it announced"):
        pull(house, store)
    assert files_below(store.models_dir) == {}


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({"sha256": "0" * 64}, f"expected sha256 {'0' * 64}, got "),
        ({"size_bytes": 7}, "expected size 7, got 204800"),
    ],
)
def test_a_file_that_was_exchanged_is_refused_before_it_comes(
    store: ModelStore, weights: FakeFile, known: dict[str, Any], words: str
) -> None:
    model = spec(entry("house-q8/house.safetensors", "paint/house", weights, **known))
    with pytest.raises(DownloadError, match=f"has changed on the hub: {words}") as caught:
        pull(model, store)
    assert "--skip-verify" in str(caught.value)
    assert weights.bytes_sent == 0
    pull(model, store, skip_verify=True)
    assert files_below(store.models_dir) == {"house-q8/house.safetensors": WEIGHTS}


def test_a_file_without_a_checksum_in_the_catalog_is_held_to_that_of_the_hub(
    store: ModelStore, weights: FakeFile
) -> None:
    weights.served = WEIGHTS[:-1] + b"!"
    with pytest.raises(DownloadError, match="arrived damaged"):
        pull(spec(entry("house-q8/house.safetensors", "paint/house", None)), store)


def test_checksums_in_capitals_are_understood(store: ModelStore, weights: FakeFile) -> None:
    model = spec(entry("house-q8/house.safetensors", "paint/house", weights, sha256=weights.sha256.upper()))
    pull(model, store)
    pull(model, store)
    assert weights.bytes_sent == len(WEIGHTS)


# --- what may not be fetched -------------------------------------------------------------------------------------


def test_a_licence_is_asked_for_before_anything_comes(house: ModelSpec, store: ModelStore, hub: FakeHub) -> None:
    hub.files["paint/encoders", "t5.safetensors"].gated = True
    with pytest.raises(DownloadError) as caught:
        pull(house, store)
    assert str(caught.value) == (
        f"paint/encoders requires accepting its licence; accept it at {hub.url}/paint/encoders, then set HF_TOKEN to a "
        "token of that account (https://huggingface.co/settings/tokens)"
    )
    assert hub.asked("GET") == []
    assert files_below(store.models_dir) == {}


def test_a_token_without_the_licence_is_told_so(house: ModelSpec, store: ModelStore, hub: FakeHub) -> None:
    hub.files["paint/encoders", "t5.safetensors"].gated = True
    words = "the account of your Hugging Face token has no access to paint/encoders; accept its licence at"
    with pytest.raises(DownloadError, match=words):
        pull(house, store, token="hf_stranger")


@pytest.mark.parametrize("how", ["argument", "variable", "file"])
def test_a_token_with_the_licence_opens_and_stays_with_the_hub(
    house: ModelSpec, store: ModelStore, hub: FakeHub, how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.files["paint/encoders", "t5.safetensors"].gated = True
    hub.members = {"hf_member"}
    if how == "variable":
        monkeypatch.setenv("HF_TOKEN", "hf_member")
    if how == "file":
        (tmp_path / "no token").write_text("hf_member")
    pull(house, store, token="hf_member" if how == "argument" else None)
    assert store.has(house)
    assert {token for method, path, token in hub.requests if "/resolve/" in path} == {"hf_member"}
    assert hub.tokens_at_cdn == set()


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("hf_wrong", "127.0.0.1 does not accept the token in HF_TOKEN; create a new one at"),
        ("hf_ü", "the Hugging Face token in HF_TOKEN contains characters that no token has"),
    ],
)
def test_a_token_that_is_none_is_told_so(house: ModelSpec, store: ModelStore, token: str, words: str) -> None:
    with pytest.raises(DownloadError, match=words):
        pull(house, store, token=token)


def test_what_the_hub_does_not_have_is_named(house: ModelSpec, store: ModelStore, hub: FakeHub) -> None:
    hub.files["paint/encoders", "tokenizer.json"].gone = True
    with pytest.raises(DownloadError, match=r"paint/encoders has no file tokenizer.json; check its page: http"):
        pull(house, store)
    with pytest.raises(DownloadError, match=r"has no repository no/body, or it is private"):
        pull(spec(ModelFile(component="a", path="a/b", repo="no/body")), store)
    with pytest.raises(DownloadError, match=r"has no repository no/body, or it is private"):
        pull(spec(ModelFile(component="a", path="a/b", repo="no/body")), store, token="hf_any")
    with pytest.raises(DownloadError, match=r"the catalog names 'no body', which is not a valid repository name"):
        pull(spec(ModelFile(component="a", path="a/b", repo="no body")), store)
    with pytest.raises(DownloadError, match=r"the catalog has no repository for b; put the file at .*models/a/b"):
        pull(spec(ModelFile(component="a", path="a/b")), store)


def test_a_renamed_repository_is_followed(house: ModelSpec, store: ModelStore, hub: FakeHub) -> None:
    hub.renamed["old/house"] = "paint/house"
    pull(spec(entry("h/house.safetensors", "old/house", None)), store)
    assert files_below(store.models_dir) == {"h/house.safetensors": WEIGHTS}


# --- no network --------------------------------------------------------------------------------------------------


def test_a_hub_that_is_not_there_is_named_at_once(house: ModelSpec, store: ModelStore) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(DownloadError, match=f"nothing can be downloaded: {endpoint} refuses connections"):
            pull(house, store, endpoint=endpoint)


def test_a_name_that_cannot_be_found_is_told_so(
    house: ModelSpec, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def getaddrinfo(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(DownloadError, match=r"the host name hub\.invalid cannot be resolved; is this machine online\?"):
        pull(house, store, endpoint="https://hub.invalid")


def test_offline_mode_is_respected(house: ModelSpec, store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        DownloadError, match=r"HF_HUB_OFFLINE is set, so house.safetensors of paint/house is not downloaded"
    ):
        pull(house, store)


def test_a_silent_hub_is_given_up(
    house: ModelSpec, store: ModelStore, weights: FakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_WAITS_S", (0.0,))
    weights.hold_after = 0

    def lose_patience(event: Any) -> None:
        if isinstance(event, DownloadProgress):
            monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.05)

    with pytest.raises(
        DownloadError, match=r"127.0.0.1 sent nothing for 0 s, 2 times in a row; downloaded bytes are kept"
    ):
        pull(house, store, on_event=lose_patience)


def test_a_server_that_is_no_hub_is_told_apart(house: ModelSpec, store: ModelStore, weights: FakeFile) -> None:
    weights.bare = True
    with pytest.raises(DownloadError, match=r"does not respond like a Hugging Face hub .*check HF_ENDPOINT"):
        pull(house, store)


@pytest.mark.parametrize(
    "endpoint", ["huggingface.co", "ftp://huggingface.co", "http://", "http://a:b", "http://a:99999"]
)
def test_an_endpoint_that_is_no_address_is_refused(house: ModelSpec, store: ModelStore, endpoint: str) -> None:
    with pytest.raises(DownloadError, match=r"HF_ENDPOINT must be a URL such as https://huggingface.co"):
        pull(house, store, endpoint=endpoint)


def test_without_huggingface_hub_the_way_out_is_named(
    house: ModelSpec, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DownloadError, match=r"needs the package huggingface_hub; pip install 'mold-core\[hub\]'"):
        pull(house, store)


# --- the disk ----------------------------------------------------------------------------------------------------


def test_room_is_looked_for_before_anything_comes(
    house: ModelSpec, store: ModelStore, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=200_000))
    with pytest.raises(
        OutputError, match=r"house:q8 needs 0.3 MB on the disk of /.*, but only 0.2 MB are free; free disk space, or"
    ):
        pull(house, store)
    assert hub.asked("GET") == []
    assert files_below(store.models_dir) == {}


def test_what_has_come_already_needs_no_room(
    house: ModelSpec, store: ModelStore, weights: FakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, f".hf-cache/models--paint--house/blobs/{weights.sha256}.incomplete", WEIGHTS[:190_000])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
    pull(house, store)
    assert store.has(house)


def test_a_folder_that_cannot_be_made_is_reported(house: ModelSpec, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write .*is not a folder"):
        pull(house, ModelStore(tmp_path / "file" / "models"))


# --- catalogs come from anyone -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/etc/cron.d/x",
        "../x",
        "a/../../x",
        "",
        ".",
        ".verified.json",
        ".hf-cache/x",
        "a/.pulling",
        "a\\..\\x",
        "C:x",
        "a\0b",
    ],
)
def test_a_path_out_of_the_models_folder_is_refused(store: ModelStore, weights: FakeFile, path: str) -> None:
    with pytest.raises(PluginError, match="'house:q8' has a path that is not allowed in the models folder"):
        pull(spec(entry(path, "paint/house", weights)), store)
    assert not store.models_dir.exists()


@pytest.mark.parametrize("name", ["../../x:q8", "/x:q8", ".x:q8"])
def test_a_name_that_makes_such_a_path_is_refused(store: ModelStore, weights: FakeFile, name: str) -> None:
    with pytest.raises(PluginError, match="is not allowed in the models folder"):
        pull(spec(entry("a/b", "paint/house", weights), name=name), store)


def test_an_etag_is_no_path(hub: FakeHub, store: ModelStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(FakeFile, "etag", "../../../../escaped")
    hub.add("paint/house", "house.safetensors", WEIGHTS)
    pull(spec(entry("a/house.safetensors", "paint/house", None)), store)
    assert files_below(tmp_path) == {"models/a/house.safetensors": WEIGHTS} | {
        name: content for name, content in files_below(tmp_path).items() if "/." in name
    }


# --- several files at once ---------------------------------------------------------------------------------------


def test_files_come_at_the_same_time(house: ModelSpec, store: ModelStore, weights: FakeFile) -> None:
    weights.hold_after = 40_000
    listener = Listener()

    def release(event: Any) -> None:
        listener(event)
        if len(listener.of(DownloadDone)) == 2:  # the other two are whole while the first still waits for its bytes
            weights.released.set()

    files = pull(house, store, on_event=release, at_once=4)
    assert files.by_component["house-q8/house.safetensors"][0].read_bytes() == WEIGHTS
    done = listener.of(DownloadDone)
    assert done[-1].filename == "house.safetensors"
    assert {(event.filename, event.file_index, event.total_files) for event in done} == {
        ("house.safetensors", 1, 3),
        ("t5.safetensors", 2, 3),
        ("tokenizer.json", 3, 3),
    }
    assert done[-1].batch_bytes_downloaded == len(WEIGHTS) + len(ENCODER) + len(TOKENIZER)
    assert isinstance(listener.events[-1], PullComplete)


def test_a_failure_of_one_file_ends_the_others_and_keeps_what_came(
    hub: FakeHub, house: ModelSpec, store: ModelStore, weights: FakeFile
) -> None:
    weights.pause_s = 0.01
    hub.files["paint/encoders", "t5.safetensors"].served = bytes(len(ENCODER))
    with pytest.raises(DownloadError, match="arrived damaged and was deleted"):
        pull(house, store, at_once=3)
    weights.pause_s = 0.0
    assert not store.has(house)
    hub.files["paint/encoders", "t5.safetensors"].served = None
    pull(house, store, at_once=3)
    assert store.has(house)


@pytest.mark.usefixtures("every_event")
def test_a_pull_of_several_files_can_be_cancelled(house: ModelSpec, store: ModelStore, weights: FakeFile) -> None:
    weights.pause_s = 0.01
    with pytest.raises(CancelledError):
        pull(house, store, on_event=Listener(bytes_until_stop=1), at_once=3)
    assert not store.has(house)
    weights.pause_s = 0.0
    for thread in threading.enumerate():
        if thread.name.startswith("mold-pull"):
            thread.join(120)  # each ends at its next report
    pull(house, store, at_once=3)
    assert files_below(store.models_dir)["house-q8/house.safetensors"] == WEIGHTS


def test_what_the_reader_raises_ends_a_pull_of_several_files(house: ModelSpec, store: ModelStore) -> None:
    with pytest.raises(BrokenPipeError):
        pull(house, store, on_event=refuse(errno.EPIPE), at_once=3)


def test_two_files_of_one_content_are_fetched_once(hub: FakeHub, store: ModelStore, weights: FakeFile) -> None:
    twin = hub.add("paint/twin", "twin.safetensors", WEIGHTS)
    both = spec(entry("a/house.safetensors", "paint/house", weights), entry("b/twin.safetensors", "paint/twin", twin))
    pull(both, store, at_once=2)
    assert files_below(store.models_dir) == {"a/house.safetensors": WEIGHTS, "b/twin.safetensors": WEIGHTS}


# --- what the reader is told -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("every_event")
def test_the_figures_are_true(house: ModelSpec, store: ModelStore) -> None:
    listener = Listener()
    pull(house, store, on_event=listener)
    total = len(WEIGHTS) + len(ENCODER) + len(TOKENIZER)
    done = listener.of(DownloadDone)
    assert [(event.filename, event.file_index, event.total_files) for event in done] == [
        ("house.safetensors", 1, 3),
        ("t5.safetensors", 2, 3),
        ("tokenizer.json", 3, 3),
    ]
    assert [event.batch_bytes_downloaded for event in done] == [len(WEIGHTS), len(WEIGHTS) + len(ENCODER), total]
    progress = listener.of(DownloadProgress)
    counts = [event.batch_bytes_downloaded for event in progress]
    assert counts == sorted(counts)
    assert {event.batch_bytes_total for event in progress} == {total}
    assert all(event.bytes_downloaded <= event.bytes_total for event in progress)
    assert max(event.bytes_downloaded for event in progress if event.file_index == 1) == len(WEIGHTS)


@pytest.mark.usefixtures("every_event")
def test_a_pull_that_goes_on_counts_what_is_here_and_only_what_must_come(
    house: ModelSpec, store: ModelStore, weights: FakeFile
) -> None:
    put(store, "shared/paint/tokenizer.json", TOKENIZER)
    put(store, f".hf-cache/models--paint--house/blobs/{weights.sha256}.incomplete", WEIGHTS[:100_000])
    listener = Listener()
    pull(house, store, on_event=listener)
    first = listener.of(DownloadProgress)[0]
    assert (first.bytes_downloaded, first.bytes_total, first.total_files) == (100_000, len(WEIGHTS), 2)
    assert first.batch_bytes_total == len(WEIGHTS) + len(ENCODER)


def test_what_the_reader_raises_is_not_taken_for_a_full_disk(house: ModelSpec, store: ModelStore) -> None:
    with pytest.raises(BrokenPipeError):
        pull(house, store, on_event=refuse(errno.EPIPE))


def test_progress_comes_four_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(report, "time", clock)
    listener = Listener()
    reader = report.PullReporter(listener)
    reader.begin(1, 1000)
    reader.start_file("a", 1000, 0)
    for number in range(1000):
        clock.now += 0.01
        reader.progress(number)
    assert len(listener.events) in range(39, 42)
    assert listener.events[-1].batch_elapsed_ms >= 9700


def test_embedded_models_and_those_without_files_need_no_hub(store: ModelStore, tmp_path: Path) -> None:
    (tmp_path / "weights").touch()
    listener = Listener()
    pull(spec(ModelFile(component="a", path="weights"), root=tmp_path), store, on_event=listener)
    pull(spec(name="plasma:v1"), store, on_event=listener)
    assert listener.events == [
        Info(message="house:q8 ships with mold; nothing to download"),
        PullComplete(model="house:q8"),
        Info(message="plasma:v1 needs no files; nothing to download"),
        PullComplete(model="plasma:v1"),
    ]


def test_the_engine_pulls_by_name_also_what_nothing_runs_yet(house: ModelSpec, home: Path) -> None:
    listener = Listener()
    with engine_with(FakePlugin(models=[house]), home=home) as engine:
        engine.pull("house", listener)
        assert engine.store.has(house)
        with pytest.raises(UnknownModelError, match="nearest: house:q8"):
            engine.pull("huose")
    assert listener.events[0] == Info(
        message="no loaded plugin provides the family sketch, so nothing runs house:q8 yet"
    )


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: is a directory"):
        verify.sha256_of(tmp_path)


def test_a_file_that_another_stands_in_for_is_left_out(store: ModelStore, weights: FakeFile, hub: FakeHub) -> None:
    other = store.models_dir / "shared/small.gguf"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"small")
    listener = Listener()
    one = spec(entry("shared/house.safetensors", "paint/house", weights, instead=("shared/small.gguf",)))
    pull(one, store, on_event=listener)
    assert hub.requests == []
    assert "house.safetensors is skipped: small.gguf is used instead" in [event.message for event in listener.of(Info)]
    other.unlink()
    pull(one, store)
    assert (store.models_dir / "shared/house.safetensors").read_bytes() == WEIGHTS


def test_with_the_setting_offline_nothing_is_asked_for(house: ModelSpec, store: ModelStore, hub: FakeHub) -> None:
    with pytest.raises(DownloadError, match="MOLD_OFFLINE is set, so missing files of house:q8 are not downloaded"):
        pull(house, store, offline=True)
    assert hub.requests == []
    pull(house, store)
    pull(house, store, offline=True)


def test_a_hub_that_refuses_a_range_is_told(house: ModelSpec, store: ModelStore, weights: FakeFile) -> None:
    part = store.models_dir / f".hf-cache/models--paint--house/blobs/{weights.sha256}.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes(WEIGHTS[:50_000])
    weights.served = WEIGHTS[:1000]
    with pytest.raises(DownloadError, match=r"has fewer bytes of house\.safetensors of paint/house than it announced"):
        pull(house, store)
    assert weights.ranges == ["bytes=50000-"]
    assert "house-q8/house.safetensors" not in files_below(store.models_dir)
    weights.served = None
    pull(house, store)
    assert weights.bytes_sent == len(WEIGHTS) - 50_000
    assert (store.models_dir / "house-q8/house.safetensors").read_bytes() == WEIGHTS
