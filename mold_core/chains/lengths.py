"""Videos by their length: a clip, or a chain of clips where one is not enough."""

from __future__ import annotations

from typing import Any

from mold_core.deprecated import CLIP_RULES
from mold_core.errors import ValidationError
from mold_core.wire.chain import ChainRequest
from mold_core.wire.generate import GenerateRequest

__all__ = ["frames_of", "request_of_length"]


def frames_of(seconds: float, fps: int, stride: int | None = None) -> int:
    """Return the number of frames nearest to a length, of those that a model generates: a multiple of `stride` and one.

    The default stride is that of chain renderers.
    """
    step = CLIP_RULES["frame_stride"] if stride is None else stride
    return round(seconds * fps / step) * step + 1


def request_of_length(
    frames: int | None, clip_frames: int | None, *, negative_prompt: str | None = None, **fields: Any
) -> GenerateRequest | ChainRequest:
    """Return the request for a video of `frames`: a chain if that is more than a clip of `clip_frames` has.

    `clip_frames` of None: the model makes no chains. Raises ValidationError for a chain with a negative prompt.
    """
    if clip_frames is None or (frames or 0) <= clip_frames:
        return GenerateRequest(frames=frames, negative_prompt=negative_prompt, **fields)
    if negative_prompt:
        raise ValidationError(
            f"negative_prompt is for videos of one clip, at most {clip_frames} frames with {fields['model']}",
            field="negative_prompt",
            hint="leave it out, or ask for a shorter video",
        )
    return ChainRequest(total_frames=frames, clip_frames=clip_frames, **fields)
