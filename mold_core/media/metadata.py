"""Write the request that an image was generated from into the image file, and read it back.

PNG uses text chunks, JPEG comments and XMP, WebP XMP, GIF a comment. Each contains the same JSON object under
``mold:parameters``. Only this object is read back; the other ``mold:`` entries are copies for people and image viewers.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import attrs

from mold_core.errors import ValidationError
from mold_core.media.containers import (
    PNG_SIGNATURE,
    gif_comment,
    gif_comment_place,
    gif_comments,
    image_format,
    is_gif,
    jpeg_segment,
    jpeg_segments,
    png_chunk,
    png_chunks,
    riff_chunk,
    riff_chunks,
    webp_canvas,
)
from mold_core.media.output_metadata import OutputMetadata, recorded_fields
from mold_core.wire.fields import choices_of

__all__ = ["OutputMetadata", "embed_metadata", "png_metadata", "read_metadata"]

# Three prompts of 77,000 bytes, with each byte escaped as six (\u0000), stay well below this.
_MAX_TEXT_BYTES = 4 * 1024 * 1024

_PARAMETERS = b"mold:parameters"
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_JPEG_APP1 = 0xE1
_JPEG_COMMENT = 0xFE
_JPEG_MAX_BODY = 65_533
_JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_COMMENT_START = _PARAMETERS + b" "
_COMMENT_CONTINUED = _PARAMETERS + b"+ "

_WEBP_HAS_XMP = 0x04
_WEBP_HAS_ALPHA = 0x10

_XMP_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:mold="urn:mold:metadata:1#">\n{}'
    '</rdf:Description></rdf:RDF></x:xmpmeta>\n<?xpacket end="w"?>'
)
# XMP writers may turn a simple element into an attribute. Two patterns match both forms without an XML parser, which
# would need protection from entity bombs.
_XMP_PARAMETERS = re.compile('<mold:parameters>([^<]*)</mold:parameters>|mold:parameters="([^"]*)"')


def embed_metadata(image: bytes, metadata: OutputMetadata) -> bytes:
    """Return a PNG, JPEG, WebP or GIF file, animated or not, with `metadata` in it. The pixels do not change.

    JPEG segments hold at most 65,533 bytes: longer parameters continue in more comments, and XMP that does not fit is
    omitted. Raises ValueError for a file of another format.
    """
    if is_gif(image):
        return _embed_in_gif(image, metadata)
    match image_format(image):
        case "png":
            return _embed_in_png(image, metadata)
        case "jpeg":
            return _embed_in_jpeg(image, metadata)
        case "webp":
            return _embed_in_webp(image, metadata)
    raise ValueError("metadata can be written into PNG, JPEG, WebP and GIF files only")


def read_metadata(source: bytes | Path) -> OutputMetadata | None:
    """Return the metadata in a PNG, JPEG, WebP or GIF file, or None if there is none or it is unreadable.

    Only chunk headers and text are read, so it is cheap for large files and safe for malicious ones. Raises OSError if
    a path cannot be opened.
    """
    with source.open("rb") if isinstance(source, Path) else BytesIO(source) as file:
        for text in _texts(file):
            try:
                return OutputMetadata.from_json(text)
            except ValidationError:
                continue
    return None


def _texts(file: BinaryIO) -> Iterator[str]:
    head = file.read(12)
    if is_gif(head):
        return _texts_of_gif(file)
    match image_format(head):
        case "png":
            return _texts_of_png(file)
        case "jpeg":
            return _texts_of_jpeg(file)
        case "webp":
            return _texts_of_webp(file)
    return iter(())


# --- PNG ---------------------------------------------------------------------------------------------------------


def _embed_in_png(image: bytes, metadata: OutputMetadata) -> bytes:
    after_header = len(PNG_SIGNATURE) + 8 + 13 + 4
    return b"".join([image[:after_header], png_metadata(metadata), image[after_header:]])


# In a PNG, only the JSON object names the applied LoRAs.
_NOT_IN_PNG = ("lora", "lora_scale")
_WORDS = frozenset(field.name for field in recorded_fields() if choices_of(field))


def png_metadata(metadata: OutputMetadata) -> bytes:
    """Return the PNG chunks with `metadata`. They may be anywhere between the first and the last chunk."""
    values = {name: value for name, value in _readable(metadata).items() if name not in _NOT_IN_PNG}
    texts = [name for name, value in values.items() if isinstance(value, str) and name not in _WORDS]
    chunks = [
        *(_png_text(name, values[name]) for name in texts),
        _png_text("parameters", metadata.to_json()),
        *(_png_latin(name, str(value)) for name, value in values.items() if name not in texts),
    ]
    return b"".join(chunks)


def _readable(metadata: OutputMetadata) -> dict[str, Any]:
    """Return the fields that are set, as human-readable texts and numbers."""
    values = attrs.asdict(metadata)
    return {
        name: json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value
        for name, value in values.items()
        if value is not None
    }


def _png_text(name: str, text: str) -> bytes:
    # NUL ends fields inside the chunk, so the readable copy cannot contain it; the JSON escapes it as \u0000.
    return png_chunk(b"iTXt", f"mold:{name}\0\0\0\0\0".encode() + text.replace("\0", "\ufffd").encode())


def _png_latin(name: str, text: str) -> bytes:
    return png_chunk(b"tEXt", f"mold:{name}\0{text}".encode("latin-1", "replace"))


def _texts_of_png(file: BinaryIO) -> Iterator[str]:
    for kind, length in png_chunks(file):
        if kind in (b"tEXt", b"iTXt", b"zTXt") and length <= _MAX_TEXT_BYTES:
            keyword, _, rest = file.read(length).partition(b"\0")
            if keyword == _PARAMETERS:
                yield _decode_png_text(kind, rest)
                return


def _decode_png_text(kind: bytes, rest: bytes) -> str:
    if kind == b"tEXt":
        return rest.decode("latin-1")
    if kind == b"zTXt":
        return _inflate(rest[1:]).decode("latin-1")
    compressed, after_flags = rest[:1] == b"\x01", rest[2:]
    text = after_flags.split(b"\0", 2)[-1]  # after the language and the translated keyword
    return (_inflate(text) if compressed else text).decode("utf-8", "replace")


def _inflate(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, _MAX_TEXT_BYTES)
    except zlib.error:
        return b""


# --- JPEG --------------------------------------------------------------------------------------------------------


def _embed_in_jpeg(image: bytes, metadata: OutputMetadata) -> bytes:
    segments = [jpeg_segment(_JPEG_COMMENT, body) for body in _comments(metadata.to_json().encode())]
    xmp = _JPEG_XMP + _xmp(metadata)
    if len(xmp) <= _JPEG_MAX_BODY:
        segments.append(jpeg_segment(_JPEG_APP1, xmp))
    return b"".join([image[:2], *segments, image[2:]])


def _comments(text: bytes) -> Iterator[bytes]:
    step = _JPEG_MAX_BODY - len(_COMMENT_CONTINUED)
    for start in range(0, len(text), step):
        yield (_COMMENT_CONTINUED if start else _COMMENT_START) + text[start : start + step]


def _texts_of_jpeg(file: BinaryIO) -> Iterator[str]:
    comment: list[bytes] = []
    xmp = b""
    for marker, length in jpeg_segments(file):
        if marker == _JPEG_COMMENT:
            body = file.read(length)
            if not comment and body.startswith(_COMMENT_START):
                comment.append(body.removeprefix(_COMMENT_START))
            elif comment and body.startswith(_COMMENT_CONTINUED) and len(comment) * _JPEG_MAX_BODY < _MAX_TEXT_BYTES:
                comment.append(body.removeprefix(_COMMENT_CONTINUED))
        elif marker == _JPEG_APP1 and not xmp:
            body = file.read(length)
            xmp = body.removeprefix(_JPEG_XMP) if body.startswith(_JPEG_XMP) else b""
    if comment:
        yield b"".join(comment).decode("utf-8", "replace")
    yield from _texts_of_xmp(xmp)


# --- WebP --------------------------------------------------------------------------------------------------------


def _embed_in_webp(image: bytes, metadata: OutputMetadata) -> bytes:
    canvas = webp_canvas(image)
    if canvas is None:
        raise ValueError("this WebP file has no size")
    if image[12:16] == b"VP8X":
        body = image[12:20] + bytes((image[20] | _WEBP_HAS_XMP,)) + image[21:]
    else:
        # The simple file format cannot contain XMP: convert the file to the extended format.
        width, height, alpha = canvas
        flags = _WEBP_HAS_XMP | (_WEBP_HAS_ALPHA if alpha else 0)
        size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        body = riff_chunk(b"VP8X", bytes((flags, 0, 0, 0)) + size) + image[12:]
    return riff_chunk(b"RIFF", b"".join([b"WEBP", body, riff_chunk(b"XMP ", _xmp(metadata))]))


def _texts_of_webp(file: BinaryIO) -> Iterator[str]:
    for kind, length in riff_chunks(file):
        if kind == b"XMP " and length <= _MAX_TEXT_BYTES:
            yield from _texts_of_xmp(file.read(length))
            return


# --- GIF ---------------------------------------------------------------------------------------------------------


def _embed_in_gif(image: bytes, metadata: OutputMetadata) -> bytes:
    # Comments are ASCII. GIF87a has no comments, so the version becomes GIF89a.
    text = json.dumps(json.loads(metadata.to_json()))
    start = gif_comment_place(image)
    comment = gif_comment(_COMMENT_START + text.encode("ascii"))
    return b"".join([b"GIF89a", image[6:start], comment, image[start:]])


def _texts_of_gif(file: BinaryIO) -> Iterator[str]:
    for comment in gif_comments(file, _MAX_TEXT_BYTES):
        if comment.startswith(_COMMENT_START):
            yield comment.removeprefix(_COMMENT_START).decode("ascii", "replace")
            return


# --- XMP ---------------------------------------------------------------------------------------------------------


def _xmp(metadata: OutputMetadata) -> bytes:
    # The parameters come first and quotes are escaped, so that a prompt cannot imitate them.
    values = {"parameters": metadata.to_json(), **_readable(metadata)}
    elements = (f"<mold:{name}>{_xml(str(value))}</mold:{name}>\n" for name, value in values.items())
    return _XMP_PACKET.format("".join(elements)).encode()


def _xml(text: str) -> str:
    from html import escape  # slow to import, and rarely needed

    return escape(_NOT_IN_XML.sub("\ufffd", text)).replace("\r", "&#13;")


def _texts_of_xmp(xmp: bytes) -> Iterator[str]:
    found = _XMP_PARAMETERS.search(xmp.decode("utf-8", "replace"))
    if found:
        from html import unescape

        yield unescape(found[1] if found[1] is not None else found[2])
