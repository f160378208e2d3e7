"""What a file of sound or video may ask of a decoder. Each limit is checked before the work that it bounds."""

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

# Of one frame of a video; 8192 x 4352, the largest that H.264 names, is more than a frame here may have.
MAX_FRAME_PIXELS = 32_000_000
# Of one frame of a GIF, APNG or WebP, of which Pillow keeps three copies with four bytes a pixel.
MAX_ANIMATION_PIXELS = 16_000_000
# Of all frames of a client's video together: a minute of 1080p at 60 frames a second.
MAX_TOTAL_PIXELS = 2**33
# Samples of all tracks; ffmpeg keeps some 40 bytes of each. Six hours of 24 frames a second with sound have as many.
MAX_INDEX_ENTRIES = 1_500_000
MAX_TRACKS = 64
MAX_VIDEO_SECONDS = 24 * 3600
MAX_SOUND_SECONDS = 3600.0
# Sound at a low rate becomes as many times longer when it is resampled.
MIN_SAMPLE_RATE = 1_000
MAX_SAMPLE_RATE = 768_000
MAX_CHANNELS = 64


def damaged_video(name: str | None) -> ValidationError:
    """Return the error for a file that is no MP4, or one that cannot be read."""
    return ValidationError(f"{name or 'the video'} is not an MP4 file, or is damaged", field=name)


def check_frame(width: int, height: int, max_pixels: int, name: str | None) -> None:
    """Raise ValidationError for a frame over the limit, or without pixels."""
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
    """Raise ValidationError for a video that says it lasts longer than a day."""
    if seconds > MAX_VIDEO_SECONDS:
        raise ValidationError(
            f"{name or 'the video'} has a duration of {seconds:.0f} s, over the limit of {MAX_VIDEO_SECONDS}",
            field=name,
        )


def check_sound(seconds: float, name: str) -> None:
    """Raise ValidationError where more sound is asked for than is ever kept in memory."""
    if not 0 < seconds <= MAX_SOUND_SECONDS:
        raise ValidationError(f"{name} needs {seconds:g} s of audio; the limit is {MAX_SOUND_SECONDS:g}", field=name)


def is_plausible_sound(sample_rate: int, channels: int) -> bool:
    """Return whether a sound has a rate and a number of channels that recordings have."""
    return MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE and 1 <= channels <= MAX_CHANNELS
