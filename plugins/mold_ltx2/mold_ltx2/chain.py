"""Long videos with LTX-2: a clip begins with the last latents of the clip before.

A latent after the first stands for eight frames, the first for one. Where two clips share 8n+1 frames, the later one's
first latent is the first of those frames, encoded by itself, and its next n latents are the earlier clip's last n as
they are. They are held through every step, and so is the sound of the same time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from mold_core import Film, GenerateRequest, ModelSpec, Run

__all__ = ["Ltx2ChainRenderer"]

# Latents before the one that is looked for, which the decoder is shown as well.
_CONTEXT = 2


class Ltx2ChainRenderer:
    """Renders chains with distilled LTX-2 models."""

    family = "ltx2"

    def check(self, spec: ModelSpec) -> None:
        """Refuse models that are not distilled."""
        from mold_core import ValidationError

        if not spec.options.get("distilled"):
            raise ValidationError(
                f"{spec.name} is not distilled, and chains are made with distilled models",
                field="model",
                value=spec.name,
                hint="name ltx-2-19b-distilled",
            )

    def prepare(self, pipeline: Any, requests: Sequence[GenerateRequest], run: Run) -> None:
        """Encode the prompts of all clips at once, so that the text encoder is brought into memory once."""
        pipeline.learn([request.prompt for request in requests], run)

    def render(
        self, pipeline: Any, request: GenerateRequest, before: Mapping[str, Tensor] | None, overlap: int, run: Run
    ) -> Mapping[str, Tensor]:
        """Return the latents `video` [1, C, F, H, W] and `audio` [1, C, L, M] of a clip."""
        pinned = _tail(pipeline, before, overlap, float(request.fps or 1)) if before is not None and overlap else None
        video, audio = pipeline.render(request, run, pinned)
        return {"video": video.cpu(), "audio": audio.cpu(), "fps": _number(float(request.fps or 1))}

    def decode(
        self, pipeline: Any, clip: Mapping[str, Tensor], before: Mapping[str, Tensor] | None, overlap: int
    ) -> Film:
        """Return the frames and the sound after the overlap."""
        from mold_core import Film

        codec, fps = pipeline.autoencoders, float(clip["fps"])
        frames = (clip["video"].shape[2] - 1) * codec.vae.temporal_compression_ratio + 1
        return Film(
            images=codec.frames(clip["video"].clone(), skip=overlap),
            sound=codec.sound(clip["audio"].clone(), frames / fps, overlap / fps),
        )


def _tail(pipeline: Any, before: Mapping[str, Tensor], overlap: int, fps: float) -> Any:
    """Return what the next clip begins with."""
    import torch

    from mold_ltx2.conditioning import Pinned

    codec = pipeline.autoencoders
    video, stride = before["video"].clone(), codec.vae.temporal_compression_ratio
    whole = (overlap - 1) // stride
    last = video.shape[2] - 1 - whole  # the latent that the first shared frame is the end of
    first = max(0, last - _CONTEXT)
    shown = list(codec.frames(video[:, :, first : last + 1 + min(whole, 1)]))
    begin = codec.encode_frames([shown[(last - first) * stride]])
    config = codec.audio_vae.config
    per_second = config.sample_rate / config.mel_hop_length / codec.audio_vae.temporal_compression_ratio
    heard = min(round(overlap / fps * per_second), before["audio"].shape[2])
    return Pinned(
        video=torch.cat([begin.cpu(), video[:, :, last + 1 :]], dim=2),
        audio=before["audio"][:, :, before["audio"].shape[2] - heard :].clone(),
    )


def _number(value: float) -> Tensor:
    import torch

    return torch.tensor(value, dtype=torch.float64)
