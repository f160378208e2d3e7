"""Upscaling through the engine: requests, files, videos and what is refused; with the network inside mold."""

from __future__ import annotations

import resource
import struct
import time
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import attrs
import pytest
from camera_videos import HEIGHT, WIDTH, corners, first_click_s, hdr_video, is_color, pq, turned, video
from PIL import Image

from mold_core import (
    DenoiseStep,
    DownloadError,
    Engine,
    FileUpscaleRequest,
    GenerateRequest,
    ProgressEvent,
    Settings,
    StageStart,
    UpscaleRequest,
    ValidationError,
)
from mold_core.gallery import Gallery, Parent
from mold_core.media import encode_image, read_metadata
from mold_core.media.containers import PNG_SIGNATURE, png_chunk
from mold_core.media.sound import decode_sound
from mold_core.media.video_reading import decode_frames, timed_frames

NANO = "esrgan-nano-x4"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    settings = Settings(home=tmp_path_factory.mktemp("mold"), device="cpu", threads=1)
    with Engine(settings) as engine:
        yield engine


def image(width: int = 20, height: int = 16, format: Any = "png") -> bytes:
    gradient = Image.linear_gradient("L").resize((width, height))
    return encode_image(
        Image.merge("RGB", (gradient, gradient.transpose(Image.Transpose.FLIP_TOP_BOTTOM), gradient)), format
    )


def test_a_image_is_enlarged_and_looks_as_before(engine: Engine) -> None:
    events: list[ProgressEvent] = []
    answer = engine.upscale(UpscaleRequest(image=image(), model=NANO), events.append)
    assert (answer.model, answer.scale_factor) == ("esrgan-nano-x4:fp32", 4)
    assert (answer.original_width, answer.original_height, answer.image.width, answer.image.height) == (20, 16, 80, 64)
    made, before = Image.open(BytesIO(answer.image.data)), Image.open(BytesIO(image()))
    assert made.size == (80, 64)
    small = made.resize((20, 16), Image.Resampling.BOX)
    assert max(abs(a - b) for a, b in zip(small.tobytes(), before.tobytes(), strict=True)) < 24
    stages = [event.name for event in events if isinstance(event, StageStart)]
    assert stages[0] == "Decoding input image" and stages[-2:] == ["Upscaling", "Encoding output"]
    assert [(e.step, e.total) for e in events if isinstance(e, DenoiseStep)] == [(1, 1)]


def test_the_network_stays_loaded_and_steps_are_tiles(engine: Engine) -> None:
    engine.upscale(UpscaleRequest(image=image(), model=NANO))
    events: list[ProgressEvent] = []
    engine.upscale(UpscaleRequest(image=image(150, 70), model=NANO, tile_size=64), events.append)
    assert "esrgan-nano-x4:fp32" in engine.loaded()
    assert not any(isinstance(event, StageStart) and event.name.startswith("Loading") for event in events)
    steps = [(event.step, event.total) for event in events if isinstance(event, DenoiseStep)]
    assert steps == [(number, 8) for number in range(1, 9)]


def test_generate_enlarges_each_image_of_a_batch(engine: Engine) -> None:
    request = GenerateRequest(
        prompt="a red house", model="flux-nano", width=64, height=64, steps=1, seed=1, batch_size=2,
        upscale_model="auto", output_format="webp",
    )  # fmt: skip
    answer = engine.generate(request)
    assert [(image.width, image.height, image.index, image.format) for image in answer.images] == [
        (256, 256, 0, "webp"),
        (256, 256, 1, "webp"),
    ]
    metadata = [read_metadata(image.data) for image in answer.images]
    assert [(data.seed, data.width, data.upscaler) for data in metadata if data] == [
        (1, 64, "esrgan-nano-x4:fp32"),
        (2, 64, "esrgan-nano-x4:fp32"),
    ]


def test_in_the_gallery_an_enlarged_image_names_the_one_it_came_from(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path / "output", tmp_path / "gallery.db")
    wish = GenerateRequest(prompt="a cat", model="flux-nano", width=64, height=64, steps=1, seed=3)
    with Engine(Settings(home=tmp_path, device="cpu", threads=1), gallery=gallery) as engine:
        small = engine.generate(wish)
        engine.upscale(UpscaleRequest(image=small.images[0].data))
        engine.upscale(UpscaleRequest(image=image(), model=NANO))
        engine.generate(attrs.evolve(wish, upscale_model="auto"))
        by_itself, stranger, enlarged, first = gallery.list().entries
    assert first.filename == small.images[0].name
    assert enlarged.parents == (Parent(relation="upscaled-from", name=first.filename),)
    assert gallery.children(first.filename) == (enlarged,)
    assert stranger.parents == by_itself.parents == ()
    assert enlarged.metadata == by_itself.metadata == attrs.evolve(first.metadata, upscaler="esrgan-nano-x4:fp32")
    with Image.open(by_itself.path) as made:
        assert made.size == (256, 256)
    gallery.close()


def test_images_of_a_model_inside_mold_get_the_upscaler_inside_mold(engine: Engine) -> None:
    made = engine.generate(GenerateRequest(prompt="a cat", model="flux-nano", width=64, height=64, steps=1)).images[0]
    assert engine.submit(UpscaleRequest(image=made.data)).model == "esrgan-nano-x4:fp32"


def test_other_images_get_the_one_for_photos_and_it_is_fetched_first(tmp_path: Path) -> None:
    with Engine(Settings(home=tmp_path, device="cpu")) as engine:
        engine.pause()
        assert engine.submit(UpscaleRequest(image=image())).model == "real-esrgan-x4plus:fp16"
    with Engine(Settings(home=tmp_path, device="cpu", upscale_model=NANO)) as engine:
        assert engine.upscale(UpscaleRequest(image=image())).model == "esrgan-nano-x4:fp32"


def test_where_nothing_can_be_fetched_the_one_inside_mold_is_named(tmp_path: Path) -> None:
    inside = "esrgan-nano-x4:fp32 is inside mold and needs no fetching"
    with Engine(Settings(home=tmp_path, offline=True)) as engine, pytest.raises(DownloadError, match=inside):
        engine.upscale(UpscaleRequest(image=image()))


def test_a_file_becomes_a_file(engine: Engine, tmp_path: Path) -> None:
    source, target = tmp_path / "a.jpg", tmp_path / "b.webp"
    source.write_bytes(image(format="jpeg"))
    request = FileUpscaleRequest(source=source, target=target, model=NANO, output_format="webp")
    answer = engine.upscale(request)
    assert answer.image.data == b""
    with Image.open(target) as made:
        assert (made.size, made.format) == ((80, 64), "WEBP")


def test_a_video_of_a_phone_comes_out_upright_with_square_pixels(engine: Engine, tmp_path: Path) -> None:
    source, target = turned(video(tmp_path / "a.mp4", aspect=(4, 3)), 0, 1, -1, 0), tmp_path / "b.mp4"
    response = engine.upscale(FileUpscaleRequest(source=source, target=target, model=NANO))
    assert (response.original_width, response.original_height) == (HEIGHT, WIDTH * 4 // 3)
    with target.open("rb") as file:
        frames = list(decode_frames(file))
    assert len(frames) == 8 and frames[0].size == (4 * HEIGHT, WIDTH * 4 // 3 * 4)
    assert corners(frames[0]) == ["blue", "red", "blue", "green"]


@pytest.mark.parametrize("sound_from", [0, 300])
def test_each_frame_of_an_enlarged_video_keeps_its_time_and_its_sound(
    engine: Engine, tmp_path: Path, sound_from: int
) -> None:
    times = [200 - sound_from // 3, 270, 300, 410, 600, 610, 900]
    source = video(tmp_path / "a.mp4", times, bright_from_ms=600, sound_from_ms=sound_from, click_ms=600)
    engine.upscale(FileUpscaleRequest(source=source, target=tmp_path / "b.mp4", model=NANO))
    with (tmp_path / "b.mp4").open("rb") as file:
        timed = list(timed_frames(file))
    before = min(times[0], sound_from)
    starts = [round(frame.start * 1000) for frame in timed]
    assert starts == [0, *(time - before for time in times[1:])]
    bright = [round(frame.start * 1000) for frame in timed if is_color(frame.image().getpixel((192, 128)), (255,) * 3)]
    assert bright[0] == 600 - before
    sound = decode_sound((tmp_path / "b.mp4").read_bytes(), max_seconds=1.2)
    assert sound is not None
    assert first_click_s(sound.samples, sound.sample_rate) == pytest.approx((600 - before) / 1000, abs=0.03)


def test_an_enlarged_hdr_video_is_sdr_with_a_warning(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(hdr_video(tmp_path / "hdr.mp4", 16, [pq(80), pq(20)]))
    response = engine.upscale(FileUpscaleRequest(source=tmp_path / "a.mp4", target=tmp_path / "b.mp4", model=NANO))
    assert response.warnings == ("PQ video (HDR) was converted to SDR",)
    with (tmp_path / "b.mp4").open("rb") as file:
        (image,) = decode_frames(file)
    assert image.getpixel((60, 64))[1] == pytest.approx(255 * (80 / 203) ** (1 / 2.4), abs=5)


def test_a_file_that_fails_leaves_the_old_one(engine: Engine, tmp_path: Path) -> None:
    source, target = tmp_path / "a.png", tmp_path / "b.png"
    data = image(120, 90)
    middle = data.index(b"IDAT") + 40
    source.write_bytes(data[:middle] + b"\xff" * 20 + data[middle + 20 :])
    target.write_bytes(b"old")
    with pytest.raises(ValidationError, match="damaged"):
        engine.upscale(FileUpscaleRequest(source=source, target=target, model=NANO))
    assert target.read_bytes() == b"old" and sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def bomb() -> bytes:
    header = struct.pack(">II5B", 20_000, 10_000, 8, 2, 0, 0, 0)
    return PNG_SIGNATURE + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(10**6)))


BAD_IMAGES = {
    "truncated": (image(100, 100)[:-40], "is truncated or damaged"),
    "bomb": (bomb(), "20000 x 10000 = 200.0 megapixels, over the limit of 32"),
    "gif": (b"GIF89a" + bytes(50), "not a GIF"),
    "text": (b"this is only text", "must be a PNG, JPEG, WebP, AVIF or HEIC image"),
    "empty": (b"", "must not be empty"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_images_are_refused_at_once_in_one_sentence(name: str, engine: Engine) -> None:
    data, words = BAD_IMAGES[name]
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ValidationError) as caught:
        engine.submit(UpscaleRequest(image=data, model=NANO))
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert (caught.value.http_status, caught.value.field) == (422, "image")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000
    assert time.process_time() - started < 1


@pytest.mark.parametrize("tile_size", [1, 63, -5])
def test_impossible_tile_sizes_are_refused(tile_size: int, engine: Engine) -> None:
    with pytest.raises(ValidationError, match="tile_size must be") as caught:
        engine.submit(UpscaleRequest(image=image(), model=NANO, tile_size=tile_size))
    assert caught.value.field == "tile_size"


def test_models_that_are_no_upscalers_are_refused_and_upscalers_generate_nothing(engine: Engine) -> None:
    with pytest.raises(ValidationError, match="flux-nano:bf16 is not an upscaler; upscalers: real-esrgan-x4plus:fp16"):
        engine.submit(UpscaleRequest(image=image(), model="flux-nano"))
    with pytest.raises(ValidationError, match="is an upscaler and does not generate images; use mold upscale"):
        engine.submit(GenerateRequest(prompt="a cat", model=NANO))


def test_all_models_of_the_catalog_are_there(engine: Engine) -> None:
    names = {entry.spec.name for entry in engine.models() if entry.spec.family == "upscaler" and entry.runnable}
    assert names == {
        "real-esrgan-x4plus:fp16", "real-esrgan-x4plus:fp32", "real-esrgan-x4plus-anime:fp16",
        "real-esrgan-x4plus-anime:fp32", "real-esrgan-anime-v3:fp32", "real-esrgan-x2plus:fp16",
        "real-esrgan-x2plus:fp32", "esrgan-nano-x4:fp32",
    }  # fmt: skip


def test_a_video_is_enlarged_and_keeps_its_sound(engine: Engine, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    numpy = pytest.importorskip("numpy")
    from mold_core.media.video import VideoWriter, probe_video

    source, target = tmp_path / "clip.mp4", tmp_path / "large.mp4"
    tone = numpy.sin(numpy.arange(8000) / 8).astype("float32")
    with source.open("w+b") as file, VideoWriter(file, "mp4", width=32, height=24, fps=6, sample_rate=8000) as video:
        for number in range(6):
            video.add(Image.new("RGB", (32, 24), (40 * number, 80, 200 - 30 * number)))
        video.add_sound(numpy.stack([tone, tone]))
    events: list[ProgressEvent] = []
    answer = engine.upscale(FileUpscaleRequest(source=source, target=target, model=NANO), events.append)
    assert (answer.image.width, answer.image.height, answer.image.format) == (128, 96, "mp4")
    with target.open("rb") as file:
        info = probe_video(file)
    assert (info.width, info.height, info.frames, info.fps) == (128, 96, 6, 6.0)
    assert sounds(av, source) == sounds(av, target) != []
    assert [event.step for event in events if isinstance(event, DenoiseStep)] == [1, 2, 3, 4, 5, 6]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "large.mp4"]


def sounds(av: Any, path: Path) -> list[bytes]:
    with path.open("rb") as file, av.open(file, "r", format="mp4") as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.dts is not None]


def test_a_damaged_video_is_refused(engine: Engine, tmp_path: Path) -> None:
    pytest.importorskip("av")
    source = tmp_path / "clip.mp4"
    source.write_bytes(b"not a video")
    with pytest.raises(ValidationError, match="the video is not an MP4 file, or is damaged"):
        engine.upscale(FileUpscaleRequest(source=source, target=tmp_path / "out.mp4", model=NANO))
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
