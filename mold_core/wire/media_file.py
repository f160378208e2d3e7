"""How finished images and videos are kept, opened, and shown in notebooks."""

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
    """A whole file in memory, of which its class says what it is."""

    __slots__ = ()

    data: bytes
    format: Any

    def save(self, path: str | Path) -> Path:
        """Write the file, whole or not at all, and return its path. Raises OutputError."""
        target = Path(path)
        write_whole(target, self.data)
        return target

    def _src(self, content_type: str) -> str:
        return f"data:{content_type};base64,{base64.b64encode(self.data).decode('ascii')}"


class ImageFile(MediaFile):
    """An image: opened as Pillow's, as numbers, and shown by notebooks."""

    __slots__ = ()

    def to_pil(self) -> Image.Image:
        """Return the image as Pillow opens it, metadata in its `info`."""
        from PIL import Image

        image = Image.open(BytesIO(self.data))
        image.load()
        return image

    def to_numpy(self) -> NDArray[uint8]:
        """Return the pixels: uint8, height x width x 3, or x 4 where the image has transparency. Needs numpy."""
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
    """A video, shown by notebooks as one that plays."""

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
    """Return what a notebook shows of a result of several files."""
    return "\n".join(file._repr_html_() for file in files)
