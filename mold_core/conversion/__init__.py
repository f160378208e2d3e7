"""Convert weight files of pickled objects (.pth, .pt, .ckpt) to safetensors, without executing their code."""

from mold_core.conversion.convert import convert_pickle

__all__ = ["convert_pickle"]
