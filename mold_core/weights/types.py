"""The types of tensors in weight files that mold reads, with their names and sizes.

Block layouts and type numbers are ggml's (https://github.com/ggml-org/ggml, ggml-common.h and ggml.h); the names of the
plain types are safetensors' (https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import attrs

__all__ = ["GGUF_TYPES", "SAFETENSORS_TYPES", "StoredType", "type_named"]


@attrs.frozen
class StoredType:
    """A storage type: `block_bytes` bytes hold `block_size` numbers.

    `torch_dtype` is the name of the torch dtype that plain types are read as. `quantised` types stay packed in memory
    and are dequantized on use.
    """

    name: str
    block_size: int
    block_bytes: int
    torch_dtype: str | None = None
    quantised: bool = False

    def size_bytes(self, numbers: int) -> int:
        """Return the size of `numbers` numbers, which must fill whole blocks."""
        return numbers // self.block_size * self.block_bytes


_PLAIN = {
    type_.name: type_
    for type_ in (
        StoredType("F64", 1, 8, "float64"),
        StoredType("F32", 1, 4, "float32"),
        StoredType("F16", 1, 2, "float16"),
        StoredType("BF16", 1, 2, "bfloat16"),
        StoredType("I64", 1, 8, "int64"),
        StoredType("I32", 1, 4, "int32"),
        StoredType("I16", 1, 2, "int16"),
        StoredType("I8", 1, 1, "int8"),
        StoredType("U8", 1, 1, "uint8"),
        StoredType("BOOL", 1, 1, "bool"),
        StoredType("F8_E8M0", 1, 1, "uint8"),
        StoredType("F8_E4M3", 1, 1, "float8_e4m3fn", quantised=True),
        StoredType("F8_E5M2", 1, 1, "float8_e5m2", quantised=True),
    )
}

# Packed matrices that safetensors files store as I8 or U8; other tensors or metadata define which: integers of 8 bits;
# codes of 4 bits, with the low or the high half of a byte first; codes of 6 bits.
_PACKED = (
    StoredType("INT8", 1, 1, "int8", quantised=True),
    StoredType("CODES4", 2, 1, quantised=True),
    StoredType("CODES4_HIGH", 2, 1, quantised=True),
    StoredType("CODES6", 4, 3, quantised=True),
)

_BLOCKS = {
    2: StoredType("Q4_0", 32, 18, quantised=True),
    3: StoredType("Q4_1", 32, 20, quantised=True),
    6: StoredType("Q5_0", 32, 22, quantised=True),
    7: StoredType("Q5_1", 32, 24, quantised=True),
    8: StoredType("Q8_0", 32, 34, quantised=True),
    10: StoredType("Q2_K", 256, 84, quantised=True),
    11: StoredType("Q3_K", 256, 110, quantised=True),
    12: StoredType("Q4_K", 256, 144, quantised=True),
    13: StoredType("Q5_K", 256, 176, quantised=True),
    14: StoredType("Q6_K", 256, 210, quantised=True),
    20: StoredType("IQ4_NL", 32, 18, quantised=True),
    23: StoredType("IQ4_XS", 256, 136, quantised=True),
}

SAFETENSORS_TYPES = _PLAIN
GGUF_TYPES = {
    **{
        number: _PLAIN[name]
        for number, name in {
            0: "F32",
            1: "F16",
            24: "I8",
            25: "I16",
            26: "I32",
            27: "I64",
            28: "F64",
            30: "BF16",
        }.items()
    },
    **_BLOCKS,
}
_NAMED = {**_PLAIN, **{type_.name: type_ for type_ in (*_BLOCKS.values(), *_PACKED)}}


def type_named(name: str) -> StoredType:
    """Return the type with a name. Raises KeyError for an unknown name."""
    return _NAMED[name]
