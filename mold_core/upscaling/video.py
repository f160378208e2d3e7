"""Upscale videos frame by frame, and copy their audio."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from fractions import Fraction
from itertools import chain
from pathlib import Path
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, BinaryIO

import torch

from mold_core.errors import ValidationError
from mold_core.files import write_whole
from mold_core.hookspecs import Run, UpscalerNetwork
from mold_core.media.clocks import origin_of
from mold_core.media.video import (
    MP4_OPTIONS,
    PARAMETERS_TAG,
    VideoInfo,
    VideoWriter,
    probe_video,
    read_video_metadata,
    reader_of,
)
from mold_core.media.video_reading import timed_frames
from mold_core.unfinished import unfinished
from mold_core.upscaling.enlarge import Enlarger
from mold_core.upscaling.execution import ExecutionDevice, enlarger_for
from mold_core.upscaling.pixels import bytes_of, tensor_of
from mold_core.upscaling.requests import FileUpscaleRequest
from mold_core.wire import ImageData, StageDone, StageStart, UpscaleResponse

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["upscale_video"]

# H.264 players support at most level 6.2: 8192 x 4352 pixels.
_LARGEST_SIDE = 8192


def upscale_video(
    request: FileUpscaleRequest, network: Callable[[], UpscalerNetwork], where: ExecutionDevice, model: str, run: Run
) -> UpscaleResponse:
    """Write the upscaled video to the target, atomically, and return the response.

    Each frame keeps its time; audio is copied packet by packet. The frames are upright and have square pixels; HDR
    becomes SDR, with a warning. One frame is in memory at a time. A progress step is a frame. Raises ValidationError
    for a source that is not an MP4, and for results with more than 8192 pixels per side.
    """
    started = monotonic()
    with _opened(request.source) as source:
        info = probe_video(source)
        run.check()
        enlarger = enlarger_for(network(), request.tile_size, where)
        scale = enlarger.network.scale
        _check_size(info, scale)
        run.report(StageStart(name="Upscaling"))
        with (
            tempfile.TemporaryDirectory(prefix=".mold-video-", dir=request.target.parent) as folder,
            unfinished(folder),
        ):
            silent = Path(folder) / "silent.mp4"
            with silent.open("w+b") as file:
                frames = _enlarge(source, file, info, enlarger, run)
            write_whole(request.target, lambda file: _with_sound(file, silent, source, model))
        run.report(StageDone(name="Upscaling", elapsed_ms=int((monotonic() - started) * 1000)))
    if not frames:
        raise ValidationError("the video has no frames", field="image")
    return UpscaleResponse(
        image=ImageData(data=b"", format="mp4", width=info.width * scale, height=info.height * scale),
        upscale_time_ms=int((monotonic() - started) * 1000),
        model=model,
        scale_factor=scale,
        original_width=info.width,
        original_height=info.height,
        warnings=() if info.transfer == "sdr" else (f"{info.transfer.upper()} video (HDR) was converted to SDR",),
    )


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise ValidationError("'%s' cannot be read: %s", path, (error.strerror or "").lower(), field="image") from error


def _check_size(info: VideoInfo, scale: int) -> None:
    width, height = info.width * scale, info.height * scale
    if max(width, height) > _LARGEST_SIDE:
        raise ValidationError(
            f"the result would have {width} x {height} pixels, and players take at most {_LARGEST_SIDE} a side",
            field="image",
            hint="use an upscaler with a smaller scale (mold list shows upscalers)",
        )


def _enlarge(source: BinaryIO, file: BinaryIO, info: VideoInfo, enlarger: Enlarger, run: Run) -> int:
    """Write the upscaled frames as a video without audio, and return their number."""
    scale = enlarger.network.scale
    rate = Fraction(info.fps or 25).limit_denominator(1001)
    source.seek(0)
    frames = timed_frames(source)
    first = next(frames, None)
    if first is None:
        return 0
    size = info.width * scale, info.height * scale
    count = 0
    with VideoWriter(file, "mp4", width=size[0], height=size[1], fps=rate, time_base=first.frame.time_base) as video:
        for count, frame in enumerate(chain([first], frames), start=1):
            began = perf_counter()
            # A player shows the first frame until the next one, even if the audio starts before it.
            start = frame.start if count > 1 else Fraction(0)
            video.add(_enlarged(frame.image(), enlarger), start, frame.end - start)
            run.step(count, max(info.frames or 0, count), round((perf_counter() - began) * 1000))
    return count


def _enlarged(frame: Image, enlarger: Enlarger) -> Image:
    from PIL import Image as images

    samples = tensor_of(frame.convert("RGB").tobytes(), frame.height, frame.width, 3)
    larger = enlarger.whole(samples.permute(2, 0, 1).to(torch.float32) / 255)
    levels = larger.mul(255).round_().to(torch.uint8).permute(1, 2, 0)
    return images.frombytes("RGB", (levels.shape[1], levels.shape[0]), bytes_of(levels))


def _with_sound(file: BinaryIO, silent: Path, source: BinaryIO, model: str) -> None:
    """Write the frames of `silent` and the audio of `source`, without re-encoding either."""
    import attrs
    import av

    source.seek(0)
    metadata = read_video_metadata(source)
    source.seek(0)
    with (
        silent.open("rb") as silent_file,
        av.open(silent_file, "r", format="mp4") as images,
        av.open(source, "r", format="mp4") as sounds,
        av.open(file, "w", format="mp4", options=MP4_OPTIONS, io_open=reader_of(file)) as out,
    ):
        if metadata is not None:
            out.metadata[PARAMETERS_TAG] = attrs.evolve(metadata, upscaler=model).to_json()
        frames = images.streams.video[0]
        tracks = [track for track in sounds.streams.audio if track.codec_context is not None]
        copies: list[tuple[Any, Any, Any]] = [(images, frames, out.add_stream_from_template(frames))]
        copies += [(sounds, track, out.add_stream_from_template(track)) for track in tracks[:1]]
        origin = origin_of(*sounds.streams.video[:1], *tracks[:1])
        for container, stream, target in copies:
            shift = round(origin / stream.time_base) if container is sounds else 0
            for packet in container.demux(stream):
                if packet.dts is not None:  # ffmpeg marks the end with an empty packet
                    packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                    packet.stream = target
                    out.mux(packet)
