"""The version of mold-core."""

__all__ = ["VERSION"]

VERSION = "0.2.0"
