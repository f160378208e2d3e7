"""Long videos with LTX-2: a clip begins with the last latents of the previous clip.

The first latent covers one frame, each later one eight. If two clips share 8n+1 frames, the first latent of the later
clip is the first of those frames, encoded alone, and its next n latents are the last n of the earlier clip, unchanged.
They are fixed in every step, and so is the audio of the same time. The frames of a clip are decoded together with
latents of both neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from mold_core import ChainRenderer

if TYPE_CHECKING:
    from torch import Tensor

    from mold_core import DecodedClip, GenerateRequest, ModelSpec, Run

__all__ = ["Ltx2ChainRenderer"]

# Latents of the neighbours that are decoded too. Frames of `ltx2-nano` differ by a tenth of a level (of 255) from those
# of the shared video decoded at once.
_CONTEXT, _SOUND_CONTEXT = 3, 8


class Ltx2ChainRenderer(ChainRenderer):
    """Renders chains with distilled LTX-2 models."""

    family = "ltx2"
    frame_stride = 8
    default_clip_frames = 97
    max_clip_frames = 97

    def check(self, spec: ModelSpec) -> None:
        """Raise ValidationError for models that are not distilled."""
        from mold_core import ValidationError

        if not spec.options.get("distilled"):
            raise ValidationError(
                f"{spec.name} is not distilled, and chains are made with distilled models",
                field="model",
                value=spec.name,
                hint="name ltx-2-19b-distilled",
            )

    def prepare(self, pipeline: Any, requests: Sequence[GenerateRequest], run: Run) -> None:
        """Encode the prompts of all clips at once, so the text encoder is loaded once."""
        pipeline.learn([request.prompt for request in requests], run)

    def render(
        self, pipeline: Any, request: GenerateRequest, before: Mapping[str, Tensor] | None, overlap: int, run: Run
    ) -> Mapping[str, Tensor]:
        """Return the latents `video` [1, C, F, H, W] and `audio` [1, C, L, M] of a clip."""
        prefix = (
            _prefix_of_next(pipeline, before, overlap, float(request.fps or 1))
            if before is not None and overlap
            else None
        )
        video, audio = pipeline.render(request, run, prefix)
        return {
            "video": video.cpu(),
            "audio": audio.cpu(),
            "fps": _number(float(request.fps or 1)),
            "held_video": _number(prefix.video.shape[2] if prefix else 0),
            "held_audio": _number(prefix.audio.shape[2] if prefix else 0),
        }

    def decode(
        self,
        pipeline: Any,
        clip: Mapping[str, Tensor],
        before: Mapping[str, Tensor] | None,
        overlap: int,
        after: Mapping[str, Tensor] | None,
    ) -> DecodedClip:
        """Return the frames and the audio after the overlap."""
        import torch

        from mold_core import DecodedClip

        codec, fps = pipeline.autoencoders, float(clip["fps"])
        stride = codec.vae.temporal_compression_ratio
        video = [_new_latents(clip, "video")]
        count, skip, audio = video[0].shape[2] * stride, 0, [clip["audio"]]
        if before is not None:
            video.insert(0, before["video"][:, :, -_CONTEXT:])
            skip = (video[0].shape[2] - 1) * stride + 1  # the first latent covers one frame
        else:
            count -= stride - 1
        if after is not None:
            video.append(_new_latents(after, "video")[:, :, :_CONTEXT])
            audio.append(_new_latents(after, "audio")[:, :, :_SOUND_CONTEXT])
        frames = (clip["video"].shape[2] - 1) * stride + 1
        return DecodedClip(
            images=islice(codec.frames(torch.cat(video, dim=2), skip=skip), count),
            sound=codec.sound(torch.cat(audio, dim=2), frames / fps, overlap / fps),
        )


def _new_latents(clip: Mapping[str, Tensor], name: str) -> Tensor:
    """Return the latents of a clip after those of the previous clip."""
    return clip[name][:, :, int(clip[f"held_{name}"]) :]


def _prefix_of_next(pipeline: Any, before: Mapping[str, Tensor], overlap: int, fps: float) -> Any:
    """Return the prefix of the next clip."""
    import torch

    from mold_ltx2.conditioning import ClipPrefix

    codec = pipeline.autoencoders
    video, stride = before["video"].clone(), codec.vae.temporal_compression_ratio
    shared = (overlap - 1) // stride
    last = video.shape[2] - 1 - shared  # the latent whose last frame is the first shared one
    first = max(0, last - _CONTEXT)
    frames = list(codec.frames(video[:, :, first : last + 1 + min(shared, 1)]))
    first_latent = codec.encode_frames([frames[(last - first) * stride]])
    config = codec.audio_vae.config
    per_second = config.sample_rate / config.mel_hop_length / codec.audio_vae.temporal_compression_ratio
    shared_audio = min(round(overlap / fps * per_second), before["audio"].shape[2])
    return ClipPrefix(
        video=torch.cat([first_latent.cpu(), video[:, :, last + 1 :]], dim=2),
        audio=before["audio"][:, :, before["audio"].shape[2] - shared_audio :].clone(),
    )


def _number(value: float) -> Tensor:
    import torch

    return torch.tensor(value, dtype=torch.float64)
