"""What the client says of a server's models, results, disk and state, against a real server."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from inside_server import InsideServer, serving_inside

from mold_core import Client, GenerateRequest, MoldError, ServerError, UnknownModelError, UnreachableError
from mold_core.errors import ModelNotFoundError, ResultNotFoundError
from mold_core.testing import FakePlugin, SketchFamily, sketch_model


def request(prompt: str = "a red house", seed: int = 7) -> GenerateRequest:
    return GenerateRequest(prompt=prompt, model="sketch", seed=seed)


# --- models --------------------------------------------------------------------------------------------------------


def test_models_are_listed_as_the_engine_lists_them(client: Client, server: InsideServer) -> None:
    there = {entry.spec.name: (entry.downloaded, entry.loaded, entry.runnable) for entry in client.models()}
    here = {entry.spec.name: (entry.downloaded, entry.loaded, entry.runnable) for entry in server.engine.models()}
    assert there == here
    assert there["far:v1"] == (False, False, True)
    assert set(client.catalog()) == set(here)


def test_a_model_is_loaded_listed_and_unloaded(client: Client, family: SketchFamily) -> None:
    assert client.load("sketch") == "sketch:v1"
    assert client.load("other") == "other:v1"
    assert client.loaded() == {"sketch:v1", "other:v1"}
    assert {entry.spec.name for entry in client.models() if entry.loaded} == {"sketch:v1", "other:v1"}
    assert client.unload("sketch") == ("sketch:v1",)
    assert client.unload() == ("other:v1",)
    assert (client.unload(), client.loaded()) == ((), frozenset())
    assert sorted(family.closes) == ["other:v1", "sketch:v1"]


def test_a_model_that_cannot_be_loaded_says_so(client: Client, family: SketchFamily) -> None:
    with pytest.raises(UnknownModelError, match="sketch"):
        client.load("sketsch")
    with pytest.raises(ModelNotFoundError, match="mold pull"):
        client.load("far")
    family.load_error = RuntimeError("secret")
    with pytest.raises(MoldError) as caught:
        client.load("sketch")
    assert "secret" not in str(caught.value)
    assert client.loaded() == frozenset()


def test_names_are_resolved_by_the_server_s_catalog(client: Client) -> None:
    assert client.resolve("sketch").name == "sketch:v1"
    assert client.capabilities(client.resolve("sketch")) == {"text-to-image"}
    assert client.chain_frames(client.resolve("sketch")) is None
    with pytest.raises(UnknownModelError):
        client.resolve("nosuch")


def test_the_default_model_comes_with_its_reason(tmp_path: Path) -> None:
    plugin = FakePlugin(families=[SketchFamily()], models=[sketch_model("only:v1"), sketch_model("more:v1")])
    with serving_inside(tmp_path / "home", plugin, default_model="more") as server:
        default, there = server.client().default_model(), server.engine.default_model()
        assert (default.spec.name, default.reason) == ("more:v1", there.reason)
        assert server.client().resolve(None).name == "more:v1"


def test_a_server_without_a_default_model_says_so(tmp_path: Path) -> None:
    with serving_inside(tmp_path / "home", FakePlugin()) as server:
        assert server.client().models() == []
        with pytest.raises(ModelNotFoundError, match="no model was named"):
            server.client().default_model()


# --- results -------------------------------------------------------------------------------------------------------


def test_results_come_page_by_page_newest_first(client: Client) -> None:
    for seed in (1, 2, 3):
        client.generate(request(seed=seed))
    first = client.gallery.list(limit=2)
    second = client.gallery.list(limit=2, cursor=first.next)
    assert [entry.metadata.seed for entry in (*first.entries, *second.entries)] == [3, 2, 1]
    assert second.next is None


def test_a_result_is_read_marked_found_and_deleted(client: Client, server: InsideServer) -> None:
    made = client.generate(request("a lighthouse"))
    (entry,) = client.gallery.list("lighthouse").entries
    assert client.gallery.read(entry.filename) == made.images[0].data
    assert client.gallery.url(entry.filename) == f"{client.address}/api/gallery/image/{entry.filename}"
    marked = client.gallery.update(entry.filename, favourite=True, tags=["sea"])
    assert (marked.favourite, marked.tags) == (True, ("sea",))
    assert client.gallery.update(entry.filename, tags=[]).favourite is True
    assert client.gallery.list(tag="sea").entries == ()
    assert client.gallery.list(favourite=True).entries == (client.gallery.get(entry.filename),)
    assert client.gallery.delete(entry.filename) is True
    assert client.gallery.list().entries == ()


@pytest.mark.parametrize("name", ["nowhere.png", "ä ö?#.png", "%2e%2e.png"])
def test_a_result_that_is_not_there_is_not_found(client: Client, name: str) -> None:
    gallery = client.gallery
    for verb in (gallery.get, gallery.read, gallery.children, lambda name: gallery.update(name, tags=["x"])):
        with pytest.raises(ResultNotFoundError):
            verb(name)
    assert gallery.delete(name) is True  # deleting twice is no error


# --- the disk ------------------------------------------------------------------------------------------------------


def test_files_of_a_model_are_described_planned_and_removed(client: Client, server: InsideServer) -> None:
    spec = server.engine.resolve("far")
    file = server.engine.store.path_of(spec, spec.files[0])
    file.parent.mkdir(parents=True)
    file.write_bytes(bytes(1234))
    assert client.disk.model("far").name == "far:v1"
    assert client.disk.usage() is not None
    planned = client.disk.plan_removal("far")
    assert file.exists()
    assert client.disk.remove("far") == planned
    assert not file.exists()


def test_an_unknown_model_is_an_error_of_every_verb(client: Client) -> None:
    for verb in (client.disk.model, client.disk.plan_removal, client.disk.remove):
        with pytest.raises(UnknownModelError):
            verb("nosuch")


def test_loras_and_chains_of_a_server_without_any_are_empty(client: Client) -> None:
    assert (client.disk.loras(), client.disk.chains()) == ((), ())
    with pytest.raises(MoldError):
        client.disk.chain("nowhere")


# --- the server ----------------------------------------------------------------------------------------------------


def test_the_status_says_what_waits_and_whether_the_queue_is_paused(client: Client, server: InsideServer) -> None:
    client.health()
    server.engine.pause()
    client.submit(request())
    status = client.status()
    assert (status.queue_depth, status.queue_capacity, status.queue_paused, status.busy) == (1, 3, True, False)
    server.engine.resume()


def test_a_server_that_was_told_to_end_is_gone(client: Client, server: InsideServer) -> None:
    client.shutdown()
    for thread in server_threads():
        thread.join(120)
    with pytest.raises(UnreachableError):
        client.health()


def server_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "inside-server"]


def test_a_wrong_key_is_refused_with_what_to_do_and_a_right_one_may_be_any_text(tmp_path: Path) -> None:
    plugin = FakePlugin(families=[SketchFamily()], models=[sketch_model()])
    with serving_inside(tmp_path / "home", plugin, api_key="schlüssel €") as server:
        for key in ("", "schlussel"):
            with pytest.raises(ServerError, match="set MOLD_API_KEY to a key of the server") as caught:
                server.client(key).models()
            assert caught.value.code == "UNAUTHORIZED"
        assert server.client("schlüssel €").generate(request()).images
        assert "schlüssel" not in repr(server.client("schlüssel €").connection)
