"""Upscalers of many architectures for mold, with the package spandrel."""
