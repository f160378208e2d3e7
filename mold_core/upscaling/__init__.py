"""Images and videos made larger: tiles and their blending, kinds of pixels, streamed files.

The networks come from plugins (hook `mold_upscalers`); everything here is the same for all of them.
"""

from __future__ import annotations
