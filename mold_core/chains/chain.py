"""A chain as a sequence of clips with content-addressed files, so that existing clips are reused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from mold_core.chains.clips import ClipFiles, ClipWork
from mold_core.chains.plan import ChainPlan
from mold_core.media.preview import PreviewFrames
from mold_core.version import VERSION
from mold_core.wire import ChainRequest, GenerateRequest
from mold_core.wire.chain import ChainStage
from mold_core.wire.convert import to_json
from mold_core.wire.generate import MAX_SEED

__all__ = ["Chain", "chain_id", "lay_out", "stage_seed"]

# 2^64 divided by the golden ratio, which makes seeds of adjacent stages very different (Knuth, TAOCP 3, §6.4).
_SPREAD = 0x9E3779B97F4A7C15

# Incremented when the latents that renderers store change their meaning.
_LATENTS_VERSION = 2


@attrs.frozen(kw_only=True)
class Chain:
    """A chain that is ready to run: its clips in order, with their files. Equal requests have equal ids."""

    id: str
    request: ChainRequest
    plan: ChainPlan
    works: tuple[ClipWork, ...]

    @property
    def first_missing(self) -> int:
        """Index of the first clip that is not rendered; the number of clips if all are."""
        return next((index for index, work in enumerate(self.works) if not work.files.rendered), len(self.works))

    @property
    def ready(self) -> tuple[ClipWork, ...]:
        """The clips whose frames can be decoded now and are not decoded yet."""
        return tuple(work for work in self.works if work.ready)


def lay_out(
    request: ChainRequest,
    plan: ChainPlan,
    clips: Sequence[GenerateRequest],
    folder: Path,
    weights: Sequence[str] = (),
) -> Chain:
    """Return the chain of a completed request. `clips` are the completed requests of its stages, with seeds.

    `weights` identifies the versions of the model's files.

    The file names of latents are hashes of everything the latents depend on, including the previous clips. The names
    of frames also depend on the next clip if it continues this one. So a repeated chain, or one with changed later
    stages, finds the clips that it shares with the first.
    """
    lossless = request.output_format != "mp4"
    overlaps = [*(_overlap(plan, index) for index in range(len(clips))), 0]  # 0: no clip follows the last one
    fades = [*(_fade_into(plan.stages, index) for index in range(len(clips))), 0]
    keys: list[str] = []
    for index, clip in enumerate(clips):
        keys.append(_digest("clip", clip, overlaps[index], keys[-1] if overlaps[index] else "", list(weights)))
    files: list[ClipFiles] = []
    limits = _limits(plan)
    previews = _previews(plan, [limit - fade for limit, fade in zip(limits, fades[1:], strict=True)], clips[0].fps or 1)
    for index, key in enumerate(keys):
        continued_by = keys[index + 1] if overlaps[index + 1] else ""
        faded = files[-1].faded.name if fades[index] else ""
        video_key = _digest("part", key, continued_by, limits[index], fades[index], fades[index + 1], lossless, faded)
        files.append(_files(folder, key, video_key, previews[index]))
    works = (
        ClipWork(
            request=clip,
            files=files[index],
            before=files[index - 1] if index else None,
            overlap=overlaps[index],
            after=files[index + 1] if overlaps[index + 1] else None,
            frames=limits[index],
            preview_frames=previews[index],
            fade_in=fades[index],
            fade_out=fades[index + 1],
            lossless=lossless,
        )
        for index, clip in enumerate(clips)
    )
    return Chain(id=chain_id(request), request=request, plan=plan, works=tuple(works))


def chain_id(request: ChainRequest) -> str:
    """Return the id of a chain: sixteen hexadecimal digits of a hash of its completed request."""
    return _digest("chain", request)[:16]


def stage_seed(base: int, index: int, stage: ChainStage) -> int:
    """Return the seed of a stage: the chain's seed combined with `seed_offset`, or else with the index of the stage."""
    if stage.seed_offset is not None:
        return base ^ stage.seed_offset
    return (base + index * _SPREAD) % (MAX_SEED + 1)


def _files(folder: Path, key: str, video_key: str, frames: PreviewFrames) -> ClipFiles:
    return ClipFiles(
        latents=folder / f"{key}.safetensors",
        video=folder / f"{video_key}.mp4",
        sound=folder / f"{video_key}.sound.npz",
        faded=folder / f"{video_key}.faded.npz",
        preview=folder / f"{video_key}.preview-{frames.first}-{frames.every}.npz",
    )


def _overlap(plan: ChainPlan, index: int) -> int:
    return plan.overlap if index and plan.stages[index].transition == "smooth" else 0


def _fade_into(stages: Sequence[ChainStage], index: int) -> int:
    return stages[index].fade_frames or 0


def _limits(plan: ChainPlan) -> list[int]:
    """Return how many frames of each clip, after its overlap, are used. Surplus frames of the last clip are not."""
    counts = [emitted + _fade_into(plan.stages, index) for index, emitted in enumerate(plan.emitted)]
    counts[-1] -= plan.rendered_frames - plan.total_frames
    return counts


def _previews(plan: ChainPlan, counts: Sequence[int], fps: int) -> list[PreviewFrames]:
    """Return which frames of each clip are in the GIF preview of the video. `counts`: frames that each clip adds."""
    whole = PreviewFrames.of(plan.total_frames, fps)
    return [whole.after(sum(counts[:index])) for index in range(len(counts))]


def _digest(*values: Any) -> str:
    """Return a hash of wire objects, numbers and text, and of mold's version, which may change the latents."""
    plain = [to_json(value) if attrs.has(type(value)) else value for value in values]
    return hashlib.sha256(json.dumps([VERSION, _LATENTS_VERSION, *plain], sort_keys=True).encode()).hexdigest()[:32]
