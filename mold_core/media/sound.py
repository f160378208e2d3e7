"""Decode untrusted audio files of common formats to samples, and resample them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from io import BytesIO
from math import ceil
from typing import TYPE_CHECKING, Any, BinaryIO

import attrs

from mold_core.errors import ValidationError
from mold_core.hookspecs import Sound
from mold_core.media.clocks import origin_of
from mold_core.media.limits import check_sound, is_plausible_sound
from mold_core.media.mp4_index import is_mp4, read_mp4_index
from mold_core.media.video_reading import pyav

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SoundInfo", "decode_sound", "resampled", "stream_sound"]

# NOTE: only those formats of ffmpeg that contain audio. Playlists and similar formats name other files to open.
_FORMATS = "wav,w64,aiff,caf,au,flac,ogg,mp3,aac,ac3,eac3,amr,ape,wv,tta,asf,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm"

# Rates of AAC in MP4. Audio at any other rate is resampled to 48 kHz.
_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
_DEFAULT_RATE = 48_000
# A resampler buffers a few samples until it gets more.
_MARGIN_SAMPLES = 1024
# Times in files are rounded, in some to milliseconds.
_SMALLEST_GAP_S = Fraction(1, 50)
_SILENT_BLOCK = 1 << 16


@attrs.frozen
class SoundInfo:
    """Properties of decoded audio: rate in Hz, channels, and samples per channel."""

    sample_rate: int
    channels: int
    samples: int


def decode_sound(data: bytes, *, max_seconds: float, name: str = "sound") -> Sound | None:
    """Return the first `max_seconds` of a file's audio, mono or stereo, at its own rate if MP4 supports it.

    The file may be a video; None if it has no audio. Raises ValidationError, with `name` as the field, for a file that
    is not audio, is damaged or has an implausible rate or number of channels; OutputError if PyAV is not installed.
    """
    import numpy as np

    blocks: list[NDArray[Any]] = []
    info = stream_sound(BytesIO(data), blocks.append, max_seconds=max_seconds, name=name)
    if info is None:
        return None
    return Sound(samples=np.concatenate(blocks, axis=1), sample_rate=info.sample_rate)


def stream_sound(
    file: BinaryIO, add: Callable[[NDArray[Any]], object], *, max_seconds: float, name: str = "sound"
) -> SoundInfo | None:
    """Call `add` with each block of the audio, float32 [channels, n] in -1 to 1; see `decode_sound`."""
    av = pyav()
    check_sound(max_seconds, name)
    if is_mp4(file):
        _check_index(file, name)
    file.seek(0)
    try:
        with av.open(file, "r", container_options={"format_whitelist": _FORMATS}) as container:
            if not container.streams.audio:
                return None
            return _streamed(container, add, max_seconds, name)
    except (av.error.FFmpegError, ValueError) as error:
        raise _unreadable(name) from error


def resampled(sound: Sound, rate: int) -> NDArray[Any]:
    """Return the samples at another rate: float32 [channels, n]."""
    import numpy as np

    if sound.sample_rate == rate or not sound.samples.shape[1]:
        return sound.samples.astype(np.float32)
    from av import AudioFrame, AudioResampler

    layout = _layout(len(sound.samples))
    frame = AudioFrame.from_ndarray(np.ascontiguousarray(sound.samples, np.float32), format="fltp", layout=layout)
    frame.sample_rate, frame.pts = sound.sample_rate, 0
    resampler = AudioResampler(format="fltp", layout=layout, rate=rate)
    return np.concatenate(
        [output.to_ndarray() for step in (frame, None) for output in resampler.resample(step)], axis=1
    )


def _streamed(container: Any, add: Callable[[NDArray[Any]], object], max_seconds: float, name: str) -> SoundInfo | None:
    import numpy as np

    context = container.streams.audio[0].codec_context
    if context is None or not is_plausible_sound(context.sample_rate, context.layout.nb_channels):
        raise _unreadable(name)
    rate = context.sample_rate if context.sample_rate in _AAC_RATES else _DEFAULT_RATE
    most, count = round(max_seconds * rate), 0
    layout = _layout(context.layout.nb_channels)
    for block in _blocks(container, context.sample_rate, rate, layout, max_seconds):
        kept = np.nan_to_num(block[:, : most - count]).clip(-1, 1)
        count += kept.shape[1]
        add(kept)
        if count >= most:
            break
    if not count:
        raise _unreadable(name)
    return SoundInfo(rate, 1 if layout == "mono" else 2, count)


def _blocks(container: Any, source_rate: int, rate: int, layout: str, max_seconds: float) -> Iterator[NDArray[Any]]:
    """Yield the audio at another rate, from no more of the file than `max_seconds`.

    Gaps in the file's timestamps, at the start or later, become silence, within the same limit.
    """
    from av import AudioResampler

    resampler = AudioResampler(format="fltp", layout=layout, rate=rate)
    left = ceil(max_seconds * source_rate) + _MARGIN_SAMPLES
    clock = origin_of(container.streams.audio[0], *_moving(container.streams.video))
    for frame in container.decode(audio=0):
        if frame.sample_rate != source_rate:  # a frame may have its own rate, such as 1 Hz
            raise ValueError("the sample rate changes within the audio")
        start = clock if frame.pts is None else frame.pts * frame.time_base
        if start - clock > _SMALLEST_GAP_S:
            gap = min(ceil((start - clock) * source_rate), left)
            left -= gap
            yield from _silence(round(gap * rate / source_rate), layout)
        clock = start + Fraction(frame.samples, source_rate)
        frame.pts = None  # otherwise the resampler fills gaps itself, without limit
        left -= frame.samples
        for output in resampler.resample(frame):
            yield output.to_ndarray()
        if left <= 0:
            break
    for output in resampler.resample(None):
        yield output.to_ndarray()


def _moving(streams: Any) -> list[Any]:
    """Return the first video stream, unless it is a cover image."""
    from av.stream import Disposition

    return [stream for stream in streams[:1] if not stream.disposition & Disposition.attached_pic]


def _silence(samples: int, layout: str) -> Iterator[NDArray[Any]]:
    import numpy as np

    for first in range(0, samples, _SILENT_BLOCK):
        yield np.zeros((1 if layout == "mono" else 2, min(samples - first, _SILENT_BLOCK)), np.float32)


def _check_index(file: BinaryIO, name: str) -> None:
    """Raise ValidationError for an MP4, M4A or MOV whose index is damaged or claims more than the limits."""
    try:
        read_mp4_index(file, name)
    except ValidationError as error:
        raise (error if "too many" in error.message else _unreadable(name)) from error


def _layout(channels: int) -> str:
    return "mono" if channels == 1 else "stereo"


def _unreadable(name: str) -> ValidationError:
    return ValidationError(
        f"{name} is not an audio file, or is damaged", field=name, hint="use WAV, MP3, FLAC, Ogg or M4A"
    )
