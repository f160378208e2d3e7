"""Decode untrusted audio, video and images in a separate process with limits on memory and time.

    info = probe_video(data, name="source_video")
    frames = decode_clip(data, name="source_video", frames=17)

All functions raise ValidationError, with `name` as its field, for a file that is damaged, exceeds the limits of
`mold_core.media.limits`, or takes too long or too much memory; CancelledError when the thread's `Cancellation` is
cancelled or the decoders are closed; OutputError if PyAV is not installed.
"""

from mold_core.media.decoder.calls import (
    PREVIEW_FPS,
    check_image,
    close_decoders,
    decode_clip,
    decode_sound,
    preview,
    probe_sound,
    probe_video,
    read_video,
    thumbnail,
    transparency_mask,
    warm_decoder,
)
from mold_core.media.decoder.pool import Cancellation, DecodersBusyError, cancellable

__all__ = [
    "PREVIEW_FPS",
    "Cancellation",
    "DecodersBusyError",
    "cancellable",
    "check_image",
    "close_decoders",
    "decode_clip",
    "decode_sound",
    "preview",
    "probe_sound",
    "probe_video",
    "read_video",
    "thumbnail",
    "transparency_mask",
    "warm_decoder",
]
