"""Weight files as people have them: real names, real tensor names and shapes, real sizes, and no bytes on the disk.

`real_layouts.json` holds names and shapes of tensors. Those of diffusers' and transformers' layouts are their classes'
at the published sizes; those of the publishers' layouts were checked by converting them with diffusers' own functions
(`loaders/single_file_utils.py`); those of LoRAs are out of InvokeAI's tests. ``{0-18}`` stands for a range of numbers.
File names are those of ComfyUI's workflow templates and of published models.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

__all__ = ["comfy_tree", "layout", "lora_layout", "write_gguf_header", "write_real"]

Shapes = Mapping[str, tuple[int, ...]]

_RANGE = re.compile(r"\{([\d,-]+)\}")
_BYTES = {"BF16": 2, "F16": 2, "F32": 4, "F8_E4M3": 1, "I8": 1, "U8": 1}
_TYPES = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
# Number of the type, numbers in a block, bytes of a block.
_GGUF = {"Q4_K": (12, 256, 144), "Q8_0": (8, 32, 34), "Q6_K": (14, 256, 210), "Q4_0": (2, 32, 18), "F16": (1, 1, 2)}


@cache
def _compact() -> dict[str, dict[str, list[int]]]:
    table: dict[str, dict[str, list[int]]] = json.loads((Path(__file__).parent / "real_layouts.json").read_text())
    return table


@cache
def layout(name: str) -> Shapes:
    """Return the tensors of a network by name, with their shapes."""
    return {tensor: tuple(shape) for key, shape in _compact()[name].items() for tensor in _expand(key)}


@cache
def lora_layout(name: str, pattern: str, before: str, down: str, up: str, rank: int = 16) -> Shapes:
    """Return the tensors of a LoRA for the matrices of a network that a pattern matches.

    `before` goes before the names of layers, which have underscores for dots where it ends with one.
    """
    tensors: dict[str, tuple[int, ...]] = {}
    for tensor, shape in layout(name).items():
        if tensor.endswith(".weight") and len(shape) == 2 and re.search(pattern, tensor):
            layer = tensor.removesuffix(".weight")
            layer = before + (layer.replace(".", "_") if before.endswith("_") else layer)
            tensors[layer + down] = (rank, shape[1])
            tensors[layer + up] = (shape[0], rank)
    return tensors


def _expand(key: str) -> Iterator[str]:
    found = _RANGE.search(key)
    if not found:
        yield key
        return
    for run in found[1].split(","):
        first, _, last = run.partition("-")
        for number in range(int(first), int(last or first) + 1):
            yield from _expand(key[: found.start()] + str(number) + key[found.end() :])


def write_real(path: Path, shapes: Shapes, stored: str) -> Path:
    """Write a sparse file of tensors, stored as bf16, fp16, fp32, fp8, fp8_scaled, int8_convrot, nvfp4 or Q4_K, …"""
    path.parent.mkdir(parents=True, exist_ok=True)
    if stored in _GGUF:
        return write_gguf_header(path, shapes, stored)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end, notes = 0, []
    for name, type_, shape, note in _stored(shapes, stored):
        size = len(note) if note else math.prod(shape) * _BYTES[type_]
        header[name] = {"dtype": type_, "shape": [size] if note else list(shape), "data_offsets": [end, end + size]}
        if note:
            notes.append((end, note))
        end += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for at, note in notes:
            file.seek(8 + len(text) + at)
            file.write(note)
        file.truncate(8 + len(text) + end)
    return path


def _stored(shapes: Shapes, stored: str) -> Iterator[tuple[str, str, tuple[int, ...], bytes]]:
    """Yield name, type, shape and, for the notes of ComfyUI's quantised layers, the bytes of every tensor."""
    plain = _TYPES.get(stored, "BF16")
    for name, shape in shapes.items():
        quantised = stored not in _TYPES and name.endswith(".weight") and len(shape) == 2 and min(shape) >= 64
        module = name.removesuffix(".weight")
        if not quantised:
            yield name, plain, shape, b""
        elif stored == "fp8":
            yield name, "F8_E4M3", shape, b""
        elif stored == "fp8_scaled":
            yield name, "F8_E4M3", shape, b""
            yield f"{module}.scale_weight", "F32", (), b""
        elif stored == "int8_convrot":
            yield name, "I8", shape, b""
            yield f"{module}.weight_scale", "F32", (shape[0], 1), b""
            note = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 256}
            yield f"{module}.comfy_quant", "U8", (), json.dumps(note).encode()
        elif stored == "nvfp4":
            yield name, "U8", (shape[0], shape[1] // 2), b""
            yield f"{module}.weight_scale", "F8_E4M3", (shape[0], -(-shape[1] // 16)), b""
            yield f"{module}.weight_scale_2", "F32", (), b""
            yield f"{module}.comfy_quant", "U8", (), json.dumps({"format": "nvfp4"}).encode()


def write_gguf_header(path: Path, shapes: Shapes, stored: str, **metadata: str) -> Path:
    """Write a sparse GGUF file of tensors; matrices are stored as said, all else as F32."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    entries, at = [], 0
    facts = {"general.architecture": "flux", **metadata}
    noted = []
    for name, shape in shapes.items():
        if len(shape) > 4:  # as city96's files note what GGUF cannot hold
            noted.append(
                text(f"comfy.gguf.orig_shape.{name}") + struct.pack(f"<IIQ{len(shape)}i", 9, 5, len(shape), *shape)
            )
            shape = (shape[0], math.prod(shape[1:]))
        number, block, block_bytes = _GGUF[stored] if len(shape) == 2 and shape[1] % 256 == 0 else (0, 1, 4)
        dims = shape or (1,)
        entries.append(text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims[::-1], number, at))
        at += -(-math.prod(dims) // block * block_bytes // 32) * 32
    head = b"GGUF" + struct.pack("<IQQ", 3, len(entries), len(facts) + len(noted)) + b"".join(noted)
    head += b"".join(text(key) + struct.pack("<I", 8) + text(value) for key, value in facts.items())
    head += b"".join(entries)
    start = -(-len(head) // 32) * 32
    with path.open("wb") as file:
        file.write(head)
        file.truncate(start + at)
    return path


# Folder and name of a file in ComfyUI → layout and format. A layout with commas is a whole model in one file.
_WHOLE = {
    "sdxl": {"sdxl-unet": "model.diffusion_model.", "clip-l": "conditioner.embedders.0.transformer.",
             "open-clip-g": "conditioner.embedders.1.model.", "vae-4": "first_stage_model."},
    "sd15": {"sd15-unet": "model.diffusion_model.", "clip-l": "cond_stage_model.transformer.",
             "vae-4": "first_stage_model."},
    "flux-whole": {"flux-dev": "model.diffusion_model.", "clip-l": "text_encoders.clip_l.transformer.",
                   "t5-xxl": "text_encoders.t5xxl.transformer.", "vae-16": "vae."},
    "flux-schnell-whole": {"flux-schnell": "model.diffusion_model.", "clip-l": "text_encoders.clip_l.transformer.",
                           "t5-xxl": "text_encoders.t5xxl.transformer.", "vae-16": "vae."},
}  # fmt: skip

_KOHYA = (".lora_down.weight", ".lora_up.weight")
_PEFT = (".lora_A.weight", ".lora_B.weight")
_LORAS = {
    "wan": ("wan-2.1", r"blocks\.\d+\.(self|cross)_attn\.[qkvo]\.", "diffusion_model.", *_KOHYA),
    "z-image": ("z-image", r"layers\.\d+\.(attention|feed_forward)", "diffusion_model.", *_PEFT),
    "ltx2": ("ltx2", r"blocks\.\d+\..*to_[qkv]", "diffusion_model.", *_PEFT),
    "qwen-image": ("qwen-image", r"blocks\.\d+\.(attn|img_mlp|txt_mlp)", "", *_KOHYA),
    "sdxl": ("sdxl-unet", r"transformer_blocks", "lora_unet_", *_KOHYA),
    "sd15": ("sd15-unet", r"transformer_blocks", "lora_unet_", *_KOHYA),
    "flux2": ("flux2-dev", r"(double|single)_blocks", "diffusion_model.", *_PEFT),
    "hunyuan-video": ("hunyuan-video", r"(double|single)_blocks", "diffusion_model.", *_PEFT),
}


def shapes_of(name: str) -> Shapes:
    """Return the tensors of a layout, of a LoRA (``lora:wan``), or of a whole model in one file (``sdxl``)."""
    if name in _WHOLE:
        return {before + key: shape for part, before in _WHOLE[name].items() for key, shape in layout(part).items()}
    lora = name.removeprefix("lora:")
    return lora_layout(*_LORAS[lora]) if name.startswith("lora:") and lora in _LORAS else layout(name)


def comfy_tree(root: Path) -> dict[Path, str]:
    """Write the models folder of a ComfyUI with some 300 files; return the layout of each by path."""
    written = {}
    for line in _TREE.strip().splitlines():
        where, name, stored = line.split()
        folder, _, names = where.partition("/")
        for file in names.split(","):
            path = root / "models" / folder / file
            written[write_real(path, shapes_of(name), stored)] = name
    return written


_TREE = (Path(__file__).parent / "comfy_tree.txt").read_text("utf-8")
