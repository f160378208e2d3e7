"""Read the index of an MP4 from its boxes, to check the number of samples before ffmpeg expands the index.

ffmpeg allocates about 40 bytes for each sample that a table claims, and a table of two numbers may claim billions.
Source: ISO/IEC 14496-12, 8.6 to 8.8.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

import attrs

from mold_core.errors import ValidationError
from mold_core.media.limits import MAX_INDEX_ENTRIES, MAX_TRACKS, damaged_video

__all__ = ["IDENTITY", "Matrix", "Mp4Index", "is_mp4", "read_mp4_index"]

# The entries a, b, c and d of a transformation matrix: a pixel at (x, y) is shown at (a·x + c·y, b·x + d·y).
Matrix = tuple[float, float, float, float]
IDENTITY: Matrix = (1.0, 0.0, 0.0, 1.0)

_CONTAINERS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf", b"edts", b"mvex"})
_FIRST_BOXES = frozenset({b"ftyp", b"moov", b"moof", b"mdat", b"wide", b"free", b"skip", b"pnot", b"udta", b"styp"})
_MAX_BOXES = 200_000
_MAX_DEPTH = 8

# Tables with a count after version and flags → the bytes of an entry.
_TABLES = {b"stts": 8, b"ctts": 8, b"stsc": 12, b"stss": 4, b"stps": 4, b"stco": 4, b"co64": 8}
# In these tables, an entry starts with a number of samples.
_RUN_LENGTHS = (b"stts", b"ctts")
_TRUN_FIELDS = (0x100, 0x200, 0x400, 0x800)


@attrs.define
class _Track:
    """The values read so far from the boxes of one track."""

    id: int = 0
    handler: bytes = b""
    samples: int = 0
    width: int = 0
    height: int = 0
    matrix: Matrix = IDENTITY


@attrs.frozen
class Mp4Index:
    """Size and number of frames of the first video track according to the boxes; 0 if they are missing.

    `matrix` rotates the frames upright.
    """

    width: int = 0
    height: int = 0
    frames: int = 0
    matrix: Matrix = IDENTITY


@attrs.frozen
class _Box:
    kind: bytes
    start: int
    end: int
    depth: int

    @property
    def size(self) -> int:
        return self.end - self.start


def is_mp4(file: BinaryIO) -> bool:
    """Return whether a file starts as ffmpeg's demuxer for MP4, MOV, M4A and 3GP expects."""
    file.seek(0)
    return file.read(8)[4:] in _FIRST_BOXES


def read_mp4_index(file: BinaryIO, name: str | None = None) -> Mp4Index:
    """Return the claims of the index, and rewind the file.

    Raises ValidationError, with `name` as the field, if a table exceeds the file or a limit.
    """
    try:
        return _Reader(file, name).read()
    except struct.error as error:
        raise damaged_video(name) from error
    finally:
        file.seek(0)


class _Reader:
    """Reads the boxes once and counts. A claim over the limits ends it."""

    def __init__(self, file: BinaryIO, name: str | None) -> None:
        self._file = file
        self._name = name
        self._size = file.seek(0, os.SEEK_END)
        self._tracks: list[_Track] = []
        self._fragment: int = 0
        self._entries = 0
        self._movie_matrix: Matrix = IDENTITY

    def read(self) -> Mp4Index:
        for box in self._boxes():
            self._take(box)
        video = next((track for track in self._tracks if track.handler == b"vide"), None)
        if video is None:
            return Mp4Index()
        return Mp4Index(video.width, video.height, video.samples, _product(video.matrix, self._movie_matrix))

    def _boxes(self) -> Iterator[_Box]:
        """Yield boxes in the order of the file, outer before inner."""
        waiting, seen = [(0, self._size, 0)], 0
        while waiting:
            start, end, depth = waiting.pop()
            header = self._at(start, 16)
            if end - start < 8 or len(header) < 8:
                continue
            size, body = int.from_bytes(header[:4], "big"), start + 8
            if size == 1:
                size, body = int.from_bytes(header[8:16], "big"), start + 16
            stop = end if size == 0 else start + size
            seen += 1
            if seen > _MAX_BOXES:
                raise self._too_much("boxes")
            if stop < body:
                continue
            stop = min(stop, end)
            waiting.append((stop, end, depth))
            box = _Box(header[4:8], body, stop, depth)
            yield box
            if box.kind in _CONTAINERS and depth < _MAX_DEPTH:
                waiting.append((body, stop, depth + 1))

    def _take(self, box: _Box) -> None:
        match box.kind:
            case b"trak":
                self._tracks.append(_Track())
                if len(self._tracks) > MAX_TRACKS:
                    raise self._too_much("tracks")
            case b"cmov":  # a compressed index, which cannot be checked; only QuickTime 3 to 6 wrote it
                raise damaged_video(self._name)
            case b"tkhd":
                version = self._at(box.start, 1)
                self._track.id = self._number(box, 20 if version == b"\x01" else 12)
                self._track.matrix = self._matrix(box, 52 if version == b"\x01" else 40)
            case b"mvhd":
                self._movie_matrix = self._matrix(box, 48 if self._at(box.start, 1) == b"\x01" else 36)
            case b"hdlr":
                self._track.handler = self._track.handler or self._at(box.start + 8, 4)
            case b"stsd":
                entry = self._at(box.start + 8, 36)
                self._track.width, self._track.height = (int.from_bytes(entry[at : at + 2], "big") for at in (32, 34))
            case b"tfhd":
                self._fragment = self._number(box, 4)
            case b"trun":
                self._take_run(box)
            case b"stsz" | b"stz2":
                self._take_sizes(box)
            case b"elst":
                self._check_fits(box, self._number(box, 4), 20 if self._at(box.start, 1) == b"\x01" else 12, 8)
            case kind if kind in _TABLES:
                self._take_table(box)

    @property
    def _track(self) -> _Track:
        if not self._tracks:
            self._tracks.append(_Track())
        return self._tracks[-1]

    def _take_table(self, box: _Box) -> None:
        count = self._number(box, 4)
        self._check_fits(box, count, _TABLES[box.kind], 8)
        if box.kind in _RUN_LENGTHS:
            table = self._at(box.start + 8, count * 8)
            self._claim(sum(length for length, _ in struct.iter_unpack(">II", table)))

    def _take_sizes(self, box: _Box) -> None:
        count = self._number(box, 8)
        each = self._number(box, 4) if box.kind == b"stsz" else 0
        if each:
            self._check_total_bytes(count, each)
        else:
            bits = 32 if box.kind == b"stsz" else self._at(box.start + 7, 1)[0]
            self._check_fits(box, count * bits // 8, 1, 12)
        self._claim(count)
        self._track.samples += count

    def _take_run(self, box: _Box) -> None:
        flags, count = self._number(box, 0) & 0xFFFFFF, self._number(box, 4)
        self._check_fits(box, count, 4 * sum(bool(flags & field) for field in _TRUN_FIELDS), 8)
        self._claim(count)
        for track in self._tracks:
            if track.id == self._fragment:
                track.samples += count
                return

    def _claim(self, samples: int) -> None:
        self._entries = self._entries + samples
        # stts, ctts and stsz each count every sample once.
        if self._entries > 3 * MAX_INDEX_ENTRIES or samples > MAX_INDEX_ENTRIES:
            raise self._too_much("frames or samples")

    def _check_fits(self, box: _Box, count: int, each: int, offset: int) -> None:
        if count > MAX_INDEX_ENTRIES:
            raise self._too_much("entries in its index")
        if count * each > box.size - offset:
            raise damaged_video(self._name)

    def _check_total_bytes(self, count: int, each: int) -> None:
        if count * each > self._size:
            raise damaged_video(self._name)

    def _number(self, box: _Box, offset: int) -> int:
        (value,) = struct.unpack(">I", self._at(box.start + offset, 4))
        return int(value)

    def _matrix(self, box: _Box, offset: int) -> Matrix:
        """Return a matrix; the identity if none is stored or the stored one is singular."""
        if box.size < offset + 36:
            return IDENTITY
        a, b, c, d = struct.unpack(">ii4xii", self._at(box.start + offset, 20))
        return (a / 65536, b / 65536, c / 65536, d / 65536) if a * d != b * c else IDENTITY

    def _at(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(length)

    def _too_much(self, of: str) -> ValidationError:
        return ValidationError(
            f"{self._name or 'the video'} declares too many {of}: the limit is"
            f" {MAX_TRACKS if of == 'tracks' else MAX_INDEX_ENTRIES:,}",
            field=self._name,
        )


def _product(first: Matrix, second: Matrix) -> Matrix:
    """Return the matrix that applies `first` and then `second`."""
    a, b, c, d = first
    e, f, g, h = second
    return (a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h)
