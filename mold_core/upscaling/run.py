"""Run one upscaling request, from its bytes to the finished file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, BinaryIO

from mold_core.errors import ValidationError
from mold_core.files import write_whole
from mold_core.hookspecs import Run, UpscalerNetwork
from mold_core.upscaling.execution import ExecutionDevice, enlarger_for
from mold_core.upscaling.requests import FileUpscaleRequest, is_video
from mold_core.wire import ImageData, StageDone, StageStart, UpscaleRequest, UpscaleResponse

if TYPE_CHECKING:
    from mold_core.media.formats import ImageFormat
    from mold_core.upscaling.enlarge import Enlarger
    from mold_core.upscaling.images import SourceImage

__all__ = ["read_file", "read_source", "upscale"]

# A strip is converted to samples in batches of rows, because each step of the conversion needs a copy.
_ROWS_AT_ONCE = 128


def upscale(
    request: UpscaleRequest, network: Callable[[], UpscalerNetwork], where: ExecutionDevice, model: str, run: Run
) -> UpscaleResponse:
    """Return the upscaled image of a request. A FileUpscaleRequest writes it to the target file instead.

    `network` returns the network and is called after the image was read. Raises ValidationError for a file that is not
    an image, OutputError for a target that cannot be written.
    """
    started = monotonic()
    if isinstance(request, FileUpscaleRequest) and is_video(request.source):
        from mold_core.upscaling.video import upscale_video

        return upscale_video(request, network, where, model, run)
    from mold_core.upscaling.images import read_image

    with _stage(run, "Decoding input image"):
        image = read_image(read_source(request))
    run.check()
    enlarger = enlarger_for(network(), request.tile_size, where)
    format: ImageFormat = request.output_format
    data = b""
    if isinstance(request, FileUpscaleRequest):
        write_whole(request.target, lambda file: _write(file, format, image, enlarger, model, run))
    else:
        buffer = BytesIO()
        _write(buffer, format, image, enlarger, model, run)
        data = buffer.getvalue()
    scale = enlarger.network.scale
    return UpscaleResponse(
        image=ImageData(data=data, format=format, width=image.width * scale, height=image.height * scale),
        upscale_time_ms=int((monotonic() - started) * 1000),
        model=model,
        scale_factor=scale,
        original_width=image.width,
        original_height=image.height,
    )


def read_source(request: UpscaleRequest) -> bytes:
    """Return the bytes of the image. Raises ValidationError for a file that cannot be read."""
    if not isinstance(request, FileUpscaleRequest):
        return request.image
    return read_file(request.source)


def read_file(path: Path) -> bytes:
    """Return the content of a file that a user named. Raises ValidationError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValidationError(
            "'%s' cannot be read: %s", path, (error.strerror or "the disk reported an error").lower(), field="image"
        ) from error


def _write(file: BinaryIO, format: ImageFormat, image: SourceImage, enlarger: Enlarger, model: str, run: Run) -> None:
    from mold_core.upscaling.results import open_result

    result = open_result(file, format, image, enlarger.network.scale, upscaler=model)
    with _stage(run, "Upscaling"):
        for strip in enlarger.strips(image.read, image.height, image.width, run.step):
            for first in range(0, strip.shape[1], _ROWS_AT_ONCE):
                result.write(image.samples_of(strip[:, first : first + _ROWS_AT_ONCE]))
            del strip  # otherwise it would stay in memory with the next one
    with _stage(run, "Encoding output"):
        result.close()


@contextmanager
def _stage(run: Run, name: str) -> Iterator[Any]:
    started = monotonic()
    run.report(StageStart(name=name))
    yield
    run.report(StageDone(name=name, elapsed_ms=int((monotonic() - started) * 1000)))
