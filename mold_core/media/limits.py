"""Limits of audio and video files. Each is checked before the work that it bounds."""

from __future__ import annotations

from mold_core.errors import ValidationError

__all__ = [
    "MAX_ANIMATION_PIXELS",
    "MAX_CHANNELS",
    "MAX_FRAME_PIXELS",
    "MAX_INDEX_ENTRIES",
    "MAX_SAMPLE_RATE",
    "MAX_SOUND_SECONDS",
    "MAX_TOTAL_PIXELS",
    "MAX_TRACKS",
    "MAX_VIDEO_SECONDS",
    "MIN_SAMPLE_RATE",
    "check_frame",
    "check_seconds",
    "check_sound",
    "check_total",
    "damaged_video",
    "is_plausible_sound",
]

# Of one frame of a video. The largest size of H.264, 8192 x 4352, exceeds it.
MAX_FRAME_PIXELS = 32_000_000
# Of one frame of a GIF, APNG or WebP. Pillow keeps three copies, with four bytes per pixel.
MAX_ANIMATION_PIXELS = 16_000_000
# Of all frames of a client's video together: a minute of 1080p at 60 frames per second.
MAX_TOTAL_PIXELS = 2**33
# Samples of all tracks; ffmpeg stores about 40 bytes for each. Six hours at 24 frames per second with audio reach it.
MAX_INDEX_ENTRIES = 1_500_000
MAX_TRACKS = 64
MAX_VIDEO_SECONDS = 24 * 3600
MAX_SOUND_SECONDS = 3600.0
# Resampling multiplies the length of audio with a low sample rate.
MIN_SAMPLE_RATE = 1_000
MAX_SAMPLE_RATE = 768_000
MAX_CHANNELS = 64


def damaged_video(name: str | None) -> ValidationError:
    """Return the error for a file that is not an MP4 file or is damaged."""
    return ValidationError(f"{name or 'the video'} is not an MP4 file, or is damaged", field=name)


def check_frame(width: int, height: int, max_pixels: int, name: str | None) -> None:
    """Raise ValidationError for a frame over the limit or without pixels."""
    if width < 1 or height < 1:
        raise damaged_video(name)
    if width * height > max_pixels:
        raise ValidationError(
            f"{name or 'the video'} has frames of {width} x {height} pixels, over the limit of"
            f" {max_pixels / 1e6:g} megapixels",
            field=name,
        )


def check_total(width: int, height: int, frames: int, name: str | None) -> None:
    """Raise ValidationError for a client's video whose frames have too many pixels together."""
    if width * height * frames > MAX_TOTAL_PIXELS:
        raise ValidationError(
            f"{name or 'the video'} has {frames} frames of {width} x {height} pixels, together over the limit of"
            f" {MAX_TOTAL_PIXELS / 1e9:.1f} gigapixels",
            field=name,
            hint="shorten it, or scale it down first",
        )


def check_seconds(seconds: float, name: str | None) -> None:
    """Raise ValidationError for a video whose duration is over a day."""
    if seconds > MAX_VIDEO_SECONDS:
        raise ValidationError(
            f"{name or 'the video'} has a duration of {seconds:.0f} s, over the limit of {MAX_VIDEO_SECONDS}",
            field=name,
        )


def check_sound(seconds: float, name: str) -> None:
    """Raise ValidationError for more audio than may be in memory."""
    if not 0 < seconds <= MAX_SOUND_SECONDS:
        raise ValidationError(f"{name} needs {seconds:g} s of audio; the limit is {MAX_SOUND_SECONDS:g}", field=name)


def is_plausible_sound(sample_rate: int, channels: int) -> bool:
    """Return whether real recordings have such a sample rate and number of channels."""
    return MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE and 1 <= channels <= MAX_CHANNELS
