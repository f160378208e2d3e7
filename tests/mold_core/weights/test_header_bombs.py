"""Headers made to cost memory: each is read or refused for little more than its own size."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SIZE_BYTES = 62_000_000
MIB = 2**20


def safetensors(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def many(entry: bytes, size_bytes: int) -> bytes:
    """Return so many bytes of numbered entries."""
    count = size_bytes // (len(entry % 0) + 8)
    return b"{" + b",".join(entry % number for number in range(count)) + b"}"


def gguf(entries: bytes, count: int, tensors: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, count) + entries


def gguf_text(key: bytes, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, len(value)) + value


EMPTY = b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
BOMBS: dict[str, Callable[[], bytes]] = {
    "lists": lambda: safetensors(b'{"a":[' + b"[]," * (SIZE_BYTES // 3) + b"[]]}"),
    "lists as long as is read": lambda: safetensors(b'{"a":[' + b"[]," * (5 * MIB) + b"[]]}"),
    "tensors without numbers": lambda: safetensors(many(EMPTY, SIZE_BYTES)),
    "as many tensors as are read": lambda: safetensors(many(EMPTY, 15 * MIB)),
    "metadata": lambda: safetensors(b'{"__metadata__":' + many(b'"%d":""', 15 * MIB) + b"}"),
    "metadata in four bytes a letter": lambda: safetensors(
        json.dumps({"__metadata__": {"a": "x" * (15 * MIB) + "\U0001f600"}}, ensure_ascii=False).encode()
    ),
    "GGUF texts": lambda: gguf(b"".join(gguf_text(b"%d" % n, b"x" * (15 * MIB)) for n in range(16)), 16),
    "GGUF texts in four bytes a letter": lambda: gguf(
        b"".join(gguf_text(b"%d" % n, b"x" * (2 * MIB) + "\U0001f600".encode()) for n in range(100)), 100
    ),
    "GGUF strings": lambda: gguf(
        b"".join(
            struct.pack("<Q", 1) + b"%x" % n + struct.pack("<IIQ", 9, 8, 120_000) + bytes(8 * 120_000)
            for n in range(16)
        ),
        16,
    ),
}

CODE = """
import resource, sys
from pathlib import Path
from mold_core import CheckpointError
from mold_core.weights import open_weights

def peak():  # of this process: ru_maxrss begins with that of the one that started it
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024

before = peak()
try:
    open_weights(Path(sys.argv[1]))
except CheckpointError as error:
    assert len(str(error)) < 600
    print("refused", peak() - before)
else:
    print("read", peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("bomb", BOMBS)
def test_no_header_costs_more_than_a_few_times_what_is_read_of_it(tmp_path: Path, bomb: str) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(BOMBS[bomb]())
    done = subprocess.run([sys.executable, "-c", CODE, str(path)], capture_output=True, text=True, check=True)
    outcome, growth = done.stdout.split()
    mapped = path.stat().st_size if bomb.startswith("GGUF") else 0  # of the file, which the system can take back
    print(f"{bomb}: {outcome}, {int(growth) / MIB:.0f} MiB")
    assert int(growth) - mapped < 160 * MIB  # sixteen times four for the text, twice, and the bytes
    if SIZE_BYTES - MIB < path.stat().st_size < SIZE_BYTES + MIB:
        assert outcome == "refused"
        assert int(growth) < 16 * MIB
