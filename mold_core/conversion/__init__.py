"""Weight files of pickled objects (.pth, .pt, .ckpt) to safetensors, without running what is in them."""

from mold_core.conversion.convert import convert_pickle

__all__ = ["convert_pickle"]
