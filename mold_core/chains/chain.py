"""A chain as a row of clips, each with a key that says all it was made from, so that what is on disk is used again."""

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

# 2^64 divided by the golden ratio: seeds of neighbouring stages lie far apart (Knuth, TAOCP 3, §6.4).
_SPREAD = 0x9E3779B97F4A7C15

# Goes up when what a renderer keeps of a clip changes.
_LATENTS_VERSION = 2


@attrs.frozen(kw_only=True)
class Chain:
    """A chain that can run: its clips in order, and where they lie. `id` is the same for the same request."""

    id: str
    request: ChainRequest
    plan: ChainPlan
    works: tuple[ClipWork, ...]

    @property
    def first_missing(self) -> int:
        """The number of the first clip that is not rendered; the number of clips when all are."""
        return next((index for index, work in enumerate(self.works) if not work.files.rendered), len(self.works))

    @property
    def ready(self) -> tuple[ClipWork, ...]:
        """The clips whose frames can be decoded and are not yet."""
        return tuple(work for work in self.works if work.ready)


def lay_out(
    request: ChainRequest,
    plan: ChainPlan,
    clips: Sequence[GenerateRequest],
    folder: Path,
    weights: Sequence[str] = (),
) -> Chain:
    """Return the chain of a complete request; `clips` are the complete requests of its stages, seeds included.

    `weights` tells the model's files from others of their names.

    Files of clips are named by all that their content depends on, the clips before them included, and those of frames
    by the clip that goes on from them, too: a chain that is asked for again, or with its later stages changed, finds
    the clips that it has in common with the first.
    """
    lossless = request.output_format != "mp4"
    overlaps = [*(_overlap(plan, index) for index in range(len(clips))), 0]  # a last one, for what follows nothing
    fades = [*(_fade_into(plan.stages, index) for index in range(len(clips))), 0]
    keys: list[str] = []
    for index, clip in enumerate(clips):
        keys.append(_digest("clip", clip, overlaps[index], keys[-1] if overlaps[index] else "", list(weights)))
    files: list[ClipFiles] = []
    limits = _limits(plan)
    shown = _shown(plan, [limit - fade for limit, fade in zip(limits, fades[1:], strict=True)], clips[0].fps or 1)
    for index, key in enumerate(keys):
        going_on = keys[index + 1] if overlaps[index + 1] else ""
        faded = files[-1].faded.name if fades[index] else ""
        part = _digest("part", key, going_on, limits[index], fades[index], fades[index + 1], lossless, faded)
        files.append(_files(folder, key, part, shown[index]))
    works = (
        ClipWork(
            request=clip,
            files=files[index],
            before=files[index - 1] if index else None,
            overlap=overlaps[index],
            after=files[index + 1] if overlaps[index + 1] else None,
            frames=limits[index],
            shown=shown[index],
            fade_in=fades[index],
            fade_out=fades[index + 1],
            lossless=lossless,
        )
        for index, clip in enumerate(clips)
    )
    return Chain(id=chain_id(request), request=request, plan=plan, works=tuple(works))


def chain_id(request: ChainRequest) -> str:
    """Return the name of a chain: sixteen hexadecimal digits that follow from its complete request."""
    return _digest("chain", request)[:16]


def stage_seed(base: int, index: int, stage: ChainStage) -> int:
    """Return the seed of a stage: its `seed_offset` mixed into the chain's seed, or else its number."""
    if stage.seed_offset is not None:
        return base ^ stage.seed_offset
    return (base + index * _SPREAD) % (MAX_SEED + 1)


def _files(folder: Path, key: str, part: str, shown: PreviewFrames) -> ClipFiles:
    return ClipFiles(
        latents=folder / f"{key}.safetensors",
        part=folder / f"{part}.mp4",
        sound=folder / f"{part}.sound.npz",
        faded=folder / f"{part}.faded.npz",
        preview=folder / f"{part}.preview-{shown.first}-{shown.every}.npz",
    )


def _overlap(plan: ChainPlan, index: int) -> int:
    return plan.overlap if index and plan.stages[index].transition == "smooth" else 0


def _fade_into(stages: Sequence[ChainStage], index: int) -> int:
    return stages[index].fade_frames or 0


def _limits(plan: ChainPlan) -> list[int]:
    """Return how many frames of each clip, after its overlap, are used: all but for what is cut off the end."""
    counts = [emitted + _fade_into(plan.stages, index) for index, emitted in enumerate(plan.emitted)]
    counts[-1] -= plan.rendered_frames - plan.total_frames
    return counts


def _shown(plan: ChainPlan, kept: Sequence[int], fps: int) -> list[PreviewFrames]:
    """Return which frames of each clip are in the GIF preview of the whole, by how many are kept of each."""
    whole = PreviewFrames.of(plan.total_frames, fps)
    return [whole.after(sum(kept[:index])) for index in range(len(kept))]


def _digest(*parts: Any) -> str:
    """Return a hash of wire objects, numbers and text, and of the versions: others may make other latents of them."""
    plain = [to_json(part) if attrs.has(type(part)) else part for part in parts]
    return hashlib.sha256(json.dumps([VERSION, _LATENTS_VERSION, *plain], sort_keys=True).encode()).hexdigest()[:32]
