"""Generated images and videos as files in memory: saved, decoded, displayed in notebooks."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mold_core.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy import uint8
    from numpy.typing import NDArray
    from PIL import Image

__all__ = ["ImageFile", "MediaFile", "VideoFile", "html_of"]

_TYPES = {"png": "image/png", "apng": "image/apng", "jpeg": "image/jpeg", "webp": "image/webp", "gif": "image/gif"}


class MediaFile:
    """An encoded image or video file in memory."""

    __slots__ = ()

    data: bytes
    format: Any

    def save(self, path: str | Path) -> Path:
        """Write the file atomically and return its path. Raises OutputError."""
        target = Path(path)
        write_whole(target, self.data)
        return target

    def _src(self, content_type: str) -> str:
        return f"data:{content_type};base64,{base64.b64encode(self.data).decode('ascii')}"


class ImageFile(MediaFile):
    """An encoded image, which can be decoded by Pillow or as an array, and displayed in notebooks."""

    __slots__ = ()

    def to_pil(self) -> Image.Image:
        """Return the image decoded by Pillow, with its metadata in `info`."""
        from PIL import Image

        image = Image.open(BytesIO(self.data))
        image.load()
        return image

    def to_numpy(self) -> NDArray[uint8]:
        """Return the pixels as uint8 of shape (height, width, 3), or (…, 4) with transparency. Needs numpy."""
        import numpy

        image = self.to_pil()
        return numpy.asarray(image if image.mode in ("RGB", "RGBA") else image.convert("RGB"))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {
            _TYPES[self.format]: base64.b64encode(self.data).decode("ascii"),
            "text/html": self._repr_html_(),
            "text/plain": repr(self),
        }

    def _repr_html_(self) -> str:
        return f'<img src="{self._src(_TYPES[self.format])}" alt="" style="max-width: 100%">'


class VideoFile(MediaFile):
    """An encoded video, which notebooks display with a player."""

    __slots__ = ()

    width: int
    height: int

    def _repr_html_(self) -> str:
        if self.format != "mp4":
            return f'<img src="{self._src(_TYPES[self.format])}" alt="" style="max-width: 100%">'
        return (
            f'<video controls loop width="{self.width}" height="{self.height}" style="max-width: 100%" '
            f'src="{self._src("video/mp4")}"></video>'
        )


def html_of(files: Iterable[ImageFile | VideoFile]) -> str:
    """Return HTML in which a notebook displays several files."""
    return "\n".join(file._repr_html_() for file in files)
