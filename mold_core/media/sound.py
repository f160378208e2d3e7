"""Files of sound to samples, from anyone and in any common format, and samples to another rate."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Any

from mold_core.errors import ValidationError
from mold_core.hookspecs import Sound
from mold_core.media.video import pyav

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["decode_sound", "resampled"]

# NOTE: of ffmpeg's formats only those that hold sound themselves: playlists and the like name other files to open.
_FORMATS = "wav,w64,aiff,caf,au,flac,ogg,mp3,aac,ac3,eac3,amr,ape,wv,tta,asf,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm"

# What an MP4's AAC can have. Sound at any other rate becomes 48 kHz.
_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
_DEFAULT_RATE = 48_000


def decode_sound(data: bytes, *, max_seconds: float, name: str = "sound") -> Sound | None:
    """Return the first `max_seconds` of a file's sound, mono or stereo, at its own rate where an MP4 can have that.

    The file may be a video: None if that has no sound. Raises ValidationError, with `name` as the field, for a file
    that is no sound or is damaged; OutputError where PyAV is not installed.
    """
    av = pyav()
    try:
        with av.open(BytesIO(data), "r", container_options={"format_whitelist": _FORMATS}) as container:
            if not container.streams.audio:
                return None
            return _decoded(container, max_seconds, name)
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


def _decoded(container: Any, max_seconds: float, name: str) -> Sound:
    import numpy as np

    context = container.streams.audio[0].codec_context
    if not context.sample_rate or not context.layout.nb_channels:
        raise _unreadable(name)
    rate = context.sample_rate if context.sample_rate in _AAC_RATES else _DEFAULT_RATE
    wanted = round(max_seconds * rate)
    blocks, count = [], 0
    for block in _blocks(container, rate, _layout(context.layout.nb_channels)):
        blocks.append(block)
        count += block.shape[1]
        if count >= wanted:
            break
    if not count:
        raise _unreadable(name)
    samples = np.concatenate(blocks, axis=1)[:, :wanted]
    return Sound(samples=np.nan_to_num(samples).clip(-1, 1), sample_rate=rate)


def _blocks(container: Any, rate: int, layout: str) -> Iterator[NDArray[Any]]:
    from av import AudioResampler

    resampler = AudioResampler(format="fltp", layout=layout, rate=rate)
    for frame in container.decode(audio=0):
        frame.pts = None  # gaps and jumps in a file's clock would become silence of any length
        for made in resampler.resample(frame):
            yield made.to_ndarray()
    for made in resampler.resample(None):
        yield made.to_ndarray()


def _layout(channels: int) -> str:
    return "mono" if channels == 1 else "stereo"


def _unreadable(name: str) -> ValidationError:
    return ValidationError(
        f"{name} is no file of sound, or is damaged", field=name, hint="use WAV, MP3, FLAC, Ogg, M4A or the like"
    )
