"""Real-ESRGAN in the format of ncnn, which Upscayl uses: a graph (.param) and weights (.bin).

The graph is compared with those of RRDBNet and SRVGGNetCompact by its layers; its convolutions get the names that
the official files give them.

Source: github.com/Tencent/ncnn, docs/developer-guide/param-and-model-file-structure.md and operators.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import attrs

from mold_core import CheckpointError
from mold_core.hookspecs import WeightLoader
from mold_core.weights import MappedFile, TensorSource, type_named

__all__ = ["NcnnLoader"]

_MAGIC = b"7767517"
_FP16 = 0x01306B47
_INT8 = 0x000D4B38
_FP32 = (0, 0x0002C056)
_MAX_GRAPH_BYTES = 4 << 20
_LEAKY = 0.2
_RESIDUAL = 0.2
_CONVS_OF_BLOCK = 15
_COMMON = frozenset({"Input", "Convolution", "Split", "Interp", "BinaryOp", "Concat", "Eltwise", "ReLU", "PReLU"})
_KNOWN = _COMMON | {"PixelShuffle"}


@attrs.frozen
class _Layer:
    """A layer of the graph: its type, its name and its parameters by number, as text."""

    type: str
    name: str
    parameters: Mapping[int, str]

    def number(self, key: int, default: float = 0) -> float:
        """Return a parameter that is one number."""
        return float(self.parameters.get(key, default))

    def numbers(self, key: int) -> list[float]:
        """Return a parameter that is a list, whose key is -23300 minus its number."""
        return [float(text) for text in self.parameters.get(-23300 - key, "0").split(",")[1:]]


class NcnnLoader(WeightLoader):
    """Reads the .param file of a network with the .bin file beside it."""

    name = "ncnn"

    def recognises(self, path: Path, head: bytes) -> bool:
        """Say whether the file is a graph of ncnn, or the weights of one that is beside it."""
        weights = head[:4] in (struct.pack("<I", _FP16), struct.pack("<I", 0), struct.pack("<I", _FP32[1]))
        return head.startswith(_MAGIC) or (weights and path.suffix == ".bin" and path.with_suffix(".param").is_file())

    def open(self, path: Path) -> Mapping[str, TensorSource]:
        """Return the tensors under their official names.

        Raises CheckpointError for another network than Real-ESRGAN's two, quantised weights and damaged files.
        """
        graph, weights = path.with_suffix(".param"), path.with_suffix(".bin")
        try:
            if graph.stat().st_size > _MAX_GRAPH_BYTES:
                raise CheckpointError("the graph is larger than any network that can be read")
            layers = _parsed(graph.read_text("utf-8"))
            names = _compact_names(layers) if any(layer.type == "PReLU" for layer in layers) else _rrdb_names(layers)
            return _sources(layers, names, MappedFile(weights))
        except CheckpointError as error:
            raise CheckpointError("%s: %s", path, error, hint=error.hint) from None
        except OSError as error:
            raise CheckpointError("%s: the file cannot be read: %s", path, error) from None
        except (ValueError, OverflowError, IndexError, struct.error):
            raise CheckpointError("%s: the ncnn file is damaged", path) from None


def _parsed(text: str) -> list[_Layer]:
    lines = text.splitlines()
    layers = []
    for line in lines[2:]:
        words = line.split()
        if not words:
            continue
        skipped = 4 + int(words[2]) + int(words[3])
        pairs = (word.split("=", 1) for word in words[skipped:])
        layers.append(_Layer(words[0], words[1], {int(key): value for key, value in pairs}))
    unknown = sorted({layer.type for layer in layers} - _KNOWN)
    if unknown:
        raise _other_network(f"it has layers of type {', '.join(unknown[:5])}")
    return layers


def _rrdb_names(layers: Sequence[_Layer]) -> list[str]:
    """Return the official names of the convolutions of an RRDBNet, in the order of the graph."""
    stages = _count(layers, "Interp")
    blocks, rest = divmod(_count(layers, "Convolution") - 4 - stages, _CONVS_OF_BLOCK)
    if rest or blocks < 1 or any((layer.number(0), layer.number(1)) != (1, 2) for layer in _of(layers, "Interp")):
        raise _other_network("its convolutions are not those of blocks with 15 each")
    leaky = [layer.numbers(10)[:1] for layer in _of(layers, "Convolution") if layer.number(9)]
    leaky += [[layer.number(0)] for layer in _of(layers, "ReLU")]
    residuals = [layer for layer in _of(layers, "Eltwise") if sorted(_rounded(layer.numbers(1))) == [_RESIDUAL, 1.0]]
    residuals += [layer for layer in _of(layers, "BinaryOp") if _rounded([layer.number(2)]) == [_RESIDUAL]]
    found = [len(leaky), len(residuals), _count(layers, "Concat")]
    if found != [12 * blocks + stages + 1, 4 * blocks, 12 * blocks] or any(_rounded(one) != [_LEAKY] for one in leaky):
        raise _other_network("its activations or residuals are others")
    body = [
        f"body.{block}.rdb{dense}.conv{conv}" for block in range(blocks) for dense in (1, 2, 3) for conv in range(1, 6)
    ]
    ups = [f"conv_up{stage}" for stage in range(1, stages + 1)]
    return ["conv_first", *body, "conv_body", *ups, "conv_hr", "conv_last"]


def _compact_names(layers: Sequence[_Layer]) -> list[str]:
    """Return the official names of the convolutions and PReLUs of an SRVGGNetCompact, in the order of the graph."""
    weighted = [layer.type for layer in layers if layer.type in ("Convolution", "PReLU")]
    count = len(weighted)
    shuffles = _of(layers, "PixelShuffle")
    if weighted != ["Convolution", "PReLU"] * (count // 2) + ["Convolution"] or len(shuffles) != 1:
        raise _other_network("its convolutions and PReLUs do not alternate")
    scale = shuffles[0].number(0)
    resizes = [(layer.number(0), layer.number(1)) for layer in _of(layers, "Interp")]
    if len(resizes) > 1 and resizes[0] == (1, scale):
        raise CheckpointError(
            f"this network enlarges {scale:g} times and then shrinks the result to {scale * resizes[1][1]:g} times",
            hint="use the file that enlarges 4 times, and reduce the result",
        )
    if resizes != [(1, scale)]:
        raise _other_network("it does not add the enlarged input")
    return [f"body.{index}" for index in range(count)]


def _sources(layers: Iterable[_Layer], names: Iterable[str], file: MappedFile) -> dict[str, TensorSource]:
    """Return a source for each tensor; the weights lie in the order of the graph without any index."""
    tensors: dict[str, TensorSource] = {}
    offset = 0
    pending = iter(names)
    for layer in layers:
        if layer.type == "PReLU":
            offset = _add(tensors, f"{next(pending)}.weight", (int(layer.number(0)),), "F32", offset, file)
        elif layer.type == "Convolution":
            name, outputs = next(pending), int(layer.number(0))
            width, height = int(layer.number(1)), int(layer.number(11, layer.number(1)))
            inputs = int(layer.number(6)) // max(outputs * width * height, 1)
            type_name = _weight_type(file, offset, layer)
            shape = (outputs, inputs, height, width)
            offset = _add(tensors, f"{name}.weight", shape, type_name, offset + 4, file)
            if layer.number(5):
                offset = _add(tensors, f"{name}.bias", (outputs,), "F32", offset, file)
    if offset != len(file):
        raise CheckpointError("the .bin file has not the size that the .param file asks for; are both of one network?")
    return tensors


def _add(
    tensors: dict[str, TensorSource], name: str, shape: tuple[int, ...], type_name: str, offset: int, file: MappedFile
) -> int:
    """Add a tensor and return the offset of the next one; all begin at multiples of four bytes."""
    type_ = type_named(type_name)
    count = 1
    for side in shape:
        count *= side
    size_bytes = type_.size_bytes(count)
    if min(shape) < 1 or offset + size_bytes > len(file):
        raise CheckpointError("the .bin file ends too early; are both files of one network?")
    tensors[name] = TensorSource(name=name, shape=shape, type=type_, size_bytes=size_bytes, offset=offset, buffer=file)
    return offset + -(-size_bytes // 4) * 4


def _weight_type(file: MappedFile, offset: int, layer: _Layer) -> str:
    """Return the stored type of a convolution's weight, which a mark of four bytes before it tells."""
    if offset + 4 > len(file):
        raise CheckpointError("the .bin file ends too early; are both files of one network?")
    mark = int.from_bytes(bytes(file.tensor(offset, 4).tolist()), "little")
    if mark == _FP16:
        return "F16"
    if mark in _FP32:
        return "F32"
    kind = "int8 weights" if mark == _INT8 or layer.number(8) else "weights in a table of 256 values"
    raise CheckpointError(f"{layer.name} has {kind}, which cannot be read", hint="use the fp16 or fp32 file")


def _of(layers: Iterable[_Layer], type_name: str) -> list[_Layer]:
    return [layer for layer in layers if layer.type == type_name]


def _count(layers: Iterable[_Layer], type_name: str) -> int:
    return len(_of(layers, type_name))


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(value, 4) for value in values]


def _other_network(why: str) -> CheckpointError:
    return CheckpointError(
        f"this ncnn network is neither an RRDBNet nor an SRVGGNetCompact: {why}",
        hint="of ncnn's files those of Real-ESRGAN can be read; look for the network as .safetensors",
    )
