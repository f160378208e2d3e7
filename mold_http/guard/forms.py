"""Reads forms (multipart/form-data) part by part, each within its limit."""

from __future__ import annotations

from typing import Any

import attrs
import falcon.asgi

from mold_core.errors import ValidationError
from mold_http.errors import MediaTypeError, TooLargeError
from mold_http.guard.bodies import body_of

__all__ = ["Form", "read_form"]

_FORM = falcon.media.MultipartFormHandler()
_CHUNK_BYTES = 64 * 1024
# Limit for the text of all fields; files have the limit of the body.
_MAX_TEXT_BYTES = 1024 * 1024


@attrs.frozen
class Form:
    """The files and the text fields of a form, each by name in order."""

    files: dict[str, list[bytes]]
    texts: dict[str, list[str]]


async def read_form(req: falcon.asgi.Request, file_fields: frozenset[str]) -> Form:
    """Return the form in a body. Files with other names are discarded.

    Raises MediaTypeError, TooLargeError, ValidationError, and Falcon's errors for malformed forms.
    """
    if not (req.content_type or "").lower().startswith("multipart/form-data"):
        raise MediaTypeError("the body must be a form", hint="send Content-Type: multipart/form-data")
    async with body_of(req) as chunks:
        form: Any = await _FORM.deserialize_async(chunks, req.content_type, req.content_length)  # type: ignore[arg-type]
        return await _read(form, file_fields)


async def _read(form: Any, file_fields: frozenset[str]) -> Form:
    files: dict[str, list[bytes]] = {}
    texts: dict[str, list[str]] = {}
    text_bytes = 0
    async for part in form:
        if part.name in file_fields:
            files.setdefault(part.name, []).append(await _data_of(part))
        elif part.filename is not None:
            await part.stream.exhaust()
        else:
            data = await _data_of(part, _MAX_TEXT_BYTES - text_bytes)
            text_bytes += len(data)
            texts.setdefault(part.name or "", []).append(_text(part.name, data))
    return Form(files, texts)


async def _data_of(part: Any, max_bytes: int | None = None) -> bytes:
    data = bytearray()
    while chunk := await part.stream.read(_CHUNK_BYTES):
        data += chunk
        if max_bytes is not None and len(data) > max_bytes:
            raise TooLargeError(
                f"the text of a form must have at most {_MAX_TEXT_BYTES:,} bytes", headers={"Connection": "close"}
            )
    return bytes(data)


def _text(name: str | None, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ValidationError(f"{name} must be UTF-8 text", field=name) from None
