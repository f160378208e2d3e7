"""Read frames and properties of MP4 files in this process. `mold_core.media.decoder` reads files of clients."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any, BinaryIO

import attrs

from mold_core.errors import OutputError, ValidationError
from mold_core.media.clocks import TimedFrame, origin_of
from mold_core.media.display import Display, Transfer, transfer_of
from mold_core.media.limits import MAX_FRAME_PIXELS, check_frame, check_seconds, damaged_video
from mold_core.media.metadata import OutputMetadata
from mold_core.media.mp4_index import Mp4Index, read_mp4_index

# PERF: PyAV and numpy take 80 ms each to import, so both are imported with the first video.
if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "PARAMETERS_TAG",
    "VideoInfo",
    "decode_frames",
    "probe_video",
    "pyav",
    "read_video_metadata",
    "timed_frames",
]

# The metadata key of an MP4 for the request that it was generated from.
PARAMETERS_TAG = "mold:parameters"

_MICROSECONDS = 1_000_000
_MOST_THREADS = 4
_DEFAULT_FPS = 25
_HOW_TO_INSTALL = "pip install 'mold-core[video]'"


@attrs.frozen(kw_only=True)
class VideoInfo:
    """The properties of a video file.

    `width` and `height` are the size that players show: upright, with square pixels. `frames` is the number of stored
    frames, None if it is unknown without decoding. `fps` is the average rate, `seconds` the time at which the last
    frame ends, from the start of video or audio. `sample_rate` and `channels` are None without audio.
    """

    width: int
    height: int
    fps: float
    frames: int | None
    duration_ms: int | None
    sample_rate: int | None
    channels: int | None
    seconds: float | None = None
    transfer: Transfer = "sdr"

    @property
    def has_audio(self) -> bool:
        """Whether there is audio."""
        return self.sample_rate is not None

    def frames_at(self, fps: int) -> int:
        """Return the number of frames that the video has at a constant rate, 1 or more."""
        if self.seconds is None:
            return self.frames or 1
        return max(round(self.seconds * fps), 1)


def probe_video(file: BinaryIO, *, name: str | None = None) -> VideoInfo:
    """Return the properties of an MP4. No frame is decoded.

    Raises ValidationError, with `name` as the field, if it is not an MP4, is damaged or exceeds the limits.
    """
    with _reading(file, name) as opened:
        video, container = opened.video, opened.container
        width, height = opened.display.size
        audio = next((stream for stream in container.streams.audio if stream.codec_context is not None), None)
        return VideoInfo(
            width=width,
            height=height,
            fps=float(video.average_rate or 0),
            frames=video.frames or opened.frames or None,
            duration_ms=container.duration // 1000 if container.duration else None,
            sample_rate=audio.codec_context.sample_rate if audio else None,
            channels=audio.codec_context.layout.nb_channels if audio else None,
            seconds=float(opened.end - opened.origin) if opened.end else None,
            transfer=transfer_of(video.codec_context),
        )


def decode_frames(file: BinaryIO, *, max_pixels: int = MAX_FRAME_PIXELS, name: str | None = None) -> Iterator[Image]:
    """Yield the stored frames of an MP4 as upright RGB images with square pixels, one in memory at a time.

    HDR is converted to SDR. Raises ValidationError, with `name` as the field, if it is not an MP4, is damaged, or a
    frame has more than `max_pixels`.
    """
    for frame in timed_frames(file, max_pixels=max_pixels, name=name):
        yield frame.image()


def timed_frames(
    file: BinaryIO, *, max_pixels: int = MAX_FRAME_PIXELS, name: str | None = None
) -> Iterator[TimedFrame]:
    """Yield the stored frames of an MP4 with the times at which players show them. Raises as `decode_frames` does."""
    av = pyav()
    with _reading(file, name, max_pixels) as opened:
        waiting: tuple[Any, Fraction] | None = None
        try:
            for frame in opened.container.decode(opened.video):
                check_frame(frame.width, frame.height, max_pixels, name)
                start = opened.start_of(frame, waiting[1] if waiting else None)
                check_seconds(float(start), name)
                if waiting:
                    yield opened.timed(*waiting, start)
                waiting = frame, start
        except av.error.FFmpegError as error:
            raise damaged_video(name) from error
        if waiting:
            yield opened.timed(*waiting, opened.end_of(*waiting))


def read_video_metadata(file: BinaryIO) -> OutputMetadata | None:
    """Return the metadata in an MP4, or None if there is none or it is unreadable."""
    try:
        with _reading(file) as opened:
            text = opened.container.metadata.get(PARAMETERS_TAG)
            return OutputMetadata.from_json(text) if text else None
    except ValidationError:
        return None


@attrs.frozen(kw_only=True)
class _Opened:
    """An open container and its video stream.

    `frames` is the number of frames in the index. `origin` and `end` are seconds on the clock of the file.
    """

    container: Any
    video: Any
    display: Display
    frames: int
    origin: Fraction
    end: Fraction | None

    @property
    def interval(self) -> Fraction:
        """The usual time from one frame to the next."""
        rate = self.video.average_rate or 0
        return 1 / Fraction(rate) if rate > 0 else Fraction(1, _DEFAULT_FPS)

    def timed(self, frame: Any, start: Fraction, end: Fraction) -> TimedFrame:
        """Return a frame with its presentation times."""
        return TimedFrame(frame=frame, start=start, end=end, interval=self.interval, display=self.display)

    def start_of(self, frame: Any, before: Fraction | None) -> Fraction:
        """Return when a frame is shown, at the earliest at the time of the previous frame, `before`."""
        if frame.pts is None or frame.time_base is None:
            return Fraction(0) if before is None else before + self.interval
        start: Fraction = frame.pts * frame.time_base - self.origin
        return max(start, before or Fraction(0))

    def end_of(self, frame: Any, start: Fraction) -> Fraction:
        """Return when the last frame ends: the duration in the file, unless frames are missing."""
        end = start + (frame.duration * frame.time_base if frame.duration and frame.time_base else self.interval)
        if self.end is not None and abs(self.end - self.origin - end) < 2 * self.interval:
            return max(self.end - self.origin, start)
        return end


class _reading:
    """An MP4 opened for reading: with a fixed format, never by name, and with a video stream that can be decoded."""

    def __init__(self, file: BinaryIO, name: str | None = None, max_pixels: int = MAX_FRAME_PIXELS) -> None:
        self._file = file
        self._name = name
        self._max_pixels = max_pixels

    def __enter__(self) -> _Opened:
        av = pyav()
        index = read_mp4_index(self._file, self._name)
        try:
            # NOTE: with a name, ffmpeg would also open URLs and playlists; without a format, it would guess.
            container = av.open(self._file, "r", format="mp4")
        except (av.error.FFmpegError, ValueError) as error:
            raise damaged_video(self._name) from error
        self._container = container
        try:
            return self._described(container, self._checked_video(container), index)
        except BaseException:
            container.close()
            raise

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def _described(self, container: Any, video: Any, index: Mp4Index) -> _Opened:
        context = video.codec_context
        display = Display.of(context.width, context.height, video.sample_aspect_ratio, index.matrix)
        check_frame(display.width, display.height, self._max_pixels, self._name)
        streams = [video, *(stream for stream in container.streams.audio[:1] if stream.codec_context is not None)]
        known = video.start_time is not None and video.duration
        end = (video.start_time + video.duration) * video.time_base if known else None
        return _Opened(
            container=container,
            video=video,
            display=display,
            frames=index.frames,
            origin=origin_of(*streams),
            end=end,
        )

    def _checked_video(self, container: Any) -> Any:
        if not container.streams.video:
            raise ValidationError(f"{self._name or 'the file'} is an MP4 without a video stream", field=self._name)
        video = container.streams.video[0]
        context = video.codec_context
        if context is None:
            raise ValidationError(
                f"{self._name or 'the file'} is an MP4 with an unsupported video codec",
                field=self._name,
                hint="use H.264, HEVC, VP9 or AV1",
            )
        check_frame(context.width, context.height, self._max_pixels, self._name)
        check_seconds((container.duration or 0) / _MICROSECONDS, self._name)
        # A frame may be larger than the file claims. The decoder checks the limit before it allocates memory.
        context.options = {"max_pixels": str(self._max_pixels)}
        context.thread_count = min(os.cpu_count() or 1, _MOST_THREADS)  # each thread takes address space for its stack
        return video


def pyav() -> Any:
    """Return the module `av`. Raises OutputError if it is not installed.

    Access its submodules through it, or import them after this call: if two threads import `av` and a submodule for the
    first time in parallel, they wait for one another, and one of them fails.
    """
    try:
        import av
    except ImportError:
        raise OutputError("videos need PyAV, which is not installed", hint=_HOW_TO_INSTALL) from None
    return av
