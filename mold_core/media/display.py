"""Convert frames of a video to what players show: upright, with square pixels, in the colors of an SDR display.

Sources: ISO/IEC 14496-12, 6.2.2 and 8.3.2 (transformation matrices); ITU-T H.273 (numbers of color descriptions).
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import attrs

from mold_core.media.mp4_index import Matrix

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Display", "Transfer", "transfer_of"]

Transfer = Literal["sdr", "pq", "hlg"]

_TRANSFERS: Mapping[int, Transfer] = MappingProxyType({16: "pq", 18: "hlg"})
_BT709 = 1
_UNSPECIFIED = 2
# Files without a color matrix use BT.709 from this height on, and BT.601 below.
_HD_HEIGHT = 720


def transfer_of(stream_or_frame: Any) -> Transfer:
    """Return the transfer function that a PyAV codec context or frame declares."""
    return _TRANSFERS.get(int(stream_or_frame.color_trc), "sdr")


@attrs.frozen(kw_only=True)
class Display:
    """The size of a video's stored frames in square pixels, and the matrix that rotates them upright."""

    width: int
    height: int
    matrix: Matrix

    @classmethod
    def of(cls, width: int, height: int, pixel_aspect: Fraction | None, matrix: Matrix) -> Display:
        """Return the display of frames with pixels that are `pixel_aspect` times as wide as high.

        The height is kept. A corrected width is even, as most encoders require.
        """
        if pixel_aspect and pixel_aspect > 0 and pixel_aspect != 1:
            width = max(round(width * pixel_aspect / 2) * 2, 2)
        return cls(width=width, height=height, matrix=matrix)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the upright images."""
        a, b, _, _ = self.matrix
        return (self.height, self.width) if abs(b) > abs(a) else (self.width, self.height)

    def image(self, frame: Any, smaller: int = 1) -> Image:
        """Return a PyAV frame as an upright RGB image, `smaller` times smaller per side."""
        from PIL import Image as images

        pixels = self._rgb(frame, max(self.width // smaller, 1), max(self.height // smaller, 1))
        image = images.fromarray(pixels)
        turn = _transpose(self.matrix)
        return image if turn is None else image.transpose(turn)

    def _rgb(self, frame: Any, width: int, height: int) -> Any:
        matrix = frame.colorspace
        if matrix == _UNSPECIFIED and frame.height >= _HD_HEIGHT:
            matrix = _BT709
        resized = {"width": width, "height": height, "src_colorspace": matrix, "interpolation": "BICUBIC"}
        if width * 2 <= frame.width:
            resized["interpolation"] = "AREA"
        transfer = transfer_of(frame)
        if transfer == "sdr":
            return frame.reformat(format="rgb24", **resized).to_ndarray()
        from mold_core.media.tone_mapping import to_sdr

        return to_sdr(frame.reformat(format="rgb48le", **resized).to_ndarray(), transfer)


def _transpose(matrix: Matrix) -> Any:
    """Return the Pillow transposition closest to a matrix; None for an upright image.

    A pixel at (x, y) is shown at (a·x + c·y, b·x + d·y).
    """
    from PIL.Image import Transpose

    a, b, c, d = matrix
    if abs(b) > abs(a):
        quarter_turns = {
            (True, False): Transpose.ROTATE_270,
            (False, True): Transpose.ROTATE_90,
            (True, True): Transpose.TRANSPOSE,
            (False, False): Transpose.TRANSVERSE,
        }
        return quarter_turns[b > 0, c > 0]
    half_turns = {
        (False, False): Transpose.ROTATE_180,
        (False, True): Transpose.FLIP_LEFT_RIGHT,
        (True, False): Transpose.FLIP_TOP_BOTTOM,
    }
    return half_turns.get((a >= 0, d >= 0))
