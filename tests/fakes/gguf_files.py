"""GGUF files for tests, written by gguf-py: the real writer in the real layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import torch
from torch import Tensor

__all__ = [
    "HALVES",
    "ODD_HALVES",
    "QUANTISED",
    "adversarial_blocks",
    "expanded",
    "random_blocks",
    "same_bits",
    "write_gguf",
]

QUANTISED = (
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS",
)  # fmt: skip

# Where the fp16 numbers of a block stand.
HALVES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82), "Q3_K": (108,),
    "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,),
}  # fmt: skip

# fp16: zeros, the smallest and largest denormals, the smallest normal, one, the largest, infinities and no number.
ODD_HALVES = (0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x3C00, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00)


def random_blocks(kind: str, rows: int, columns: int, *, scale: float = 1e-3, seed: int = 0) -> np.ndarray:
    """Return rows of random blocks, uint8, whose scales are about `scale`."""
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (rows * columns // block_size, block_bytes), dtype=np.uint8)
    for place in HALVES[kind]:
        halves = (scale * random.normal(size=len(blocks))).astype(np.float16)
        blocks[:, place : place + 2] = halves[:, None].view(np.uint8)
    return blocks.reshape(rows, -1)


def expanded(rows: np.ndarray, kind: str) -> Tensor:
    """Return what gguf-py makes of rows of blocks: float32."""
    with np.errstate(all="ignore"):
        return torch.from_numpy(gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[kind]))


def adversarial_blocks(kind: str) -> np.ndarray:
    """Return blocks of zeros, of ones, of alternating bits, and of anything with each pair of odd scales."""
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][1]
    filled = [np.full((1, size), value, dtype=np.uint8) for value in (0x00, 0xFF, 0x55, 0xAA, 0x80, 0x7F)]
    odd = np.random.default_rng(1).integers(0, 256, (len(ODD_HALVES) ** 2, size), dtype=np.uint8)
    for row, (first, second) in enumerate((a, b) for a in ODD_HALVES for b in ODD_HALVES):
        for place, value in zip(HALVES[kind], (first, second), strict=False):
            odd[row, place : place + 2] = np.frombuffer(value.to_bytes(2, "little"), dtype=np.uint8)
    return np.concatenate([*filled, odd])


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Say whether two tensors are the same to the last bit; what is no number may be so in any way."""
    kind = torch.int32 if left.dtype == torch.float32 else torch.int16
    equal = left.view(kind) == right.view(kind)
    return left.dtype == right.dtype and bool((equal | (left.isnan() & right.isnan())).all())


def write_gguf(
    path: Path, tensors: Mapping[str, Tensor | np.ndarray], kinds: Mapping[str, str], architecture: str = "flux"
) -> None:
    """Write tensors: those named in `kinds` as that type, from blocks or by quantising, others as they are."""
    writer = gguf.GGUFWriter(path, architecture)
    for name, tensor in tensors.items():
        kind = kinds.get(name)
        if kind is None:
            assert isinstance(tensor, Tensor)
            writer.add_tensor(name, tensor.float().numpy())
            continue
        type_ = gguf.GGMLQuantizationType[kind]
        blocks = tensor if isinstance(tensor, np.ndarray) else gguf.quants.quantize(tensor.float().numpy(), type_)
        writer.add_tensor(name, blocks, raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
