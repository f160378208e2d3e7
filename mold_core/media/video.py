"""Encode videos frame by frame: MP4 with audio, GIF, APNG, WebP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from math import floor
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from mold_core.errors import ValidationError
from mold_core.media.metadata import OutputMetadata
from mold_core.media.video_reading import (
    PARAMETERS_TAG,
    VideoInfo,
    decode_frames,
    probe_video,
    pyav,
    read_video_metadata,
)

# PERF: PyAV and numpy take 80 ms each to import, so both are imported with the first video.
if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

__all__ = [
    "MP4_OPTIONS",
    "PARAMETERS_TAG",
    "SoundStream",
    "VideoFormat",
    "VideoInfo",
    "VideoWriter",
    "decode_frames",
    "probe_video",
    "read_video_metadata",
    "reader_of",
]

VideoFormat = Literal["mp4", "gif", "apng", "webp"]

# Options of every MP4: index first, no dates.
MP4_OPTIONS = {"movflags": "+faststart+use_metadata_tags", "fflags": "+bitexact"}

# Constant quality of x264: 18 is considered visually lossless, x264's default is 23.
# NOTE: with its macroblock tree, x264 wrote different bytes for the same frames once in ten to a hundred runs; without
# it, in none of thousands.
_MP4_OPTIONS = {"crf": "18", "preset": "medium", "x264-params": "mbtree=0"}
_WEBP_QUALITY = "80"
# Players replace delays below 2/100 s by 10/100 s.
_MAX_GIF_FPS = 50

# PERF: ffmpeg's default search for AAC quantisers takes three times as long, and its loss on generated audio at 192
# kbit/s exceeds that of this one at 120: five bits for a sample of both channels (benchmarks/sound.py).
_AAC_OPTIONS = {"aac_coder": "fast"}
_AUDIO_BITS_PER_SAMPLE = 5
_MOST_AUDIO_BITS_PER_SECOND = 192_000
_AUDIO_BLOCK = 1024

# ffmpeg's numbers for ITU-R BT.709 (primaries, transfer curves and matrices alike) and for limited range.
_BT709 = 1
_LIMITED_RANGE = 1


class VideoWriter:
    """Encodes frames, and for MP4 audio, into a file one by one. Only the encoder's reference frames are in memory.

        with VideoWriter(file, "mp4", width=512, height=320, fps=24, sample_rate=48_000) as video:
            for image, sound in clips:
                video.add(image)
                video.add_sound(sound)

    `lossless` writes an MP4 that preserves every pixel, for later re-encoding; few players support it. With
    `shared_palette`, all frames of a GIF have the same 256 colours, which takes a tenth of the time and keeps the
    frames in memory until `close`. A GIF of more than 50 frames per second drops frames evenly, because players slow
    down anything faster. `time_base` is the unit of frame times for a variable frame rate, else 1 / fps. `file` is a
    seekable binary file. An MP4 must be on disk: `close` moves its index to the front, so that players can start before
    the download ends. The same frames give the same bytes. An exception in the block leaves the file incomplete: write
    to a temporary file, as `mold_core.files.write_whole` does.

    Raises ValidationError for a size that the format does not support, OutputError if PyAV is not installed.
    """

    def __init__(
        self,
        file: BinaryIO,
        format: VideoFormat,
        *,
        width: int,
        height: int,
        fps: int | Fraction,
        sample_rate: int | None = None,
        channels: int = 2,
        metadata: OutputMetadata | None = None,
        lossless: bool = False,
        shared_palette: bool = False,
        time_base: Fraction | None = None,
    ) -> None:
        if format == "mp4" and (width % 2 or height % 2):
            raise ValidationError(
                f"an MP4 needs an even width and height, not {width} x {height}", field="output_format", value=format
            )
        self.frames = 0
        self.samples = 0
        self._size = (width, height)
        self._drops = format == "gif" and fps > _MAX_GIF_FPS
        self._fps = Fraction(fps)
        if self._drops:
            fps = _MAX_GIF_FPS
        self._tick = time_base or 1 / Fraction(fps)
        self._last_tick = -1
        self._container = _open_for_writing(file, format)
        self._filter: _Palette | None = _Palette(width, height, fps, shared=shared_palette) if format == "gif" else None
        if metadata is not None and format == "mp4":
            self._container.metadata[PARAMETERS_TAG] = metadata.to_json()
        self._video = _video_stream(self._container, "lossless" if lossless else format, width, height, fps)
        if time_base is not None:
            self._video.time_base = self._video.codec_context.time_base = time_base
        self._sound = SoundStream(self._container, sample_rate, channels) if sample_rate and format == "mp4" else None

    def add(self, image: Image, start: Fraction | None = None, seconds: Fraction | None = None) -> None:
        """Append one frame, of mode RGB and the size of the video.

        It is shown from `start` for `seconds`; the default is after the previous frame, for 1 / fps. A frame that is
        shorter than the time resolution of the format is dropped.
        """
        if image.size != self._size:
            raise ValueError(f"a frame of {image.size} does not fit into a video of {self._size}")
        start = self.frames / self._fps if start is None else start
        tick = floor(start / self._tick) if self._drops else round(start / self._tick)
        self.frames += 1
        if tick <= self._last_tick:
            return
        self._last_tick = tick
        from av import VideoFrame

        frame = VideoFrame.from_image(image if image.mode == "RGB" else image.convert("RGB"))  # type: ignore[no-untyped-call]
        frame.pts, frame.time_base = tick, self._tick
        frame.duration = round(seconds / self._tick) if seconds else 1
        for ready in self._filter.push(frame) if self._filter else [self._converted(frame)]:
            self._container.mux(self._video.encode(ready))

    def add_sound(self, samples: NDArray[Any]) -> None:
        """Append audio, float32 [channels, n] in -1 to 1. It is ignored if the video has no audio."""
        if self._sound is not None:
            self.samples += samples.shape[1]
            self._sound.push(samples)

    def close(self) -> None:
        """Write the remaining data and the index."""
        for ready in self._filter.push(None) if self._filter else []:
            self._container.mux(self._video.encode(ready))
        self._container.mux(self._video.encode(None))
        if self._sound is not None:
            self._sound.finish()
        self._container.close()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()

    def _converted(self, frame: Any) -> Any:
        """Return the frame in the encoder's pixel format; for MP4 in BT.709, which its stream declares."""
        pixel_format = self._video.pix_fmt
        if pixel_format == "yuv420p":
            converted = frame.reformat(format=pixel_format, dst_colorspace="ITU709", dst_color_range="MPEG")
            converted.pts, converted.time_base, converted.duration = frame.pts, frame.time_base, frame.duration
            return converted
        return frame.reformat(format=pixel_format)


class SoundStream:
    """The audio stream of an MP4 writer: encodes float32 [channels, n] pieces of any length to AAC."""

    def __init__(self, container: Any, sample_rate: int, channels: int) -> None:
        self._container = container
        self._layout = "mono" if channels == 1 else "stereo"
        self._stream = container.add_stream("aac", rate=sample_rate, layout=self._layout, options=dict(_AAC_OPTIONS))
        self._stream.bit_rate = min(_AUDIO_BITS_PER_SAMPLE * sample_rate, _MOST_AUDIO_BITS_PER_SECOND)
        self._rate = sample_rate
        self._channels = channels
        self._waiting: Any = None
        self._sent = 0

    def push(self, samples: NDArray[Any]) -> None:
        """Append samples in -1 to 1."""
        import numpy as np

        if samples.ndim != 2 or samples.shape[0] != self._channels:
            raise ValueError(f"sound must be [{self._channels}, n], not {list(samples.shape)}")
        samples = np.clip(samples, -1, 1).astype(np.float32)
        whole = samples if self._waiting is None else np.concatenate([self._waiting, samples], axis=1)
        ready = whole.shape[1] // _AUDIO_BLOCK * _AUDIO_BLOCK
        for first in range(0, ready, _AUDIO_BLOCK):
            self._send(whole[:, first : first + _AUDIO_BLOCK])
        self._waiting = whole[:, ready:]

    def finish(self) -> None:
        """Write the remaining samples."""
        if self._waiting is not None and self._waiting.shape[1]:
            self._send(self._waiting)
        self._container.mux(self._stream.encode(None))

    def _send(self, block: Any) -> None:
        import numpy as np
        from av import AudioFrame

        frame = AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout=self._layout)
        frame.sample_rate, frame.pts, frame.time_base = self._rate, self._sent, Fraction(1, self._rate)
        self._sent += block.shape[1]
        self._container.mux(self._stream.encode(frame))


class _Palette:
    """Chooses 256 colours per frame of a GIF, or shared by all frames, which needs all of them in memory."""

    def __init__(self, width: int, height: int, fps: int | Fraction, *, shared: bool) -> None:
        PixelFormat = pyav().VideoFormat
        from av.filter import Graph

        self._graph = Graph()
        source = self._graph.add_buffer(
            width=width, height=height, format=PixelFormat("rgb24"), time_base=1 / Fraction(fps)
        )
        split = self._graph.add("split")
        palette = self._graph.add("palettegen", f"stats_mode={'full' if shared else 'single'}")
        use = self._graph.add("paletteuse", f"new={0 if shared else 1}:dither=sierra2_4a")
        sink = self._graph.add("buffersink")
        source.link_to(split)
        split.link_to(palette, 0, 0)
        split.link_to(use, 1, 0)
        palette.link_to(use, 0, 1)
        use.link_to(sink)
        self._graph.configure()

    def push(self, frame: Any) -> Iterator[Any]:
        """Yield the frames that are ready. A frame of None marks the end."""
        errors = pyav().error
        self._graph.push(frame)
        while True:
            try:
                yield self._graph.pull()
            except (errors.BlockingIOError, errors.EOFError):
                return


def _open_for_writing(file: BinaryIO, format: VideoFormat) -> Any:
    av = pyav()
    if format != "mp4":
        loop = {"gif": {"loop": "0"}, "apng": {"plays": "0"}, "webp": {"loop": "0"}}[format]
        return av.open(file, "w", format=format, options=loop)

    return av.open(file, "w", format="mp4", options=MP4_OPTIONS, io_open=reader_of(file))


def reader_of(file: BinaryIO) -> Callable[..., BinaryIO]:
    """Return a function that opens `file` again for ffmpeg, which needs it to move the index of an MP4 to the front.

    Otherwise ffmpeg would interpret the name of the file, for example as a URL.
    """

    def open_again(*_: object) -> BinaryIO:
        file.flush()
        return open(file.name, "rb")  # closed by PyAV

    return open_again


def _video_stream(container: Any, codec_name: str, width: int, height: int, fps: int | Fraction) -> Any:
    codec, pixels, options = _CODECS[codec_name]
    stream = container.add_stream(codec, rate=fps, options=dict(options))
    stream.width, stream.height, stream.pix_fmt = width, height, pixels
    # The number of encoder threads changes the bytes. Encoding is fast compared with generating the frames.
    stream.codec_context.thread_count = 1
    if codec_name == "mp4":
        context = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = _BT709
        context.color_range = _LIMITED_RANGE
    return stream


_CODECS: Mapping[str, tuple[str, str, Mapping[str, str]]] = MappingProxyType(
    {
        "mp4": ("libx264", "yuv420p", _MP4_OPTIONS),
        "lossless": ("libx264rgb", "rgb24", {"qp": "0", "preset": "veryfast", "x264-params": "mbtree=0"}),
        "gif": ("gif", "pal8", {}),
        "apng": ("apng", "rgb24", {"pred": "mixed"}),
        "webp": ("libwebp_anim", "bgra", {"quality": _WEBP_QUALITY}),
    }
)
