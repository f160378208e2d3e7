"""Upscale images and videos: tiles and their blending, pixel formats, streamed files.

Plugins provide the networks (hook `mold_upscalers`). This package is the same for all of them.
"""

from __future__ import annotations
