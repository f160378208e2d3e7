"""Convert images from their color profiles (ICC) to sRGB, which models are trained on, and back.

A profile is ignored, as browsers do, if it cannot be read or describes another kind of samples than the image has.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["from_srgb", "rgb_profile", "to_srgb"]

# The largest profiles in use, those of printers, have 2 MB.
_MAX_PROFILE_BYTES = 4 << 20
# A profile that changes no color by more than this is sRGB; a conversion would only add rounding errors.
_SMALLEST_CHANGE = 2
_STEPS = 9


def to_srgb(image: Image, profile: object, unconverted: Image) -> Image:
    """Return an image of mode RGB or RGBA, decoded from `unconverted`, with its colors in sRGB.

    `profile` is the ICC profile of the file, if it has one; `unconverted` is used for profiles of CMYK.
    """
    opened = _opened(profile)
    if opened is None:
        return image
    space = _space(opened)
    if space == "RGB" and unconverted.mode != "CMYK":
        return image if _is_srgb(opened) else _converted(image, opened, _srgb(), image.convert("RGB"))
    if space == "GRAY" and unconverted.mode in ("1", "L", "LA", "I;16", "I;16B", "I"):
        return _converted(image, opened, _srgb(), image.getchannel(0))
    if space == "CMYK" and unconverted.mode == "CMYK":
        return _converted(image, opened, _srgb(), unconverted)
    return image


def rgb_profile(profile: object, mode: str) -> bytes | None:
    """Return the profile of an image of a mode if it describes RGB samples other than sRGB."""
    opened = None if mode == "CMYK" else _opened(profile)
    if opened is None or _space(opened) != "RGB" or _is_srgb(opened):
        return None
    return profile if isinstance(profile, bytes) else None


def from_srgb(image: Image, profile: bytes) -> Image:
    """Return an sRGB image converted to a profile that `rgb_profile` returned."""
    opened = _opened(profile)
    return image if opened is None else _converted(image, _srgb(), opened, image)


def _opened(profile: object) -> Any:
    """Return a profile that Pillow can use, or None."""
    if not isinstance(profile, bytes) or not 128 < len(profile) <= _MAX_PROFILE_BYTES:
        return None
    from PIL import ImageCms

    try:
        return ImageCms.ImageCmsProfile(BytesIO(profile))
    except (OSError, ImageCms.PyCMSError):
        return None


def _space(profile: Any) -> str | None:
    """Return the kind of samples that a profile describes, such as RGB, GRAY or CMYK; None for an unknown one."""
    try:
        return str(profile.profile.xcolor_space).strip()
    except ValueError:  # the four bytes are not text
        return None


def _srgb() -> Any:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _converted(image: Image, source: Any, target: Any, samples: Image) -> Image:
    """Return `samples` in another profile with the transparency of `image`; `image` if the conversion fails."""
    from PIL import ImageCms

    try:
        converted = ImageCms.profileToProfile(
            samples,
            source,
            target,
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (OSError, ValueError, ImageCms.PyCMSError):
        return image
    if converted is None:
        return image
    if image.mode == "RGBA":
        converted.putalpha(image.getchannel("A"))
    converted.info = {}
    return converted


def _is_srgb(profile: Any) -> bool:
    """Return whether an RGB profile changes no color visibly."""
    from PIL import Image as images
    from PIL import ImageChops

    levels = [255 * step // (_STEPS - 1) for step in range(_STEPS)]
    samples = bytes(value for r in levels for g in levels for b in levels for value in (r, g, b))
    colors = images.frombytes("RGB", (_STEPS**2, _STEPS), samples)
    changes = ImageChops.difference(colors, _converted(colors, profile, _srgb(), colors))
    return max(changes.tobytes()) <= _SMALLEST_CHANGE
