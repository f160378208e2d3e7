"""Upscalers of many architectures for mold, by the package spandrel."""
