"""The gallery keeps results, finds them again, and stays in step with its folders."""

from __future__ import annotations

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from threading import Event, Thread

import attrs
import pytest
from PIL import Image

from mold_core.errors import OutputError, ResultNotFoundError, ValidationError
from mold_core.gallery import Changes, Entry, Gallery, Parent
from mold_core.media import OutputMetadata, encode_image
from mold_core.media.video import VideoWriter
from mold_core.settings import Settings

RED_HOUSE = OutputMetadata(
    prompt="a red house under a yellow moon", model="flux-nano:bf16", seed=7, steps=4, guidance=0.0, width=64,
    height=48, version="1.0",
)  # fmt: skip


def described(prompt: str, **changes: object) -> OutputMetadata:
    return attrs.evolve(RED_HOUSE, prompt=prompt, **changes)


def image(metadata: OutputMetadata | None = RED_HOUSE, colour: str = "red", size: tuple[int, int] = (64, 48)) -> bytes:
    return encode_image(Image.new("RGB", size, colour), "png", metadata)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "output"


@pytest.fixture
def gallery(tmp_path: Path, folder: Path) -> Gallery:
    return Gallery(folder, tmp_path / "gallery.db")


def names(gallery: Gallery, **wanted: object) -> list[str]:
    return [entry.filename for entry in gallery.list(**wanted).entries]  # type: ignore[arg-type]


def prompts(gallery: Gallery, q: str) -> set[str]:
    return {entry.metadata.prompt for entry in gallery.list(q).entries}


# --- putting in and taking out -----------------------------------------------------------------------------------


def test_a_result_is_kept_with_all_that_was_said_of_it(gallery: Gallery, folder: Path) -> None:
    parent = gallery.add(image(), RED_HOUSE)
    made = gallery.add(
        image(),
        RED_HOUSE,
        index=2,
        parents=[Parent(relation="made-from", name=parent.filename)],
        tags=["moon", " my  best "],
    )
    assert made.path.read_bytes() == image()
    assert made.path.parent == folder.resolve()
    assert made.filename.startswith("mold-flux-nano-bf16-") and made.filename.endswith("-2.png")
    assert gallery.get(made.filename) == made
    assert (made.metadata, made.tags, made.size_bytes) == (RED_HOUSE, ("moon", "my best"), len(image()))
    assert made.parents == (Parent(relation="made-from", name=parent.filename),)
    assert gallery.children(parent.filename) == (made,)
    assert made.timestamp == int(made.path.stat().st_mtime)


def test_a_result_is_found_by_its_bytes(gallery: Gallery) -> None:
    seven, eight, nine = (image(attrs.evolve(RED_HOUSE, seed=seed)) for seed in (7, 8, 9))
    assert len(seven) == len(eight) == len(nine)
    first, second = gallery.add(seven), gallery.add(eight)
    assert (gallery.holding(seven), gallery.holding(eight), gallery.holding(nine)) == (first, second, None)
    second.path.unlink()
    assert gallery.holding(eight) is None


def test_who_adds_again_after_a_crash_still_says_what_it_came_from(gallery: Gallery, folder: Path) -> None:
    folder.mkdir()
    (folder / "large.png").write_bytes(image())  # the file is there and the row is not
    parent = Parent(relation="upscaled-from", name="small.png")
    assert gallery.add(image(), RED_HOUSE, name="large.png", parents=[parent]).parents == (parent,)
    assert gallery.add(image(), RED_HOUSE, name="large.png").parents == (parent,)


def test_an_entry_shows_itself_as_the_api_does(gallery: Gallery) -> None:
    entry = gallery.add(image(), RED_HOUSE)
    assert entry.to_json() == {
        "filename": entry.filename,
        "metadata": {
            "prompt": "a red house under a yellow moon", "model": "flux-nano:bf16", "seed": 7, "steps": 4,
            "guidance": 0.0, "width": 64, "height": 48, "version": "1.0",
        },
        "timestamp": entry.timestamp,
        "format": "png",
        "size_bytes": entry.size_bytes,
    }  # fmt: skip
    marked = gallery.update(entry.filename, favourite=True, tags=["moon"])
    assert marked.to_json() == {**entry.to_json(), "favourite": True, "tags": ["moon"]}


def test_a_file_is_kept_as_a_copy_and_tells_what_it_is(gallery: Gallery, tmp_path: Path) -> None:
    source = tmp_path / "elsewhere.png"
    source.write_bytes(image())
    entry = gallery.add(source)
    assert entry.metadata == RED_HOUSE
    assert entry.filename.startswith("mold-flux-nano-bf16-")
    assert source.read_bytes() == entry.path.read_bytes()


def test_what_is_no_image_is_refused(gallery: Gallery, folder: Path) -> None:
    with pytest.raises(OutputError, match="the result is not a png file"):
        gallery.add(b"not an image at all, but long enough for a header")
    assert gallery.list().entries == ()
    assert list(folder.iterdir()) == []


def test_a_deleted_result_is_gone_with_its_thumbnail(gallery: Gallery, tmp_path: Path) -> None:
    entry = gallery.add(image(), RED_HOUSE)
    gallery.thumbnail(entry.filename)
    assert list((tmp_path / "cache").rglob("*.png"))
    assert gallery.delete(entry.filename)
    assert not entry.path.exists()
    assert not list((tmp_path / "cache").rglob("*.png"))
    assert gallery.list().entries == ()
    assert not gallery.delete(entry.filename)
    with pytest.raises(ResultNotFoundError, match=f"image not found: {entry.filename}"):
        gallery.get(entry.filename)


def test_deleting_what_a_person_deleted_already_is_no_error(gallery: Gallery) -> None:
    entry = gallery.add(image(), RED_HOUSE)
    entry.path.unlink()
    assert gallery.delete(entry.filename)


@pytest.mark.parametrize("name", ["", ".", "..", "../gallery.db", "a/b.png", "a\\b.png", "a\0.png", "\udcff.png"])
def test_a_name_that_is_no_plain_file_name_is_refused(gallery: Gallery, name: str) -> None:
    for ask in (gallery.get, gallery.open, gallery.delete, gallery.thumbnail, gallery.preview, gallery.update):
        with pytest.raises(ValidationError, match="invalid filename"):
            ask(name)  # type: ignore[operator]


def test_favourites_and_tags_select_entries(gallery: Gallery) -> None:
    first, second, third = (gallery.add(image(), described(f"number {i}")).filename for i in range(3))
    gallery.update(first, favourite=True, tags=["Sea"])
    gallery.update(second, tags=["sea", "night"])
    assert names(gallery, favourite=True) == [first]
    assert names(gallery, favourite=False) == [third, second]
    assert names(gallery, tag="sea") == [second, first]
    assert names(gallery, tag="sea", favourite=True) == [first]
    assert names(gallery, q="night", tag="sea") == [second]
    gallery.update(second, tags=[])
    assert names(gallery, tag="sea") == [first]


@pytest.mark.parametrize("tag", ["", "  ", "x" * 101, "a\x07b"])
def test_a_tag_that_nobody_could_read_is_refused(gallery: Gallery, tag: str) -> None:
    entry = gallery.add(image(), RED_HOUSE)
    with pytest.raises(ValidationError, match="a tag must have 1 to 100 printable characters"):
        gallery.update(entry.filename, tags=[tag])


# --- looking -----------------------------------------------------------------------------------------------------


def test_pages_follow_each_other_without_gap_or_repetition_while_results_arrive(gallery: Gallery) -> None:
    wanted = [gallery.add(image(), RED_HOUSE, index=i).filename for i in range(7)][::-1]
    page = gallery.list(limit=3)
    seen = [entry.filename for entry in page.entries]
    while page.next:
        gallery.add(image(), RED_HOUSE)
        page = gallery.list(limit=3, cursor=page.next)
        seen += [entry.filename for entry in page.entries]
    assert seen == wanted


@pytest.mark.parametrize("cursor", ["x", "-1", "²", "9" * 19, "1" * 400, "1.5"])
def test_a_cursor_that_no_page_gave_is_refused(gallery: Gallery, cursor: str) -> None:
    with pytest.raises(ValidationError, match="cursor"):
        gallery.list(cursor=cursor)


def test_a_limit_below_one_is_refused(gallery: Gallery) -> None:
    with pytest.raises(ValidationError, match="limit must be at least 1, not 0"):
        gallery.list(limit=0)


def test_words_are_found_whole_in_part_and_in_quotes(gallery: Gallery) -> None:
    house, boat, cafe = "a red house by the sea", "a boat on the red sea", "Un café ÉTÉ"
    for prompt in (house, boat, cafe):
        gallery.add(image(), described(prompt))
    gallery.add(image(), described("long words", original_prompt="short", negative_prompt="blur"))
    assert prompts(gallery, "red sea") == {house, boat}
    assert prompts(gallery, '"red sea"') == {boat}
    assert prompts(gallery, "HOU") == {house}
    assert prompts(gallery, "cafe ete") == {cafe}
    assert prompts(gallery, "short") == prompts(gallery, "blur") == {"long words"}
    assert prompts(gallery, "flux-nano") == {house, boat, cafe, "long words"}
    assert prompts(gallery, "red nothing") == set()
    assert prompts(gallery, "  ") == {house, boat, cafe, "long words"}


@pytest.mark.parametrize(
    "q", ["*", '"', '""', "NOT", "a OR b", "prompts:red", "NEAR(", "-", "(", "^a", "\0", "!!! ???"]
)
def test_no_text_is_an_operator_or_an_error(gallery: Gallery, q: str) -> None:
    gallery.add(image(), described("something else"))
    assert gallery.list(q).entries == ()


def test_a_search_goes_on_after_a_cursor(gallery: Gallery) -> None:
    wanted = [gallery.add(image(), described(f"sea {i}")).filename for i in range(5)][::-1]
    gallery.add(image(), described("desert"))
    first = gallery.list("sea", 2)
    second = gallery.list("sea", 3, first.next)
    assert [entry.filename for entry in (*first.entries, *second.entries)] == wanted
    assert second.next is None


def test_an_open_file_is_the_result(gallery: Gallery) -> None:
    entry = gallery.add(image(), RED_HOUSE)
    opened, file = gallery.open(entry.filename)
    with file:
        assert (opened, file.read()) == (entry, image())


# --- thumbnails --------------------------------------------------------------------------------------------------


def test_a_thumbnail_is_a_small_png_and_made_once(gallery: Gallery, tmp_path: Path) -> None:
    entry = gallery.add(image(size=(1000, 500)), RED_HOUSE)
    thumbnail = gallery.thumbnail(entry.filename)
    assert (thumbnail.content_type, thumbnail.stand_in) == ("image/png", False)
    assert Image.open(io.BytesIO(thumbnail.data)).size == (256, 128)
    (cached,) = (tmp_path / "cache").rglob("*.png")
    data, time_ns = image(size=(10, 10)), cached.stat().st_mtime_ns
    cached.write_bytes(data)
    os.utime(cached, ns=(time_ns, time_ns))
    assert gallery.thumbnail(entry.filename).data == data


def test_a_changed_file_gets_a_new_thumbnail(gallery: Gallery, tmp_path: Path) -> None:
    entry = gallery.add(image(size=(100, 50)), RED_HOUSE)
    gallery.thumbnail(entry.filename)
    entry.path.write_bytes(image(size=(50, 100)))
    os.utime(entry.path, (1_700_000_000, 1_700_000_000))
    assert Image.open(io.BytesIO(gallery.thumbnail(entry.filename).data)).size == (50, 100)


def test_a_damaged_image_stands_in_for_its_thumbnail(gallery: Gallery) -> None:
    whole = image(size=(300, 300))
    entry = gallery.add(whole[:200] + b"\0" * 300, RED_HOUSE)
    thumbnail = gallery.thumbnail(entry.filename)
    assert thumbnail.stand_in
    assert thumbnail.data == entry.path.read_bytes()


def gif(frames: int) -> bytes:
    images = [Image.new("RGB", (320, 200), (40 * i, 0, 90)) for i in range(frames)]
    buffer = io.BytesIO()
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=40)
    return buffer.getvalue()


def test_a_moving_image_has_a_preview_and_a_still_one_has_none(gallery: Gallery) -> None:
    video = gallery.add(gif(6), described("moving", fps=8), format="gif")
    preview = Image.open(io.BytesIO(gallery.preview(video.filename)))
    assert (preview.size, getattr(preview, "n_frames", 1)) == ((256, 160), 6)
    assert Image.open(io.BytesIO(gallery.thumbnail(video.filename).data)).size == (256, 160)
    still = gallery.add(image(), RED_HOUSE)
    with pytest.raises(ResultNotFoundError, match="is a still image"):
        gallery.preview(still.filename)


def mp4(path: Path, metadata: OutputMetadata | None = None) -> Path:
    with path.open("w+b") as file, VideoWriter(file, "mp4", width=320, height=192, fps=16, metadata=metadata) as video:
        for shade in range(40):
            video.add(Image.new("RGB", (320, 192), (6 * shade, 0, 90)))
    return path


def test_a_video_shows_its_first_frame_and_what_moves(gallery: Gallery, folder: Path) -> None:
    folder.mkdir()
    mp4(folder / "told.mp4", described("a video", fps=16, frames=40))
    mp4(folder / "mold-ltx-2-1700000000.mp4")
    (folder / "damaged.mp4").write_bytes((folder / "told.mp4").read_bytes()[:900])
    assert gallery.reconcile() == Changes(added=2)
    assert gallery.get("told.mp4").metadata.prompt == "a video"
    silent = gallery.get("mold-ltx-2-1700000000.mp4").metadata
    assert (silent.model, silent.width, silent.height) == ("ltx-2", 320, 192)
    thumbnail = Image.open(io.BytesIO(gallery.thumbnail("told.mp4").data)).convert("RGB")
    assert thumbnail.size == (256, 154)
    red, _, blue = thumbnail.getpixel((9, 9))  # type: ignore[misc]
    assert red < 12 and 75 < blue < 105
    preview = Image.open(io.BytesIO(gallery.preview("told.mp4")))
    assert (preview.size, getattr(preview, "n_frames", 1)) == ((256, 154), 20)


def test_a_video_that_broke_since_is_shown_by_a_drawing(gallery: Gallery, tmp_path: Path) -> None:
    entry = gallery.add(mp4(tmp_path / "video.mp4"), RED_HOUSE, format="mp4")
    entry.path.write_bytes(b"no longer a video")
    thumbnail = gallery.thumbnail(entry.filename)
    assert (thumbnail.content_type, thumbnail.stand_in) == ("image/svg+xml", True)
    with pytest.raises(ResultNotFoundError, match="is a still image"):
        gallery.preview(entry.filename)
    entry.path.unlink()
    with pytest.raises(ResultNotFoundError, match="image not found"):
        gallery.thumbnail(entry.filename)


def test_warming_makes_what_is_missing(gallery: Gallery, tmp_path: Path) -> None:
    for _ in range(3):
        gallery.add(image(), RED_HOUSE)
    gallery.warm(Event())
    assert len(list((tmp_path / "cache" / "thumbnails").rglob("*.png"))) == 3


# --- in step with the folders ------------------------------------------------------------------------------------


def test_files_that_came_changed_and_went_are_noticed(gallery: Gallery, folder: Path) -> None:
    folder.mkdir()
    for name in ("one.png", "two.png", "three.png"):
        (folder / name).write_bytes(image())
    assert gallery.reconcile() == Changes(added=3)
    gallery.update("two.png", favourite=True, tags=["kept"])
    (folder / "one.png").unlink()
    (folder / "two.png").write_bytes(image(described("a blue boat")))
    os.utime(folder / "two.png", (1_700_000_000, 1_700_000_000))
    (folder / "four.png").write_bytes(image())
    assert gallery.reconcile() == Changes(added=1, changed=1, removed=1)
    assert set(names(gallery)) == {"two.png", "three.png", "four.png"}
    two = gallery.get("two.png")
    assert (two.metadata.prompt, two.favourite, two.tags, two.timestamp) == (
        "a blue boat",
        True,
        ("kept",),
        1_700_000_000,
    )
    assert names(gallery, q="blue", tag="kept") == ["two.png"]
    assert names(gallery, q="house") != [] and "two.png" not in names(gallery, q="house")
    assert gallery.reconcile() == Changes()


def test_only_results_are_taken_in(gallery: Gallery, folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    (folder / "good.png").write_bytes(image())
    (folder / "page.svg").write_bytes(b"<svg/>")
    (folder / "text.png").write_bytes(b"this is no image, whatever its name says" * 9)
    (folder / "empty.webp").write_bytes(b"")
    (folder / "video.mp4").write_bytes(b"no video either" * 99)
    (folder / ".hidden.png").write_bytes(image())
    (folder / "deeper.png").mkdir()
    (folder / "deeper.png" / "in.png").write_bytes(image())
    secret = tmp_path / "secret.png"
    secret.write_bytes(image())
    (folder / "link.png").symlink_to(secret)
    os.mkfifo(folder / "pipe.png")
    gallery.reconcile()
    assert names(gallery) == ["good.png"]


def test_a_file_replaced_by_a_link_is_not_read(gallery: Gallery, tmp_path: Path) -> None:
    entry = gallery.add(image(), RED_HOUSE)
    secret = tmp_path / "secret.png"
    secret.write_bytes(image(colour="blue"))
    entry.path.unlink()
    entry.path.symlink_to(secret)
    for ask in (gallery.open, gallery.thumbnail):
        with pytest.raises(ResultNotFoundError):
            ask(entry.filename)  # type: ignore[operator]
    assert gallery.reconcile() == Changes(removed=1)


def test_a_file_that_tells_nothing_gets_what_its_name_and_size_tell(gallery: Gallery, folder: Path) -> None:
    folder.mkdir()
    (folder / "mold-flux-dev-q4-1700000000000-3.png").write_bytes(image(None, size=(40, 30)))
    (folder / "holiday.png").write_bytes(image(None))
    os.utime(folder / "holiday.png", (1_600_000_000, 1_600_000_000))
    gallery.reconcile()
    made, holiday = gallery.list().entries
    assert (made.metadata.model, made.metadata.width, made.metadata.height) == ("flux-dev-q4", 40, 30)
    assert made.metadata_synthetic
    assert (holiday.metadata.model, holiday.metadata.version) == ("unknown", "synthesized@1600000000")
    assert holiday.to_json()["metadata_synthetic"] is True


def test_what_was_said_only_to_the_gallery_survives_reconciling(gallery: Gallery) -> None:
    entry = gallery.add(image(None), RED_HOUSE)
    assert gallery.reconcile() == Changes()
    assert gallery.get(entry.filename).metadata == RED_HOUSE


def test_several_folders_are_shown_together_and_the_first_wins(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for place, colour in ((first, "red"), (second, "blue")):
        place.mkdir()
        (place / "same.png").write_bytes(image(colour=colour))
    (second / "old.png").write_bytes(image())
    os.utime(second / "old.png", (1_600_000_000, 1_600_000_000))
    gallery = Gallery(first, tmp_path / "gallery.db", also=[second])
    gallery.reconcile()
    made = gallery.add(image(), RED_HOUSE)
    assert names(gallery) == [made.filename, "same.png", "old.png"]
    assert names(gallery, limit=2) == [made.filename, "same.png"]
    assert gallery.get("same.png").folder == first
    (first / "same.png").unlink()
    gallery.reconcile()
    assert gallery.get("same.png").folder == second
    assert names(Gallery(second, tmp_path / "gallery.db")) == ["same.png", "old.png"]


def test_a_folder_that_is_not_there_keeps_its_rows(gallery: Gallery, folder: Path, tmp_path: Path) -> None:
    entry = gallery.add(image(), RED_HOUSE, tags=["kept"])
    folder.rename(tmp_path / "unplugged")
    assert gallery.reconcile() == Changes()
    assert gallery.list().entries == ()
    (tmp_path / "unplugged").rename(folder)
    assert gallery.list().entries == (entry,)


def test_a_damaged_database_is_put_aside_and_made_again(tmp_path: Path, folder: Path) -> None:
    entry = Gallery(folder, tmp_path / "gallery.db").add(image(), RED_HOUSE)
    for path in tmp_path.glob("gallery.db*"):
        path.write_bytes(b"this is not a database, and was perhaps never one " * 200)
    gallery = Gallery(folder, tmp_path / "gallery.db")
    gallery.reconcile()
    assert names(gallery) == [entry.filename]
    assert len(list(tmp_path.glob("gallery.db.damaged-*"))) == 1


def test_a_database_of_a_newer_mold_is_left_alone(tmp_path: Path, folder: Path) -> None:
    Gallery(folder, tmp_path / "gallery.db").close()
    with sqlite3.connect(tmp_path / "gallery.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(OutputError, match="written by a newer mold; update mold"):
        Gallery(folder, tmp_path / "gallery.db")


def test_settings_say_where_the_gallery_is(tmp_path: Path) -> None:
    gallery = Gallery.of(Settings(home=tmp_path, gallery_dirs=(str(tmp_path / "more"),)))
    assert gallery is not None
    assert gallery.folders == (str(tmp_path / "output"), str(tmp_path / "more"))
    assert Gallery.of(Settings(home=tmp_path, output_dir="")) is None


# --- many at once ------------------------------------------------------------------------------------------------


def test_threads_add_look_and_delete_at_once(gallery: Gallery, tmp_path: Path, folder: Path) -> None:
    other = Gallery(folder, tmp_path / "gallery.db")
    failures: list[BaseException] = []

    def work(number: int, own: Gallery) -> None:
        try:
            for i in range(6):
                entry = own.add(image(), described(f"worker {number}"), index=number * 10 + i)
                own.list("worker", 5)
                own.reconcile()
                if i % 2:
                    own.delete(entry.filename)
        except BaseException as error:
            failures.append(error)

    threads = [Thread(target=work, args=(i, gallery if i % 2 else other)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(names(gallery)) == sorted(path.name for path in folder.iterdir())
    assert len(names(gallery)) == 18
    assert gallery.reconcile() == Changes()


KILLED = """
import sys
from pathlib import Path
from mold_core.gallery import Gallery
gallery = Gallery(Path(sys.argv[1]), Path(sys.argv[2]))
data = Path(sys.argv[3]).read_bytes()
print("ready", flush=True)
while True:
    kept = [gallery.add(data, index=i).filename for i in range(4)]
    for name in kept[:2]:
        gallery.delete(name)
"""


def test_after_being_killed_every_row_has_its_whole_file(tmp_path: Path, folder: Path) -> None:
    source = tmp_path / "source.png"
    source.write_bytes(image(size=(400, 300)))
    for number in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(KILLED), folder, tmp_path / "gallery.db", source],
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.05 + 0.07 * number)
            process.send_signal(signal.SIGKILL)
        gallery = Gallery(folder, tmp_path / "gallery.db")
        before = gallery.list().entries
        assert all(entry.path.read_bytes() == source.read_bytes() for entry in before)
        gallery.reconcile()
        after = gallery.list().entries
        assert {entry.filename for entry in after} == {path.name for path in folder.glob("*.png")}
        assert {entry.filename for entry in before} <= {entry.filename for entry in after}
        gallery.close()
    assert after


def test_what_was_being_deleted_when_it_died_does_not_come_back(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = gallery.add(image(), RED_HOUSE)
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", _die)
        with pytest.raises(KeyboardInterrupt):
            gallery.delete(entry.filename)
    assert entry.path.exists()
    gallery.reconcile()
    assert not entry.path.exists()
    assert gallery.list().entries == ()


def _die(path: object) -> None:
    raise KeyboardInterrupt


def test_json_of_every_entry_can_be_written(gallery: Gallery) -> None:
    entries: list[Entry] = [gallery.add(image(), described("é \U0001f600 \0 \ud800"))]
    assert json.loads(json.dumps([entry.to_json() for entry in entries]))[0]["metadata"]["prompt"] == "é 😀 \0 �"


def test_files_made_in_the_same_millisecond_are_all_kept(gallery: Gallery, folder: Path) -> None:
    folder.mkdir()
    for i in range(20):
        (folder / f"{i:02}.png").write_bytes(image())
        os.utime(folder / f"{i:02}.png", (1_700_000_000, 1_700_000_000))
    gallery.reconcile()
    assert len(names(gallery)) == 20
    assert len(names(gallery, limit=15)) == 15
