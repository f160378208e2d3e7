"""Models of one native size: other sizes are generated near it, with their aspect ratio, and resized."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import evolve, frozen
from PIL import Image

from mold_core.families import required

if TYPE_CHECKING:
    from mold_core import GenerateRequest

__all__ = ["NativeSize"]


@frozen(kw_only=True)
class NativeSize:
    """The side, in pixels, of the square images that a model was trained on, and the multiple of all sides.

    The shorter side of an image is generated at this size. The tokens of an image that is not square are spread over
    the positions that the model was trained on (`grid`), closer together along the longer side, as positions are
    interpolated for long texts (arXiv 2306.15595).
    """

    side: int
    multiple: int = 16

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the positions that the model was trained on."""
        return self.side // self.multiple, self.side // self.multiple

    def at_native_size(self, request: GenerateRequest) -> GenerateRequest:
        """Return the request with the size to generate."""
        requested = required(request.width), required(request.height)
        scale = self.side / min(requested)
        width, height = (max(round(side * scale / self.multiple), 1) * self.multiple for side in requested)
        return evolve(request, width=width, height=height)

    def at_requested_size(self, image: Image.Image, request: GenerateRequest) -> Image.Image:
        """Return a generated image in the requested size."""
        size = (required(request.width), required(request.height))
        return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
