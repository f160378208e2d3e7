"""Files of sound, video and moving images that claim, or unpack to, far more than they are."""

from __future__ import annotations

import struct
import wave
import zlib
from collections.abc import Callable, Mapping
from io import BytesIO

import numpy as np
from ltx2_media import frames, mp4
from PIL import Image

__all__ = ["ANIMATED", "SOUNDS", "VIDEOS", "black_gif", "box", "flac", "gif", "patched", "tone"]

_CLAIMED = 60_000_000


# --- sound -------------------------------------------------------------------------------------------------------


def flac(rate_of_file: int, rate_of_frames: int, frames: int = 4, block: int = 1000) -> bytes:
    """Return FLAC with blocks of a constant, whose frames name a rate of their own (RFC 9639, 8.2 and 9)."""
    packed = (rate_of_file << 44) | (0 << 41) | (15 << 36) | (frames * block)
    info = struct.pack(">HH", block, block) + bytes(6) + packed.to_bytes(8, "big") + bytes(16)
    made = [b"fLaC", b"\x80" + len(info).to_bytes(3, "big"), info]
    for number in range(frames):
        head = b"\xff\xf8\x7d\x08" + bytes((number,)) + struct.pack(">HH", block - 1, rate_of_frames)
        whole = head + bytes((_crc(head, 8, 0x07),)) + b"\x00\x03\xe8"
        made.append(whole + _crc(whole, 16, 0x8005).to_bytes(2, "big"))
    return b"".join(made)


def _crc(data: bytes, bits: int, polynomial: int) -> int:
    value = 0
    for byte in data:
        value ^= byte << (bits - 8)
        for _ in range(8):
            value = (value << 1) ^ (polynomial if value >> (bits - 1) else 0)
            value &= (1 << bits) - 1
    return value


def _wav(channels: int, rate: int, samples: int = 20_000) -> bytes:
    body = bytes(2 * samples)
    about = struct.pack("<HHIIHH", 1, channels, rate, rate * 2 & 0xFFFFFFFF, 2 * channels & 0xFFFF, 16)
    inside = b"WAVEfmt " + struct.pack("<I", len(about)) + about + b"data" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", len(inside)) + inside


def _au(rate: int) -> bytes:
    return struct.pack(">4sIIIII", b".snd", 24, 2**31 - 1, 3, rate, 1) + bytes(60_000)


def _tta() -> bytes:
    head = struct.pack("<4sHHHII", b"TTA1", 1, 2, 16, 8000, 2**32 - 1)
    return head + zlib.crc32(head).to_bytes(4, "little") + bytes(40_000)


def _caf() -> bytes:
    about = struct.pack(">d4sIIIII", 48_000.0, b"alac", 0, 0, 1, 2, 16)
    table = struct.pack(">qqii", 2**40, 2**50, 0, 0) + b"\x01" * 4096
    made = b"caff\0\1\0\0" + b"desc" + struct.pack(">q", len(about)) + about
    return made + b"pakt" + struct.pack(">q", len(table)) + table + b"data" + struct.pack(">q", -1) + bytes(4096)


def _ape() -> bytes:
    head = b"MAC " + struct.pack("<HH", 3990, 0) + struct.pack("<IIIIIII", 52, 24, 2**31 - 4, 0, 100, 0, 0)
    return head + bytes(16) + struct.pack("<HHIIIHHI", 2000, 0, 73_728, 1, 2**30 - 1, 16, 2, 44_100) + bytes(4096)


def _video_with_sound() -> bytes:
    hum = 0.4 * np.sin(np.arange(16_000, dtype=np.float32) * 0.2)
    return mp4(frames(9), sound=np.stack([hum, hum]))


# --- video -------------------------------------------------------------------------------------------------------


def box(kind: bytes, *bodies: bytes) -> bytes:
    """Return a box of an MP4."""
    body = b"".join(bodies)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def patched(data: bytes, kind: bytes, offset: int, *numbers: int, which: int = 0) -> bytes:
    """Return an MP4 with 32-bit numbers in the body of a box replaced; `which` is the box of that kind, from 0."""
    at = -1
    for _ in range(which + 1):
        at = data.index(kind, at + 1)
    place = at + 4 + offset
    written = struct.pack(f">{len(numbers)}I", *numbers)
    return data[:place] + written + data[place + len(written) :]


def _fragmented(size: int, runs: int = 20, each: int = 100) -> bytes:
    """An MP4 in fragments of many frames of size x size, of which none has any bytes."""
    entry = bytes(6) + b"\0\1" + bytes(16) + struct.pack(">HH", size, size) + bytes(50)
    stsd = box(b"stsd", bytes(4), struct.pack(">I", 1), box(b"mp4v", entry))
    tables = [box(kind, bytes(8)) for kind in (b"stts", b"stsc", b"stco")] + [box(b"stsz", bytes(12))]
    media = box(b"mdia", box(b"hdlr", bytes(8), b"vide", bytes(13)), box(b"minf", box(b"stbl", stsd, *tables)))
    track = box(b"trak", box(b"tkhd", bytes(12), struct.pack(">I", 1), bytes(68)), media)
    made = [box(b"ftyp", b"isom", bytes(4)), box(b"moov", box(b"mvhd", bytes(100)), track)]
    run = box(b"trun", bytes(4), struct.pack(">I", each))
    made += [box(b"moof", box(b"traf", box(b"tfhd", bytes(4), struct.pack(">I", 1)), run)) for _ in range(runs)]
    return b"".join(made)


def _nested(depth: int) -> bytes:
    made = b""
    for _ in range(depth):
        made = box(b"moov", made)
    return box(b"ftyp", b"isom", bytes(4)) + made


def _deflated_index() -> bytes:
    packed = zlib.compress(bytes(64_000_000))
    moved = box(b"cmov", box(b"dcom", b"zlib"), box(b"cmvd", struct.pack(">I", 2**31 - 1), packed))
    return box(b"ftyp", b"qt  ", bytes(4)) + box(b"moov", moved)


def _growing() -> bytes:
    """A video whose second half is said, by its own headers, to be of another size than its first."""
    small, large = mp4(frames(5)), mp4(frames(5, (2048, 1024)))
    return small[: small.index(b"mdat") + 4] + large[large.index(b"mdat") + 4 :]


# --- moving images -----------------------------------------------------------------------------------------------


def gif(canvas: tuple[int, int], *sizes: tuple[int, int], pixels: bytes = b"\x02\x02\x4c\x01\0") -> bytes:
    """Return a GIF with frames of these sizes that all have the same compressed pixels."""
    frames = (b"\x21\xf9\x04\x04\x05\0\0\0," + struct.pack("<HHHHB", 0, 0, *size, 0) + pixels for size in sizes)
    return b"".join((b"GIF89a", struct.pack("<HHBBB", *canvas, 0x80, 0, 0), bytes(6), *frames, b";"))


def black_gif(size: tuple[int, int], count: int) -> bytes:
    """Return a whole GIF of frames that each unpack to one colour."""
    buffer = BytesIO()
    Image.new("P", size).save(buffer, "GIF", optimize=False, interlace=0)
    data = buffer.getvalue()
    start = data.index(struct.pack("<BHHHHB", 0x2C, 0, 0, *size, 0)) + 10
    return gif(size, *[size] * count, pixels=data[start:-1])


def _apng(size: tuple[int, int], frame: tuple[int, int]) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", size).save(
        buffer, "PNG", save_all=True, append_images=[Image.new("RGB", size, "red"), Image.new("RGB", size, "blue")]
    )
    data = bytearray(buffer.getvalue())
    second = data.index(b"fcTL", data.index(b"fcTL") + 4)
    data[second + 8 : second + 16] = struct.pack(">II", *frame)
    data[second + 30 : second + 34] = zlib.crc32(data[second : second + 30]).to_bytes(4, "big")
    return bytes(data)


def _webp(canvas: tuple[int, int]) -> bytes:
    buffer = BytesIO()
    first, second = Image.new("RGB", (64, 64)), Image.new("RGB", (64, 64), "red")
    first.save(buffer, "WEBP", save_all=True, append_images=[second], lossless=True)
    data = bytearray(buffer.getvalue())
    data[24:30] = (canvas[0] - 1).to_bytes(3, "little") + (canvas[1] - 1).to_bytes(3, "little")
    return bytes(data)


def _endless_blocks() -> bytes:
    return gif((64, 64))[:-1] + (b"\x21\xfe" + b"\x01a" * 8 + b"\0") * 100_000


def _wide_png() -> bytes:
    buffer = BytesIO()
    Image.new("1", (30_000, 1000)).save(buffer, "PNG", save_all=True, append_images=[Image.new("1", (30_000, 1000), 1)])
    return buffer.getvalue()


SOUNDS: Mapping[str, Callable[[], bytes]] = {
    "FLAC at 1 Hz": lambda: flac(1, 1),
    "FLAC whose frames turn to 1 Hz": lambda: flac(48_000, 1, block=60_000),
    "WAV of 65,535 channels": lambda: _wav(65_535, 48_000),
    "WAV at 1 Hz": lambda: _wav(1, 1),
    "WAV at 4 GHz": lambda: _wav(2, 2**32 - 1),
    "AU at 1 Hz": lambda: _au(1),
    "TTA with 500,000 claimed frames": _tta,
    "CAF with 10^12 claimed packets": _caf,
    "APE with 2^30 claimed frames": _ape,
    "M4A with 60 million claimed samples": lambda: patched(_video_with_sound(), b"stts", 8, _CLAIMED, which=1),
}

VIDEOS: Mapping[str, Callable[[], bytes]] = {
    "60 million samples of one byte": lambda: patched(mp4(frames(9)), b"stsz", 4, 1, _CLAIMED),
    "60 million samples in a run": lambda: patched(mp4(frames(9)), b"stts", 8, _CLAIMED),
    "4 billion chunks": lambda: patched(mp4(frames(9)), b"stco", 4, 2**32 - 1),
    "2,000 frames of 31 megapixels in fragments": lambda: _fragmented(5600),
    "100 million frames in fragments": lambda: _fragmented(64, runs=100, each=1_000_000),
    "frames of 65,535 pixels a side": lambda: _fragmented(65_535, runs=1, each=1),
    "100,000 boxes in one another": lambda: _nested(3000),
    "a million empty boxes": lambda: box(b"ftyp", b"isom", bytes(4)) + struct.pack(">I4s", 8, b"free") * 500_000,
    "200 tracks": lambda: box(b"ftyp", b"isom", bytes(4)) + box(b"moov", *[box(b"trak", box(b"mdia"))] * 200),
    "an index that unpacks to 64 MB": _deflated_index,
    "frames that grow": _growing,
}

ANIMATED: Mapping[str, Callable[[], bytes]] = {
    "GIF whose second frame is 65,000 wide": lambda: gif((64, 64), (64, 64), (65_000, 10_000)),
    "GIF with a canvas of 4 gigapixels": lambda: gif((65_535, 65_535), (1, 1), (1, 1)),
    "GIF of 600 frames of 15 megapixels": lambda: black_gif((3900, 3900), 600),
    "GIF of 100,000 comments": _endless_blocks,
    "APNG whose second frame is 60,000 wide": lambda: _apng((64, 64), (60_000, 60_000)),
    "WebP with a canvas of 268 megapixels": lambda: _webp((16_383, 16_383)),
    "PNG of 30 megapixels in two frames": _wide_png,
}


def tone(seconds: float = 0.5, rate: int = 16_000, channels: int = 1) -> bytes:
    """Return an honest WAV."""
    hum = (np.sin(np.arange(round(rate * seconds)) * 0.2) * 12_000).astype("<i2")
    buffer = BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.repeat(hum[:, None], channels, 1).tobytes())
    return buffer.getvalue()
