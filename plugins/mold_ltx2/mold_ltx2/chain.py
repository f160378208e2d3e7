"""Long videos with LTX-2: a clip begins with the last latents of the clip before.

A latent after the first stands for eight frames, the first for one. Where two clips share 8n+1 frames, the later one's
first latent is the first of those frames, encoded by itself, and its next n latents are the earlier clip's last n as
they are. They are held through every step, and so is the sound of the same time. The frames of a clip are decoded with
the latents before and after its seams in view.
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

# Latents on either side that the decoders are shown as well. Images of `ltx2-nano` differ by a tenth of a level (of
# 255) from those of the whole video decoded at once.
_CONTEXT, _SOUND_CONTEXT = 3, 8


class Ltx2ChainRenderer(ChainRenderer):
    """Renders chains with distilled LTX-2 models."""

    family = "ltx2"
    frame_stride = 8
    default_clip_frames = 97
    max_clip_frames = 97

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
        return {
            "video": video.cpu(),
            "audio": audio.cpu(),
            "fps": _number(float(request.fps or 1)),
            "held_video": _number(pinned.video.shape[2] if pinned else 0),
            "held_audio": _number(pinned.audio.shape[2] if pinned else 0),
        }

    def decode(
        self,
        pipeline: Any,
        clip: Mapping[str, Tensor],
        before: Mapping[str, Tensor] | None,
        overlap: int,
        after: Mapping[str, Tensor] | None,
    ) -> DecodedClip:
        """Return the frames and the sound after the overlap."""
        import torch

        from mold_core import DecodedClip

        codec, fps = pipeline.autoencoders, float(clip["fps"])
        stride = codec.vae.temporal_compression_ratio
        video = [_own(clip, "video")]
        count, skip, audio = video[0].shape[2] * stride, 0, [clip["audio"]]
        if before is not None:
            video.insert(0, before["video"][:, :, -_CONTEXT:])
            skip = (video[0].shape[2] - 1) * stride + 1  # the first latent stands for one frame
        else:
            count -= stride - 1
        if after is not None:
            video.append(_own(after, "video")[:, :, :_CONTEXT])
            audio.append(_own(after, "audio")[:, :, :_SOUND_CONTEXT])
        frames = (clip["video"].shape[2] - 1) * stride + 1
        return DecodedClip(
            images=islice(codec.frames(torch.cat(video, dim=2), skip=skip), count),
            sound=codec.sound(torch.cat(audio, dim=2), frames / fps, overlap / fps),
        )


def _own(clip: Mapping[str, Tensor], name: str) -> Tensor:
    """Return the latents of a clip after those that it has from the clip before."""
    return clip[name][:, :, int(clip[f"held_{name}"]) :]


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
