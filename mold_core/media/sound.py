"""Files of sound to samples, from anyone and in any common format, and samples to another rate."""

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

# NOTE: of ffmpeg's formats only those that hold sound themselves: playlists and the like name other files to open.
_FORMATS = "wav,w64,aiff,caf,au,flac,ogg,mp3,aac,ac3,eac3,amr,ape,wv,tta,asf,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm"

# What an MP4's AAC can have. Sound at any other rate becomes 48 kHz.
_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
_DEFAULT_RATE = 48_000
# A resampler keeps a few samples back until more come.
_MARGIN_SAMPLES = 1024
# Times in files are rounded, to milliseconds in some.
_SMALLEST_GAP_S = Fraction(1, 50)
_SILENT_BLOCK = 1 << 16


@attrs.frozen
class SoundInfo:
    """What decoding told of a sound: rate in Hz, channels, and how many samples of each."""

    sample_rate: int
    channels: int
    samples: int


def decode_sound(data: bytes, *, max_seconds: float, name: str = "sound") -> Sound | None:
    """Return the first `max_seconds` of a file's sound, mono or stereo, at its own rate where an MP4 can have that.

    The file may be a video: None if that has no sound. Raises ValidationError, with `name` as the field, for a file
    that is no sound, is damaged or has a rate or channels that no recording has; OutputError where PyAV is not
    installed.
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
    """Call `add` with the blocks that make up a sound, float32 [channels, n] in -1 to 1; see `decode_sound`."""
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
    """Return a sound's samples at another rate: float32 [channels, n]."""
    import numpy as np

    if sound.sample_rate == rate or not sound.samples.shape[1]:
        return sound.samples.astype(np.float32)
    from av import AudioFrame, AudioResampler

    layout = _layout(len(sound.samples))
    frame = AudioFrame.from_ndarray(np.ascontiguousarray(sound.samples, np.float32), format="fltp", layout=layout)
    frame.sample_rate, frame.pts = sound.sample_rate, 0
    resampler = AudioResampler(format="fltp", layout=layout, rate=rate)
    return np.concatenate([made.to_ndarray() for step in (frame, None) for made in resampler.resample(step)], axis=1)


def _streamed(container: Any, add: Callable[[NDArray[Any]], object], max_seconds: float, name: str) -> SoundInfo | None:
    import numpy as np

    context = container.streams.audio[0].codec_context
    if context is None or not is_plausible_sound(context.sample_rate, context.layout.nb_channels):
        raise _unreadable(name)
    rate = context.sample_rate if context.sample_rate in _AAC_RATES else _DEFAULT_RATE
    wanted, count = round(max_seconds * rate), 0
    layout = _layout(context.layout.nb_channels)
    for block in _blocks(container, context.sample_rate, rate, layout, max_seconds):
        kept = np.nan_to_num(block[:, : wanted - count]).clip(-1, 1)
        count += kept.shape[1]
        add(kept)
        if count >= wanted:
            break
    if not count:
        raise _unreadable(name)
    return SoundInfo(rate, 1 if layout == "mono" else 2, count)


def _blocks(container: Any, source_rate: int, rate: int, layout: str, max_seconds: float) -> Iterator[NDArray[Any]]:
    """Yield the sound at another rate, of no more of the file's samples than the seconds take.

    Where the clock of the file leaves a gap, at the beginning or later, there is silence, within the same limit.
    """
    from av import AudioResampler

    resampler = AudioResampler(format="fltp", layout=layout, rate=rate)
    left = ceil(max_seconds * source_rate) + _MARGIN_SAMPLES
    clock = origin_of(container.streams.audio[0], *_moving(container.streams.video))
    for frame in container.decode(audio=0):
        if frame.sample_rate != source_rate:  # a frame may name a rate of its own, such as 1 Hz
            raise ValueError("the sample rate changes within the audio")
        start = clock if frame.pts is None else frame.pts * frame.time_base
        if start - clock > _SMALLEST_GAP_S:
            gap = min(ceil((start - clock) * source_rate), left)
            left -= gap
            yield from _silence(round(gap * rate / source_rate), layout)
        clock = start + Fraction(frame.samples, source_rate)
        frame.pts = None  # the resampler would fill gaps itself, without limit
        left -= frame.samples
        for made in resampler.resample(frame):
            yield made.to_ndarray()
        if left <= 0:
            break
    for made in resampler.resample(None):
        yield made.to_ndarray()


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
