"""One clip of a chain: its latents, and its encoded frames and sound, on disk until the clips are joined.

The frames of a clip are H.264 that starts with a key frame, so clips are joined without encoding them again. Sound is
stored as samples, because every AAC stream starts with silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import attrs

from mold_core.errors import InferenceError
from mold_core.files import write_whole
from mold_core.hookspecs import ChainRenderer, DecodedClip, Run, Sound
from mold_core.media.joining import frames_of_videos
from mold_core.media.preview import PreviewFrames
from mold_core.media.video import VideoWriter
from mold_core.wire import GenerateRequest

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

__all__ = ["ClipFiles", "ClipWork", "encode_clip", "render_clip"]


@attrs.frozen(kw_only=True)
class ClipFiles:
    """The files of a clip.

    `faded` has the last frames, which the next clip blends with its first ones; `preview` has the frames of the GIF.
    """

    latents: Path
    video: Path
    sound: Path
    faded: Path
    preview: Path

    @property
    def rendered(self) -> bool:
        """Whether the latents exist."""
        return self.latents.is_file()


@attrs.frozen(kw_only=True)
class ClipWork:
    """The work of a worker for one clip.

    `request` is completed. `before` is the previous clip, `overlap` the number of frames shared with it. `after` is the
    next clip if it continues this one: its latents are needed to decode this one. `frames` is the number of frames
    used after the overlap. The first `fade_in` of them are blended with the last frames of `before`, and the last
    `fade_out` are left to the next clip. `preview_frames` selects those of the GIF preview. `lossless` is set for
    formats that are encoded again. `later` has the requests of the following clips, without images.
    """

    request: GenerateRequest
    files: ClipFiles
    before: ClipFiles | None
    overlap: int
    frames: int
    preview_frames: PreviewFrames
    after: ClipFiles | None = None
    fade_in: int = 0
    fade_out: int = 0
    lossless: bool = False
    later: tuple[GenerateRequest, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether the latents needed for decoding exist, and the frames do not."""
        after = self.after is None or self.after.rendered
        return self.files.rendered and after and not self.encoded

    @property
    def encoded(self) -> bool:
        """Whether the frames and the preview exist."""
        return self.decoded and self.files.preview.is_file()

    @property
    def decoded(self) -> bool:
        """Whether the video file, which is written last, exists, and the frames that the next clip blends."""
        return self.files.video.is_file() and (not self.fade_out or self.files.faded.is_file())


def render_clip(renderer: ChainRenderer, pipeline: Any, work: ClipWork, run: Run) -> None:
    """Render the latents of a clip and write them atomically. Does nothing if they exist."""
    if work.files.rendered:
        return
    from safetensors.torch import save

    renderer.prepare(pipeline, (work.request, *work.later), run)
    latents = renderer.render(pipeline, work.request, _latents_before(work), work.overlap, run)
    write_whole(work.files.latents, save({name: tensor.contiguous() for name, tensor in latents.items()}))


def encode_clip(renderer: ChainRenderer, pipeline: Any, work: ClipWork) -> None:
    """Decode the frames and the sound of a rendered clip and write them. Does nothing if they exist."""
    if work.decoded:
        if not work.files.preview.is_file():  # the existing preview is for a shorter or longer video
            write_whole(work.files.preview, partial(_write_frames, frames=_preview_images(work)))
        return
    after = _read_latents(work.after.latents) if work.after is not None else None
    video = renderer.decode(pipeline, _read_latents(work.files.latents), _latents_before(work), work.overlap, after)
    sound, sound_left = _cut_sound(video.sound, work)
    faded: list[Image] = []
    small: list[Image] = []
    # The existence of the video file means that all files exist, so it is published last.
    write_video = partial(_write_video, work=work, frames=_faded_in(video, work), faded=faded, small=small)
    staged = _StagedFile(work.files.video, write_video)
    write_whole(work.files.preview, partial(_write_frames, frames=small))
    if sound is not None:
        write_whole(work.files.sound, partial(_write_sound, sound=sound))
    if work.fade_out:
        write_whole(work.files.faded, partial(_write_faded, faded=faded, sound=sound_left))
    staged.publish()


class _StagedFile:
    """A file that is written under a temporary name, and renamed by `publish`."""

    def __init__(self, path: Path, write: Any) -> None:
        self._path = path
        self._aside = path.with_suffix(".aside")
        write_whole(self._aside, write)

    def publish(self) -> None:
        self._aside.replace(self._path)


def read_sound(path: Path) -> Sound | None:
    """Return the sound of an encoded clip, or None if it has none."""
    if not path.is_file():
        return None
    import numpy as np

    with np.load(path, allow_pickle=False) as arrays:
        return Sound(samples=arrays["samples"], sample_rate=int(arrays["sample_rate"]))


def read_preview(path: Path) -> Iterator[Image]:
    """Yield the frames of the GIF preview of an encoded clip."""
    import numpy as np
    from PIL.Image import fromarray

    with np.load(path, allow_pickle=False) as arrays:
        yield from map(fromarray, arrays["frames"])


def _write_video(
    file: BinaryIO, *, work: ClipWork, frames: Iterator[Image], faded: list[Image], small: list[Image]
) -> None:
    """Encode the frames of this clip; collect those for the next clip in `faded`, those of the preview in `small`."""
    request = work.request
    assert request.width is not None and request.height is not None and request.fps is not None  # completed
    keep = work.frames - work.fade_out
    with VideoWriter(
        file, "mp4", width=request.width, height=request.height, fps=request.fps, lossless=work.lossless
    ) as video:
        count = 0
        for count, image in enumerate(frames, 1):
            if count <= keep:
                video.add(image)
                if count - 1 in work.preview_frames:
                    small.append(work.preview_frames.small(image))
            else:
                faded.append(image)
    if count != work.frames:
        raise InferenceError(f"a clip has {count} frames after its overlap, not {work.frames}")


def _faded_in(video: DecodedClip, work: ClipWork) -> Iterator[Image]:
    """Yield the frames that are used, the first of them blended with the last frames of the previous clip."""
    from PIL.Image import blend, fromarray

    images = iter(islice(video.images, work.frames))
    if work.fade_in and work.before is not None:
        import numpy as np

        with np.load(work.before.faded, allow_pickle=False) as arrays:
            for index, (old, new) in enumerate(zip(arrays["frames"], images, strict=False)):
                yield blend(fromarray(old), new, (index + 1) / (work.fade_in + 1))
    yield from images


def _cut_sound(sound: Sound | None, work: ClipWork) -> tuple[Sound | None, Sound | None]:
    """Return the sound of this clip's frames, faded in, and that of the frames left to the next clip."""
    if sound is None:
        return None, None
    import numpy as np

    rate = sound.sample_rate
    total, kept = (_samples(count, work, rate) for count in (work.frames, work.frames - work.fade_out))
    samples = np.array(sound.samples[:, :total], dtype=np.float32)
    samples = np.pad(samples, ((0, 0), (0, total - samples.shape[1])))
    if work.fade_in and work.before is not None:
        with np.load(work.before.faded, allow_pickle=False) as arrays:
            old = arrays["samples"][:, :total]
        rise = np.linspace(0, 1, old.shape[1], dtype=np.float32)
        samples[:, : old.shape[1]] = old * (1 - rise) + samples[:, : old.shape[1]] * rise
    first, rest = samples[:, :kept], samples[:, kept:]
    return Sound(samples=first, sample_rate=rate), Sound(samples=rest, sample_rate=rate)


def _samples(frames: int, work: ClipWork, rate: int) -> int:
    return round(frames * rate / (work.request.fps or 1))


def _write_sound(file: BinaryIO, *, sound: Sound) -> None:
    import numpy as np

    np.savez(file, samples=sound.samples, sample_rate=sound.sample_rate)


def _preview_images(work: ClipWork) -> list[Image]:
    """Return the frames of the preview, decoded from the video file."""
    frames = enumerate(frames_of_videos([work.files.video]))
    return [work.preview_frames.small(frame) for index, frame in frames if index in work.preview_frames]


def _write_frames(file: BinaryIO, *, frames: Sequence[Image]) -> None:
    import numpy as np

    np.savez(file, frames=np.stack([np.asarray(image) for image in frames]) if frames else np.zeros((0, 1, 1, 3), "u1"))


def _write_faded(file: BinaryIO, *, faded: list[Image], sound: Sound | None) -> None:
    import numpy as np

    samples = np.zeros((2, 0), np.float32) if sound is None else sound.samples
    np.savez(file, frames=np.stack([np.asarray(image) for image in faded]), samples=samples)


def _latents_before(work: ClipWork) -> Mapping[str, Tensor] | None:
    return _read_latents(work.before.latents) if work.before is not None and work.overlap else None


def _read_latents(path: Path) -> Mapping[str, Tensor]:
    from safetensors.torch import load_file

    latents: Mapping[str, Tensor] = load_file(path)
    return latents
