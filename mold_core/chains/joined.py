"""Joins the clips of a chain into one video."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from mold_core.chains.chain import Chain
from mold_core.chains.clips import read_preview, read_sound
from mold_core.media import OutputMetadata, embed_metadata
from mold_core.media.joining import frames_of_videos, join_videos
from mold_core.media.preview import first_frame_png, preview_gif
from mold_core.unfinished import unfinished
from mold_core.wire import VideoData

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

__all__ = ["join"]


def join(chain: Chain, metadata: OutputMetadata | None) -> VideoData:
    """Return the video of a chain whose clips are all on disk, with a GIF preview and a PNG of the first frame.

    The video is assembled on disk, and clips are read one after the other.
    """
    request = chain.works[0].request
    assert request.fps is not None and request.width is not None and request.height is not None  # completed
    clips = [work.files.video for work in chain.works]
    first_sound = read_sound(chain.works[0].files.sound)
    frames, fps = chain.plan.total_frames, request.fps
    with (
        TemporaryDirectory(prefix="mold-chain-") as folder,
        unfinished(folder),
        ThreadPoolExecutor(1, "mold-preview") as background,
    ):
        rate = Fraction(fps, chain.works[0].preview_frames.every)
        preview = background.submit(lambda: preview_gif(_preview_images(chain), rate))
        path = Path(folder) / "video"
        with path.open("w+b") as file:
            join_videos(
                file,
                chain.request.output_format,
                clips,
                fps=fps,
                sounds=_sounds(chain) if first_sound else None,
                sample_rate=first_sound.sample_rate if first_sound else None,
                metadata=metadata,
            )
        data = path.read_bytes()
        if metadata is not None and chain.request.output_format != "mp4":
            data = embed_metadata(data, metadata)
        png = first_frame_png(next(frames_of_videos(clips[:1])))
        gif = preview.result()
    has_audio = first_sound is not None and chain.request.output_format == "mp4"
    return VideoData(
        data=data,
        format=chain.request.output_format,
        width=request.width,
        height=request.height,
        frames=frames,
        fps=fps,
        thumbnail=png,
        gif_preview=gif,
        has_audio=has_audio,
        duration_ms=frames * 1000 // fps,
        audio_sample_rate=first_sound.sample_rate if first_sound and has_audio else None,
        audio_channels=len(first_sound.samples) if first_sound and has_audio else None,
    )


def _preview_images(chain: Chain) -> Iterator[Image]:
    for work in chain.works:
        yield from read_preview(work.files.preview)


def _sounds(chain: Chain) -> Iterator[NDArray[Any]]:
    """Yield the sound of each clip, cut so that it never drifts from the frames by more than half a sample."""
    import numpy as np

    frames, sent = 0, 0
    for work in chain.works:
        sound = read_sound(work.files.sound)
        assert sound is not None  # either all clips of a model have sound, or none
        frames += work.frames - work.fade_out
        until = round(frames * sound.sample_rate / (work.request.fps or 1))
        samples = sound.samples[:, : until - sent]
        yield np.pad(samples, ((0, 0), (0, until - sent - samples.shape[1])))
        sent = until
