"""Models that draw well at one size only: other sizes are drawn near it, in their own shape, and scaled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import evolve, frozen
from PIL import Image

if TYPE_CHECKING:
    from mold_core import GenerateRequest

__all__ = ["NativeSize"]


@frozen(kw_only=True)
class NativeSize:
    """The side, in pixels, of the square images that a model was trained on, and what sides are multiples of.

    An image is drawn with its shorter side that long. Where it is no square, its tokens are spread over the places
    that the model knows (`grid`): closer together along the longer side, as positions are stretched for long texts
    (arXiv 2306.15595).
    """

    side: int
    multiple: int = 16

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the places that the model knows."""
        return self.side // self.multiple, self.side // self.multiple

    def drawn(self, request: GenerateRequest) -> GenerateRequest:
        """Return the request in the size it is drawn at."""
        assert request.width is not None and request.height is not None  # the request is complete
        scale = self.side / min(request.width, request.height)
        width, height = (
            max(round(side * scale / self.multiple), 1) * self.multiple for side in (request.width, request.height)
        )
        return evolve(request, width=width, height=height)

    def scaled(self, image: Image.Image, request: GenerateRequest) -> Image.Image:
        """Return an image that was drawn in the size that was asked for."""
        assert request.width is not None and request.height is not None  # the request is complete
        size = (request.width, request.height)
        return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
