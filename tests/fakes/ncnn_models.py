"""Writes networks of Real-ESRGAN as ncnn's converter does: a graph as text, weights in its order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor, nn

from mold_esrgan.networks import RRDBNet, SRVGGNetCompact

FP16 = 0x01306B47


class Graph:
    """Collects the layers of a graph and their weights."""

    def __init__(self, *, fp16: bool) -> None:
        self.lines = ["Input input 0 1 data"]
        self.weights = b""
        self.fp16 = fp16
        self.separate = False

    def layer(self, kind: str, inputs: int, parameters: str) -> None:
        names = " ".join(f"t{len(self.lines)}_{index}" for index in range(inputs))
        self.lines.append(f"{kind} l{len(self.lines)} {inputs} 1 {names} out{len(self.lines)} {parameters}")

    def conv(self, layer: nn.Conv2d, *, leaky: bool = False) -> None:
        activation = " 9=2 -23310=1,2.000000e-01" if leaky and not self.separate else ""
        self.layer("Convolution", 1, f"0={layer.out_channels} 1=3 4=1 5=1 6={layer.weight.numel()}{activation}")
        data = raw(layer.weight, "<f2" if self.fp16 else "<f4")
        self.weights += (FP16 if self.fp16 else 0).to_bytes(4, "little") + data + bytes(-len(data) % 4)
        assert layer.bias is not None
        self.weights += raw(layer.bias)
        if leaky and self.separate:
            self.layer("ReLU", 1, "0=2.000000e-01")

    def residual(self) -> None:
        if self.separate:
            self.layer("BinaryOp", 1, "0=2 1=1 2=2.000000e-01")
            self.layer("BinaryOp", 2, "0=0")
        else:
            self.layer("Eltwise", 2, "0=1 -23301=2,2.000000e-01,1.000000e+00")

    def write(self, folder: Path, name: str = "network") -> Path:
        text = f"7767517\n{len(self.lines)} {len(self.lines)}\n" + "\n".join(self.lines) + "\n"
        (folder / f"{name}.bin").write_bytes(self.weights)
        (folder / f"{name}.param").write_text(text)
        return folder / f"{name}.param"


def raw(tensor: Tensor, kind: str = "<f4") -> bytes:
    return tensor.detach().numpy().astype(np.dtype(kind)).tobytes()


def rrdb(network: RRDBNet, *, fp16: bool, separate: bool = False) -> Graph:
    """Return the graph of an RRDBNet; `separate`, as pnnx writes it, with activations and factors as layers."""
    graph = Graph(fp16=fp16)
    graph.separate = separate
    graph.conv(network.conv_first)
    for block in network.body:
        for dense in (block.rdb1, block.rdb2, block.rdb3):
            for index in range(1, 6):
                if index > 1:
                    graph.layer("Concat", index, "")
                graph.conv(dense.get_submodule(f"conv{index}"), leaky=index < 5)
            graph.residual()
        graph.residual()
    graph.conv(network.conv_body)
    graph.layer("BinaryOp", 2, "")
    for stage in range(1, network.config.stages + 1):
        graph.layer("Interp", 1, "0=1 1=2.000000e+00 2=2.000000e+00")
        graph.conv(network.get_submodule(f"conv_up{stage}"), leaky=True)
    graph.conv(network.conv_hr, leaky=True)
    graph.conv(network.conv_last)
    return graph


def compact(network: SRVGGNetCompact, *, fp16: bool) -> Graph:
    graph = Graph(fp16=fp16)
    for layer in network.body:
        if isinstance(layer, nn.PReLU):
            graph.layer("PReLU", 1, f"0={layer.num_parameters}")
            graph.weights += raw(layer.weight)
        else:
            graph.conv(layer)
    scale = network.config.scale
    graph.layer("PixelShuffle", 1, f"0={scale}")
    graph.layer("Interp", 1, f"0=1 1={scale}.0 2={scale}.0")
    graph.layer("BinaryOp", 2, "")
    return graph
