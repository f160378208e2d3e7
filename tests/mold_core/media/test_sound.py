"""Sound of any format becomes samples; what is none is refused in one line."""

from __future__ import annotations

import wave
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest

from mold_core import ValidationError
from mold_core.media.sound import decode_sound, resampled


def tone(rate: int, channels: int, seconds: float = 1.0) -> bytes:
    """A WAV file of 440 Hz at half the full level."""
    time = np.arange(round(rate * seconds)) / rate
    samples = np.repeat((np.sin(2 * np.pi * 440 * time) * 16384).astype("<i2")[:, None], channels, 1)
    buffer = BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return buffer.getvalue()


def encoded(format: str, codec: str) -> bytes:
    buffer = BytesIO()
    with av.open(buffer, "w", format=format) as container:
        stream = container.add_stream(codec, rate=48_000, layout="stereo")
        hum = 0.5 * np.sin(2 * np.pi * 440 * np.arange(48_000, dtype=np.float32) / 48_000)
        frame = av.AudioFrame.from_ndarray(np.stack([hum, hum]), format="fltp", layout="stereo")
        frame.sample_rate = 48_000
        resampler = av.AudioResampler(
            format=stream.format, layout="stereo", rate=48_000, frame_size=stream.frame_size or 1024
        )
        for made in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(made))
        container.mux(stream.encode(None))
    return buffer.getvalue()


@pytest.mark.parametrize(("format", "codec"), [("mp3", "mp3"), ("flac", "flac"), ("ogg", "libopus"), ("mp4", "aac")])
def test_common_formats_are_read(format: str, codec: str) -> None:
    sound = decode_sound(encoded(format, codec), max_seconds=9)
    assert sound is not None and sound.sample_rate == 48_000
    assert sound.samples.shape[0] == 2 and abs(sound.samples.shape[1] - 48_000) < 2500
    assert int(np.abs(np.fft.rfft(sound.samples[1], 48_000)).argmax()) == 440


@pytest.mark.parametrize(
    ("rate", "channels", "kept"), [(44_100, 1, 44_100), (22_050, 2, 22_050), (192_000, 2, 48_000), (44_000, 1, 48_000)]
)
def test_rates_that_an_mp4_cannot_have_become_48_khz(rate: int, channels: int, kept: int) -> None:
    sound = decode_sound(tone(rate, channels), max_seconds=0.5)
    assert sound is not None
    assert (sound.sample_rate, sound.samples.shape) == (kept, (channels, kept // 2))
    assert 0.45 < sound.samples.max() < 0.55


def test_more_than_two_channels_are_mixed_to_two() -> None:
    sound = decode_sound(tone(16_000, 6), max_seconds=1)
    assert sound is not None and sound.samples.shape == (2, 16_000)


def test_a_sound_is_told_at_another_rate() -> None:
    sound = decode_sound(tone(48_000, 2), max_seconds=1)
    assert sound is not None
    slow = resampled(sound, 16_000)
    assert abs(slow.shape[1] - 16_000) <= 16 and slow.shape[0] == 2
    spectrum = np.abs(np.fft.rfft(slow[0], 16_000))
    assert int(spectrum.argmax()) == 440


def test_a_video_without_sound_has_none() -> None:
    buffer = BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width = stream.height = 64
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))))
        container.mux(stream.encode(None))
    assert decode_sound(buffer.getvalue(), max_seconds=1) is None


def test_what_is_no_sound_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.wav"
    secret.write_bytes(tone(8000, 1))
    playlists = (f"ffconcat version 1.0\nfile '{secret}'\n", f"#EXTM3U\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n")
    for data in (b"", b"no sound", tone(8000, 1)[:30], *(text.encode() for text in playlists)):
        with pytest.raises(ValidationError) as caught:
            decode_sound(data, max_seconds=1, name="audio_file")
        assert caught.value.field == "audio_file"
        assert str(caught.value) == ("audio_file is not an audio file, or is damaged; use WAV, MP3, FLAC, Ogg or M4A")
