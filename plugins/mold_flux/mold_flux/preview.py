"""Small previews of images during generation."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mold_core import GenerateRequest, Preview, Run
from mold_flux.sampling import unpack

__all__ = ["Previews", "reduced"]

# PERF: latents are averaged down to this many a side, 256 pixels, before they are decoded. The whole image of 1024x1024
# would take sixteen times as long.
_LONGEST = 32
_JPEG_QUALITY = 80


class Previews:
    """Reports previews of the requests that want them; the argument `on_estimate` of `denoise`."""

    def __init__(
        self,
        requests: Sequence[GenerateRequest],
        grid: tuple[int, int],
        decode: Callable[[Tensor], Image.Image],
        run: Run,
    ) -> None:
        """`grid`: rows and columns of tokens. `decode` returns the image of latents [1, C, h, w]."""
        self._requested = [index for index, request in enumerate(requests) if request.preview]
        self._grid = grid
        self._decode = decode
        self._run = run

    def __call__(self, step: int, total: int, tokens: Tensor) -> None:
        for index in self._requested:
            latents = unpack(tokens[index : index + 1], *self._grid)
            image = self._decode(reduced(latents, _LONGEST))
            self._run.report(Preview(step=step, total=total, image=_jpeg(image), index=index))


def reduced(latents: Tensor, longest: int) -> Tensor:
    """Return latents [B, C, h, w] averaged down until neither side is longer than `longest`."""
    height, width = latents.shape[2:]
    if max(height, width) <= longest:
        return latents
    scale = longest / max(height, width)
    return F.interpolate(latents, size=(max(1, round(height * scale)), max(1, round(width * scale))), mode="area")


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
