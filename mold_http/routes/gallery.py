"""The gallery: saved results, their files, thumbnails and previews."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from typing import BinaryIO

import attrs
import falcon.asgi

from mold_core.errors import ModelNotFoundError, ValidationError
from mold_core.gallery import Gallery, Relation
from mold_core.media.metadata import OutputMetadata
from mold_core.wire.fields import shorten, wire_field
from mold_http.conditional import Span, Validators, requested_span, respond_bytes, respond_not_modified
from mold_http.errors import ForbiddenError
from mold_http.guard.bodies import query_of, read_json
from mold_http.responses import JSON, respond_json
from mold_http.routes.capabilities import may_delete
from mold_http.routes.route import Query, ResponseSpec, Route
from mold_http.service import Service

__all__ = ["ROUTES", "GalleryEntry"]

_CHUNK_BYTES = 256 * 1024
_KEEP = "private, max-age=3600"
_KEEP_SHORT = "private, max-age=300"
_MAX_PAGE = 1000


@attrs.frozen(kw_only=True)
class GalleryParent:
    """The source of a result."""

    relation: Relation = wire_field("Relation of the result to its source.")
    name: str = wire_field("Name of another result, or for `expanded-from` the original prompt.")


@attrs.frozen(kw_only=True)
class GalleryEntry:
    """A saved result."""

    filename: str = wire_field("File name; identifies the file, thumbnail and preview.")
    metadata: OutputMetadata = wire_field("Metadata of the generation.")
    timestamp: int = wire_field("Modification time of the file, in seconds since 1970.")
    format: str | None = wire_field("File format.", default=None)
    size_bytes: int | None = wire_field("Size of the file.", default=None)
    metadata_synthetic: bool | None = wire_field("True if the file has no metadata of its own.", default=None)
    favourite: bool | None = wire_field("True if it is marked as a favourite.", default=None)
    tags: tuple[str, ...] | None = wire_field("Its tags.", default=None)
    parents: tuple[GalleryParent, ...] | None = wire_field("Its sources.", default=None)


@attrs.frozen(kw_only=True)
class GalleryDetails(GalleryEntry):
    """A saved result and the results derived from it."""

    children: tuple[GalleryEntry, ...] = wire_field("Results derived from it, newest first.", default=())


@attrs.frozen(kw_only=True)
class Marks:
    """User marks of a result. Omitted fields do not change."""

    favourite: bool | None = wire_field("Whether it is a favourite.", default=None)
    tags: tuple[str, ...] | None = wire_field("The new tags; an empty list removes all.", default=None)


async def list_results(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with results, newest first; X-Next-Cursor is the cursor of the next page, if any."""
    gallery = service.gallery
    if gallery is None:
        respond_json(resp, [])
        return
    query = query_of(req)
    limit = _limit(query.get("limit"))
    q, cursor, tag, favourite = query.get("q"), query.get("cursor"), query.get("tag"), _flag(query, "favourite")
    page = await asyncio.to_thread(gallery.list, q, limit, cursor, tag=tag, favourite=favourite)
    if page.next is not None:
        resp.set_header("X-Next-Cursor", page.next)
    respond_json(resp, await asyncio.to_thread(lambda: [entry.to_json() for entry in page.entries]))


async def about(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response, name: str) -> None:
    """Respond with a result and the results derived from it."""
    gallery = _gallery(service)
    entry = await asyncio.to_thread(gallery.get, name)
    children = await asyncio.to_thread(gallery.children, entry.filename)
    respond_json(resp, {**entry.to_json(), "children": [child.to_json() for child in children]})


async def get_file(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response, name: str) -> None:
    """Respond with the file, or the range that Range selects; with 304 if the client already has it."""
    entry, file = await asyncio.to_thread(_gallery(service).open, name)
    resp.content_type = entry.content_type
    resp.set_header("X-Content-Type-Options", "nosniff")
    resp.set_header("Accept-Ranges", "bytes")
    body = _FileBody(file)
    try:
        if _put_file_on(req, resp, file):
            body.left = int(resp.get_header("Content-Length") or 0)
            resp.stream, body = body, None  # type: ignore[assignment]
    finally:
        if body is not None:
            await body.close()


def _put_file_on(req: falcon.asgi.Request, resp: falcon.asgi.Response, file: BinaryIO) -> bool:
    """Set the headers and seek the file to the start of the body; return False for a response without a body."""
    about = os.fstat(file.fileno())
    validators = Validators.of_file(about.st_mtime_ns, about.st_size)
    resp.set_header("Cache-Control", _KEEP)
    if respond_not_modified(req, resp, validators):
        return False
    span = requested_span(req, about.st_size, validators)
    if span == "none":
        resp.status = 416
        resp.set_header("Content-Range", f"bytes */{about.st_size}")
        resp.data = b""
        return False
    if isinstance(span, Span):
        resp.status = 206
        resp.set_header("Content-Range", f"bytes {span.first}-{span.last}/{about.st_size}")
        resp.set_header("Cache-Control", _KEEP_SHORT)
        file.seek(span.first)
    resp.set_header("Content-Length", str(span.size if isinstance(span, Span) else about.st_size))
    return True


async def mark(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response, name: str) -> None:
    """Change the favourite mark and tags of a result, and respond with the updated entry."""
    marks = await read_json(req, Marks)
    gallery = _gallery(service)
    entry = await asyncio.to_thread(gallery.update, name, favourite=marks.favourite, tags=marks.tags)
    respond_json(resp, entry.to_json())


async def delete_file(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response, name: str) -> None:
    """Delete a result; succeed if it is already deleted."""
    gallery = _gallery(service)
    if not may_delete(service, req):
        raise ForbiddenError("gallery delete is disabled; set MOLD_GALLERY_ALLOW_DELETE=1 to enable")
    await asyncio.to_thread(gallery.delete, name)
    resp.status = 204


async def thumbnail(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response, name: str) -> None:
    """Respond with an image of at most 256 pixels a side."""
    entry = await asyncio.to_thread(_gallery(service).get, name)
    small = await service.media.run(req, _gallery(service).thumbnail, name)
    resp.content_type = small.content_type
    resp.set_header("X-Content-Type-Options", "nosniff")
    resp.set_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
    resp.set_header("Cache-Control", _KEEP_SHORT if small.stand_in else _KEEP)
    respond_bytes(req, resp, small.data, modified_s=None if small.stand_in else entry.timestamp)


async def preview(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response, name: str) -> None:
    """Respond with a small GIF of a video."""
    entry = await asyncio.to_thread(_gallery(service).get, name)
    data = await service.media.run(req, _gallery(service).preview, name)
    resp.content_type = "image/gif"
    resp.set_header("X-Content-Type-Options", "nosniff")
    resp.set_header("Cache-Control", _KEEP)
    respond_bytes(req, resp, data, modified_s=entry.timestamp)


class _FileBody:
    """The bytes of an open file from its current position, in chunks; Falcon closes it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.left = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.left > 0:
            piece = await asyncio.to_thread(self._file.read, min(_CHUNK_BYTES, self.left))
            if not piece:
                return
            self.left -= len(piece)
            yield piece

    async def close(self) -> None:
        """Close the file."""
        self._file.close()


def _gallery(service: Service) -> Gallery:
    if service.gallery is None:
        raise ModelNotFoundError("image output is disabled", hint="MOLD_OUTPUT_DIR is empty")
    return service.gallery


def _limit(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= _MAX_PAGE and len(text) < 9):
        raise ValidationError(f"limit must be a whole number from 1 to {_MAX_PAGE}", field="limit", value=text)
    return int(text)


def _flag(query: Mapping[str, str], name: str) -> bool | None:
    text = query.get(name)
    if text not in (None, "true", "false"):
        raise ValidationError(f"{name} must be true or false, not {shorten(text)}", field=name, value=text)
    return None if text is None else text == "true"


_NAME = {"name": "Name of the file."}
_ERRORS = ("RESULT_NOT_FOUND", "MODEL_NOT_FOUND", "VALIDATION_ERROR")

_VALIDATORS = {"ETag": "Identifier of this version.", "Last-Modified": "Time of the last change, if known."}
_NOT_MODIFIED = ResponseSpec(status=304, doc="The client already has this version.", headers=_VALIDATORS)

_FILE_TYPES = ("image/png", "image/jpeg", "image/gif", "image/apng", "image/webp", "video/mp4")

ROUTES = (
    Route(
        method="GET",
        path="/api/gallery",
        name="list_results",
        summary="List saved results, newest first",
        doc="Returns all results without `limit`, and none if the setting MOLD_OUTPUT_DIR is empty.",
        handler=list_results,
        tag="gallery",
        parameters=(
            Query(name="q", doc="Words to search in prompts, models and tags; each matches as a prefix."),
            Query(name="tag", doc="Only results with this tag."),
            Query(name="favourite", doc="true: only favourites; false: only the others.", type=bool),
            Query(name="limit", doc="Maximum number of results.", type=int, minimum=1, maximum=_MAX_PAGE),
            Query(name="cursor", doc="X-Next-Cursor of the previous page."),
        ),
        responses=(
            ResponseSpec(
                doc="The results.",
                content={JSON: tuple[GalleryEntry, ...]},
                headers={"X-Next-Cursor": "The `cursor` of the next page, if there is one."},
            ),
        ),
        example="curl 'localhost:7680/api/gallery?q=red+house&limit=20'",
    ),
    Route(
        method="GET",
        path="/api/gallery/image/{name}",
        name="get_result",
        summary="The file of a result",
        doc=(
            "A Range header with one range of bytes selects that part, unless If-Range names another version. Other "
            "units and multiple ranges return the whole file. If-None-Match and If-Modified-Since are supported."
        ),
        handler=get_file,
        tag="gallery",
        rest="name",
        path_docs=_NAME,
        parameters=(Query(name="Range", doc="One range of bytes.", place="header"),),
        responses=(
            ResponseSpec(
                doc="The file.",
                content=dict.fromkeys(_FILE_TYPES, "the file"),
                headers={"Accept-Ranges": "bytes", **_VALIDATORS},
            ),
            _NOT_MODIFIED,
            ResponseSpec(
                status=206,
                doc="A part of the file.",
                content=dict.fromkeys(_FILE_TYPES, "the part"),
                headers={"Content-Range": "The range.", **_VALIDATORS},
            ),
            ResponseSpec(
                status=416,
                doc="The range is invalid or beyond the end of the file.",
                content=dict.fromkeys(_FILE_TYPES, "nothing"),
                headers={"Content-Range": "The size of the file."},
            ),
        ),
        errors=_ERRORS,
        example="curl localhost:7680/api/gallery/image/mold-flux-nano-bf16-1764000000000.png -o image.png",
    ),
    Route(
        method="GET",
        path="/api/gallery/about/{name}",
        name="about_result",
        summary="Details of a result",
        doc="Includes its sources and the results derived from it.",
        handler=about,
        tag="gallery",
        rest="name",
        path_docs=_NAME,
        responses=(ResponseSpec(doc="The result.", content={JSON: GalleryDetails}),),
        errors=_ERRORS,
    ),
    Route(
        method="DELETE",
        path="/api/gallery/image/{name}",
        name="delete_result",
        summary="Delete a result",
        doc="Requires an API key, a client on this machine, or MOLD_GALLERY_ALLOW_DELETE.",
        handler=delete_file,
        tag="gallery",
        rest="name",
        path_docs=_NAME,
        responses=(ResponseSpec(status=204, doc="The result is deleted."),),
        errors=_ERRORS,
    ),
    Route(
        method="PUT",
        path="/api/gallery/marks/{name}",
        name="mark_result",
        summary="Set the favourite mark and tags of a result",
        handler=mark,
        tag="gallery",
        request=Marks,
        rest="name",
        path_docs=_NAME,
        responses=(ResponseSpec(doc="The updated result.", content={JSON: GalleryEntry}),),
        errors=_ERRORS,
    ),
    Route(
        method="GET",
        path="/api/gallery/thumbnail/{name}",
        name="thumbnail",
        summary="Thumbnail of a result",
        doc="At most 256 pixels a side; for a video its first frame.",
        handler=thumbnail,
        tag="gallery",
        rest="name",
        path_docs=_NAME,
        responses=(
            ResponseSpec(
                doc="The image.",
                content={**dict.fromkeys(_FILE_TYPES, "the file"), "image/svg+xml": "a placeholder"},
                headers=_VALIDATORS,
            ),
            _NOT_MODIFIED,
        ),
        errors=_ERRORS,
    ),
    Route(
        method="GET",
        path="/api/gallery/preview/{name}",
        name="preview",
        summary="GIF preview of a video",
        handler=preview,
        tag="gallery",
        rest="name",
        path_docs=_NAME,
        responses=(ResponseSpec(doc="The GIF.", content={"image/gif": "the file"}, headers=_VALIDATORS), _NOT_MODIFIED),
        errors=_ERRORS,
    ),
)
