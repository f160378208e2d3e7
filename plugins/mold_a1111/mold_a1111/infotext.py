"""Infotext: the web UI's text with the generation parameters of an image."""

from __future__ import annotations

from mold_core import __version__
from mold_core.media.containers import PNG_SIGNATURE, png_chunk
from mold_core.media.metadata import OutputMetadata, read_metadata

__all__ = ["infotext", "infotext_of_file", "parse_infotext", "with_infotext"]

_KEYWORD = b"parameters"
_AFTER_HEADER = len(PNG_SIGNATURE) + 8 + 13 + 4


def infotext(metadata: OutputMetadata, sampler: str = "Euler") -> str:
    """Return the infotext of a result."""
    values = {
        "Steps": metadata.steps,
        "Sampler": sampler,
        "CFG scale": metadata.guidance,
        "Seed": metadata.seed,
        "Size": f"{metadata.width}x{metadata.height}",
        "Model": metadata.model,
        "Denoising strength": metadata.strength,
        "Version": f"mold {__version__}",
    }
    lines = [metadata.prompt]
    if metadata.negative_prompt:
        lines.append(f"Negative prompt: {metadata.negative_prompt}")
    lines.append(", ".join(f"{name}: {value}" for name, value in values.items() if value is not None))
    return "\n".join(lines)


def with_infotext(png: bytes, text: str) -> bytes:
    """Return a PNG with the infotext in the text chunk that the web UI reads; other files unchanged."""
    if not png.startswith(PNG_SIGNATURE):
        return png
    chunk = png_chunk(b"iTXt", _KEYWORD + b"\0\0\0\0\0" + text.encode("utf-8", "replace"))
    return b"".join([png[:_AFTER_HEADER], chunk, png[_AFTER_HEADER:]])


def infotext_of_file(image: bytes) -> str:
    """Return the infotext of an image from its text chunk, else from mold's metadata; empty without either."""
    text = _text_chunk(image)
    if text is not None:
        return text
    metadata = read_metadata(image)
    return "" if metadata is None else infotext(metadata)


def parse_infotext(text: str) -> dict[str, str]:
    """Return the values in an infotext by name, including infotexts that the web UI wrote."""
    lines = text.strip().splitlines()
    if not lines:
        return {}
    found = dict(pair.split(": ", 1) for pair in lines[-1].split(", ") if ": " in pair)
    before = lines[:-1] if found else lines
    marker = "Negative prompt: "
    negative = next((index for index, line in enumerate(before) if line.startswith(marker)), len(before))
    return {
        "Prompt": "\n".join(before[:negative]),
        "Negative prompt": "\n".join(before[negative:]).removeprefix(marker),
        **found,
    }


def _text_chunk(image: bytes) -> str | None:
    """Return the text chunk of a PNG in which the web UI writes the infotext."""
    offset = len(PNG_SIGNATURE)
    if not image.startswith(PNG_SIGNATURE):
        return None
    while offset + 12 <= len(image):
        size = int.from_bytes(image[offset : offset + 4], "big")
        kind, body = image[offset + 4 : offset + 8], image[offset + 8 : offset + 8 + size]
        if kind == b"tEXt" and body.startswith(_KEYWORD + b"\0"):
            return body[len(_KEYWORD) + 1 :].decode("latin-1")
        if kind == b"iTXt" and body.startswith(_KEYWORD + b"\0\0\0"):
            return body[len(_KEYWORD) + 3 :].split(b"\0", 2)[-1].decode("utf-8", "replace")
        offset += size + 12
    return None
