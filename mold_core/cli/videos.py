"""The flags that only videos have, and what `mold run` makes of them: one clip, or a chain of clips."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import click

from mold_core.cli.images import read_file, read_image
from mold_core.cli.plugin_flags import taken_loras
from mold_core.errors import ValidationError
from mold_core.wire import ChainRequest, GenerateRequest, Keyframe, TimeRange
from mold_core.wire.fields import choices_of, traits_of

if TYPE_CHECKING:
    from mold_core.catalog import ModelSpec
    from mold_core.cli.state import AnyEngine

__all__ = ["chain_of", "makes_videos", "take_video_flags", "video_flags"]

Function = TypeVar("Function", bound=Callable[..., Any])

_CHAIN_ONLY = ("clip_frames", "motion_tail_frames")

# Fields whose flags are not called like them.
_FLAGS = {
    "motion_tail_frames": "motion-tail",
    "keyframes": "keyframe",
    "source_video": "video",
    "retake_range": "retake",
}

# Words of the wire that flags spell otherwise.
_SPELLED = {"a2-vid": "a2vid", "x1-5": "x1.5"}
_WORDS = {spelled: word for word, spelled in _SPELLED.items()}

_REQUEST = attrs.fields_dict(attrs.resolve_types(GenerateRequest))

# Fields that mean the same for a clip and for a chain. The strength of a chain is that of its first clip alone.
_SHARED_WITH_CHAINS = tuple(
    name for name in _REQUEST if name in attrs.fields_dict(ChainRequest) and name not in ("strength", "output_format")
)


def _choice(field: str) -> click.Choice[str]:
    return click.Choice([_SPELLED.get(word, word) for word in choices_of(_REQUEST[field])])


def video_flags(function: Function) -> Function:
    """Add the flags to a command."""
    options = [
        click.option(
            "--frames",
            type=int,
            help="Number of frames. Longer than one clip, and several clips are generated and joined.",
        ),
        click.option("--fps", type=int, help="Frames per second."),
        click.option(
            "--audio/--no-audio", "enable_audio", default=None, help="Generate the video with or without sound."
        ),
        click.option(
            "--keyframe",
            "keyframes",
            metavar="FRAME:PATH",
            multiple=True,
            help="Image that the video shows at this frame. Repeatable.",
        ),
        click.option("--audio-file", metavar="PATH", help="Audio file that drives the video and becomes its sound."),
        click.option(
            "--video",
            "source_video",
            metavar="PATH",
            help="MP4 to continue from, or to regenerate within --retake.",
        ),
        click.option(
            "--retake", "retake_range", metavar="START:END", help="Part of --video to regenerate, in seconds: 1.5:3."
        ),
        click.option("--pipeline", type=_choice("pipeline"), help="Sampling pipeline, for models with several."),
        click.option(
            "--spatial-upscale",
            type=_choice("spatial_upscale"),
            help="Generate at 1/x of the size, then upsample the latents.",
        ),
        click.option(
            "--temporal-upscale",
            type=_choice("temporal_upscale"),
            help="Generate at half the frame rate, then upsample the latents in time.",
        ),
        click.option("--clip-frames", type=int, help="Frames per clip of a chain."),
        click.option(
            "--motion-tail", "motion_tail_frames", type=int, help="Frames that consecutive clips share; default 4."
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def take_video_flags(flags: dict[str, Any]) -> dict[str, Any]:
    """Take the flags that only chains have out of a command's, and turn the others into what a request carries."""
    flags["keyframes"] = tuple(map(_keyframe, flags["keyframes"])) or None
    for name, flag in (("audio_file", "--audio-file"), ("source_video", "--video")):
        if flags[name] is not None:
            flags[name] = read_file(flags[name], flag)
    if flags["retake_range"] is not None:
        flags["retake_range"] = _time_range(flags["retake_range"])
    for name in ("pipeline", "spatial_upscale"):
        flags[name] = _WORDS.get(flags[name], flags[name])
    flags["loras"] = (*(flags["loras"] or ()), *taken_loras()) or None
    return {name: flags.pop(name) for name in _CHAIN_ONLY}


def makes_videos(engine: AnyEngine, spec: ModelSpec) -> bool:
    """Say whether a model makes videos."""
    return "text-to-video" in engine.capabilities(spec)


def chain_of(
    engine: AnyEngine, request: GenerateRequest, spec: ModelSpec, chained: dict[str, Any]
) -> ChainRequest | None:
    """Return the request as a chain where its video is longer than a clip; None where it is one clip.

    Raises ValidationError for what a chain cannot do, or flags of chains for what is none.
    """
    most = engine.chain_frames(spec)
    clip_frames = chained["clip_frames"] or most or 0
    frames = request.frames or spec.defaults.frames or 1
    if most is None or frames <= clip_frames:
        for name, value in chained.items():
            if value is not None and most is None:
                raise ValidationError(f"--{_flag(name)} is for chains, which {spec.name} does not support", field=name)
        return None
    for name, field in _REQUEST.items():
        if traits_of(field).clip_only and getattr(request, name) is not None:
            raise ValidationError(
                f"--{_flag(name)} cannot be used for a chain: {frames} frames in clips of {clip_frames}",
                field=name,
                hint="write a script, which sets it for each stage: mold chain",
            )
    tail = chained["motion_tail_frames"]
    return ChainRequest(
        total_frames=frames,
        clip_frames=clip_frames,
        output_format=request.output_format or "mp4",  # type: ignore[arg-type]
        **({} if tail is None else {"motion_tail_frames": tail}),
        **{name: getattr(request, name) for name in _SHARED_WITH_CHAINS},
    )


def _keyframe(text: str) -> Any:
    frame, colon, path = text.partition(":")
    if not colon or not frame.isdigit():
        raise ValidationError(f"--keyframe {text!r} must be FRAME:PATH", field="keyframes", hint="as in 48:boat.png")
    return Keyframe(frame=int(frame), image=read_image(path, "--keyframe"))


def _time_range(text: str) -> Any:
    start, _, end = text.partition(":")
    try:
        return TimeRange(start_seconds=float(start), end_seconds=float(end))
    except ValueError:
        raise ValidationError(
            f"--retake {text!r} must be START:END in seconds", field="retake_range", hint="as in 1.5:3"
        ) from None


def _flag(name: str) -> str:
    return _FLAGS.get(name, name.replace("_", "-"))
