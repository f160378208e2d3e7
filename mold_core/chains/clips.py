"""One clip of a chain: its latents on disk, and its frames and sound as a part that is joined to others later.

A part is H.264 that begins with a whole frame, so parts are joined without being encoded again; sound is kept as it
came, since every AAC stream begins with a silence of its own.
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
    """Where a clip lies.

    `faded` holds the frames at its end that the next clip blends with its own, `preview` those of the small GIF.
    """

    latents: Path
    part: Path
    sound: Path
    faded: Path
    preview: Path

    @property
    def rendered(self) -> bool:
        """Whether the latents are here."""
        return self.latents.is_file()


@attrs.frozen(kw_only=True)
class ClipWork:
    """All that a worker needs to know to make a clip.

    `request` is complete. `before` is the clip that comes before, `overlap` the frames shared with it (0: none);
    `after` is the clip that goes on from this one, if one does: its latents are needed to decode this one.
    `frames`: how many frames after the overlap are used. The first `fade_in` of them are blended with the last of
    `before`; the last `fade_out` are left to the next clip. `shown` are those of the GIF preview. `lossless` is for
    formats that are encoded once more. `later` are the requests of the clips to come, without their images.
    """

    request: GenerateRequest
    files: ClipFiles
    before: ClipFiles | None
    overlap: int
    frames: int
    shown: PreviewFrames
    after: ClipFiles | None = None
    fade_in: int = 0
    fade_out: int = 0
    lossless: bool = False
    later: tuple[GenerateRequest, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether the latents are here that the frames are decoded from, and the frames are not."""
        after = self.after is None or self.after.rendered
        return self.files.rendered and after and not self.encoded

    @property
    def encoded(self) -> bool:
        """Whether all that comes of the frames is here."""
        return self.decoded and self.files.preview.is_file()

    @property
    def decoded(self) -> bool:
        """Whether the part is here, which is written last, and what the next clip blends with its own frames."""
        return self.files.part.is_file() and (not self.fade_out or self.files.faded.is_file())


def render_clip(renderer: ChainRenderer, pipeline: Any, work: ClipWork, run: Run) -> None:
    """Leave the latents of a clip on disk, whole or not at all; nothing is done if they are there."""
    if work.files.rendered:
        return
    from safetensors.torch import save

    renderer.prepare(pipeline, (work.request, *work.later), run)
    latents = renderer.render(pipeline, work.request, _latents_before(work), work.overlap, run)
    write_whole(work.files.latents, save({name: tensor.contiguous() for name, tensor in latents.items()}))


def encode_clip(renderer: ChainRenderer, pipeline: Any, work: ClipWork) -> None:
    """Leave the frames and the sound of a rendered clip on disk; nothing is done if they are there."""
    if work.decoded:
        if not work.files.preview.is_file():  # it is that of a shorter or longer video
            write_whole(work.files.preview, partial(_write_frames, frames=_shown_of(work)))
        return
    after = _read_latents(work.after.latents) if work.after is not None else None
    video = renderer.decode(pipeline, _read_latents(work.files.latents), _latents_before(work), work.overlap, after)
    sound, sound_left = _cut_sound(video.sound, work)
    held: list[Image] = []
    small: list[Image] = []
    # Readers take the part as the sign that all is here, so it comes last.
    with_part = partial(_write_part, work=work, frames=_faded_in(video, work), held=held, small=small)
    staged = _Staged(work.files.part, with_part)
    write_whole(work.files.preview, partial(_write_frames, frames=small))
    if sound is not None:
        write_whole(work.files.sound, partial(_write_sound, sound=sound))
    if work.fade_out:
        write_whole(work.files.faded, partial(_write_faded, held=held, sound=sound_left))
    staged.publish()


class _Staged:
    """A file that is written beside its place now and put there later."""

    def __init__(self, path: Path, write: Any) -> None:
        self._path = path
        self._aside = path.with_suffix(".aside")
        write_whole(self._aside, write)

    def publish(self) -> None:
        self._aside.replace(self._path)


def read_sound(path: Path) -> Sound | None:
    """Return the sound of an encoded clip; None where it has none."""
    if not path.is_file():
        return None
    import numpy as np

    with np.load(path, allow_pickle=False) as held:
        return Sound(samples=held["samples"], sample_rate=int(held["sample_rate"]))


def read_preview(path: Path) -> Iterator[Image]:
    """Yield the frames of the GIF preview that an encoded clip has."""
    import numpy as np
    from PIL.Image import fromarray

    with np.load(path, allow_pickle=False) as held:
        yield from map(fromarray, held["frames"])


def _write_part(
    file: BinaryIO, *, work: ClipWork, frames: Iterator[Image], held: list[Image], small: list[Image]
) -> None:
    """Encode the frames that are kept; leave those of the next clip in `held`, those of the preview in `small`."""
    request = work.request
    assert request.width is not None and request.height is not None and request.fps is not None  # it is complete
    keep = work.frames - work.fade_out
    with VideoWriter(
        file, "mp4", width=request.width, height=request.height, fps=request.fps, lossless=work.lossless
    ) as video:
        count = 0
        for count, image in enumerate(frames, 1):
            if count <= keep:
                video.add(image)
                if count - 1 in work.shown:
                    small.append(work.shown.small(image))
            else:
                held.append(image)
    if count != work.frames:
        raise InferenceError(f"a clip came out with {count} frames after its overlap, not {work.frames}")


def _faded_in(video: DecodedClip, work: ClipWork) -> Iterator[Image]:
    """Yield the frames that are used, the first of them blended with those the clip before left for it."""
    from PIL.Image import blend, fromarray

    images = iter(islice(video.images, work.frames))
    if work.fade_in and work.before is not None:
        import numpy as np

        with np.load(work.before.faded, allow_pickle=False) as left:
            for index, (old, new) in enumerate(zip(left["frames"], images, strict=False)):
                yield blend(fromarray(old), new, (index + 1) / (work.fade_in + 1))
    yield from images


def _cut_sound(sound: Sound | None, work: ClipWork) -> tuple[Sound | None, Sound | None]:
    """Return the sound of the frames that are kept, faded in, and that of the frames left to the next clip."""
    if sound is None:
        return None, None
    import numpy as np

    rate = sound.sample_rate
    wanted, kept = (_samples(count, work, rate) for count in (work.frames, work.frames - work.fade_out))
    samples = np.array(sound.samples[:, :wanted], dtype=np.float32)
    samples = np.pad(samples, ((0, 0), (0, wanted - samples.shape[1])))
    if work.fade_in and work.before is not None:
        with np.load(work.before.faded, allow_pickle=False) as left:
            old = left["samples"][:, :wanted]
        rise = np.linspace(0, 1, old.shape[1], dtype=np.float32)
        samples[:, : old.shape[1]] = old * (1 - rise) + samples[:, : old.shape[1]] * rise
    first, rest = samples[:, :kept], samples[:, kept:]
    return Sound(samples=first, sample_rate=rate), Sound(samples=rest, sample_rate=rate)


def _samples(frames: int, work: ClipWork, rate: int) -> int:
    return round(frames * rate / (work.request.fps or 1))


def _write_sound(file: BinaryIO, *, sound: Sound) -> None:
    import numpy as np

    np.savez(file, samples=sound.samples, sample_rate=sound.sample_rate)


def _shown_of(work: ClipWork) -> list[Image]:
    """Return the frames of the preview from the part."""
    frames = enumerate(frames_of_videos([work.files.part]))
    return [work.shown.small(frame) for index, frame in frames if index in work.shown]


def _write_frames(file: BinaryIO, *, frames: Sequence[Image]) -> None:
    import numpy as np

    np.savez(file, frames=np.stack([np.asarray(image) for image in frames]) if frames else np.zeros((0, 1, 1, 3), "u1"))


def _write_faded(file: BinaryIO, *, held: list[Image], sound: Sound | None) -> None:
    import numpy as np

    samples = np.zeros((2, 0), np.float32) if sound is None else sound.samples
    np.savez(file, frames=np.stack([np.asarray(image) for image in held]), samples=samples)


def _latents_before(work: ClipWork) -> Mapping[str, Tensor] | None:
    return _read_latents(work.before.latents) if work.before is not None and work.overlap else None


def _read_latents(path: Path) -> Mapping[str, Tensor]:
    from safetensors.torch import load_file

    latents: Mapping[str, Tensor] = load_file(path)
    return latents
