"""Whatever is done to a weight file, it is read or refused with one class of error, at once and in little memory."""

from __future__ import annotations

import os
import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from time import thread_time

import gguf
import numpy as np
import pytest
import torch
from gguf_files import random_blocks
from safetensors.torch import save

from mold_core import CheckpointError
from mold_core.weights import read_weights

COUNT = int(os.environ.get("MOLD_SOAK_WEIGHT_FILES", "20000"))  # of each format

EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**47, 2**62, 2**63, 2**64 - 1)
WORDS = (b"NaN", b"-1", b"1e999", b"null", b"[]", b"{}", b"true", b'"\\ud800"', b"9" * 400, b"[" * 3000, b'"F8_E4M3"')


def gguf_file(folder: Path) -> tuple[bytes, int]:
    """Return a small GGUF file with one of everything, and the length of its header."""
    path = folder / "whole.gguf"
    writer = gguf.GGUFWriter(path, "flux")
    writer.add_uint32("a", 7), writer.add_float64("b", 0.5), writer.add_bool("c", True), writer.add_string("d", "text")
    writer.add_array("e", [1, 2, 3]), writer.add_array("f", ["x", "yz", ""])
    writer.add_array("comfy.gguf.orig_shape.two", [4, 2, 2, 32])
    writer.add_tensor("one", np.arange(16, dtype=np.float32))
    writer.add_tensor("two", random_blocks("Q4_0", 16, 32), raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    whole = path.read_bytes()
    return whole, len(whole) - 64 - 16 * 18


def safetensors_file(folder: Path) -> tuple[bytes, int]:
    """Return a small safetensors file with fp8 and its scales, and the length of its header."""
    tensors = {
        "l.weight": torch.ones(4, 4).to(torch.float8_e4m3fn),
        "l.weight_scale": torch.ones(()),
        "l.input_scale": torch.ones(1),
        "half": torch.zeros(3, dtype=torch.float16),
        "none": torch.zeros(0, 5),
    }
    whole = save(tensors, metadata={"format": "pt"})
    return whole, 8 + struct.unpack_from("<Q", whole)[0]


FORMATS: dict[str, Callable[[Path], tuple[bytes, int]]] = {"gguf": gguf_file, "safetensors": safetensors_file}


def mutant(whole: bytes, header: int, chance: random.Random) -> bytes:
    """Return the file with one to four changes to its header, or cut short."""
    made = bytearray(whole)
    for _ in range(chance.choice((1, 1, 2, 4))):
        place = chance.randrange(4, header)
        match chance.randrange(8):
            case 0 | 1:
                made[place : place + 1] = bytes([chance.choice((0, 1, 0x20, 0x7F, 0x80, 0xFF, chance.randrange(256)))])
            case 2:
                made[place : place + 8] = struct.pack("<Q", chance.choice(EXTREMES))
            case 3:
                made[place : place + 4] = struct.pack("<I", chance.choice(EXTREMES) & 0xFFFFFFFF)
            case 4:
                made[place:place] = made[place : place + chance.randrange(1, 64)]
            case 5:
                del made[place : place + chance.randrange(1, 64)]
            case 6:
                made[place : place + chance.randrange(1, 8)] = chance.choice(WORDS)
            case 7:
                del made[chance.randrange(len(made) + 1) :]
    return bytes(made)


def outcome(path: Path, content: bytes) -> bool:
    """Write and read a file; return whether it was taken for whole. Anything but CheckpointError comes through."""
    path.write_bytes(content)
    try:
        read_weights(path)
    except CheckpointError as error:
        said = str(error)
    else:
        return True
    assert str(path) in said
    assert len(said) < 600
    return False


@pytest.mark.parametrize("kind", FORMATS)
def test_mutated_files_are_read_or_refused_in_little_memory(tmp_path: Path, kind: str) -> None:
    whole, header = FORMATS[kind](tmp_path)
    chance = random.Random(11)
    assert outcome(tmp_path / "x", whole)
    tracemalloc.start()
    taken = [outcome(tmp_path / "x", mutant(whole, header, chance)) for _ in range(500)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0 < sum(taken) < len(taken)
    assert peak < 2**24


@pytest.mark.soak
@pytest.mark.parametrize("kind", FORMATS)
def test_many_mutated_files(tmp_path: Path, kind: str) -> None:
    whole, header = FORMATS[kind](tmp_path)
    chance = random.Random(12)
    for _ in range(1000):  # what Python and torch keep for themselves is there before it is measured
        outcome(tmp_path / "x", mutant(whole, header, chance))
    before, most, slowest = resident_bytes(), 0, 0.0
    taken = 0
    for _ in range(COUNT):
        content = mutant(whole, header, chance)
        started = thread_time()
        taken += outcome(tmp_path / "x", content)
        slowest = max(slowest, thread_time() - started)
        most = max(most, resident_bytes())
    print(f"{kind}: {COUNT} mutated files (seed 12), {taken} read, {COUNT - taken} refused")
    print(f"slowest {1000 * slowest:.1f} ms, growth {(most - before) / 2**20:.1f} MiB")
    assert slowest < 0.05
    assert most - before < 2**24


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_cut_short_at_any_byte_is_refused(tmp_path: Path, kind: str) -> None:
    whole, _ = FORMATS[kind](tmp_path)
    assert not any(outcome(tmp_path / "x", whole[:length]) for length in range(len(whole)))
