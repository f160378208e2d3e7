"""The flags that only videos have, and what `mold run` makes of them: one clip, or a chain of clips."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mold_core.cli.pictures import read_picture
from mold_core.errors import ValidationError

if TYPE_CHECKING:
    from mold_core.catalog import ModelSpec
    from mold_core.cli.state import AnyEngine
    from mold_core.wire import ChainRequest, GenerateRequest

__all__ = ["chain_of", "makes_videos", "take_video_flags", "video_flags"]

Function = TypeVar("Function", bound=Callable[..., Any])

_CHAIN_ONLY = ("clip_frames", "motion_tail_frames")


def video_flags(function: Function) -> Function:
    """Add the flags to a command."""
    options = [
        click.option("--frames", type=int, help="Frames of a video; more than a clip has make a chain of clips."),
        click.option("--fps", type=int, help="Frames per second."),
        click.option("--audio/--no-audio", "enable_audio", default=None, help="Whether a video has sound."),
        click.option(
            "--keyframe", "keyframes", metavar="FRAME:PATH", multiple=True, help="Picture to show at a frame."
        ),
        click.option("--pipeline", help="How a video is made, for models that know several ways."),
        click.option("--clip-frames", type=int, help="Frames of each clip of a chain."),
        click.option("--motion-tail", "motion_tail_frames", type=int, help="Frames that clips share; default 4."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def take_video_flags(flags: dict[str, Any]) -> dict[str, Any]:
    """Take the flags that only chains have out of a command's, and turn keyframes into what a request carries."""
    flags["keyframes"] = tuple(map(_keyframe, flags["keyframes"])) or None
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
                raise ValidationError(f"--{_flag(name)} is for chains, and {spec.name} makes none", field=name)
        return None
    for name in ("keyframes", "negative_prompt"):
        if getattr(request, name):
            raise ValidationError(
                f"--{_flag(name)} is not for chains of {frames} frames in clips of {clip_frames}",
                field=name,
                hint="write a script, where every stage has its own: mold chain",
            )
    from mold_core.wire import ChainRequest

    fields = ("width", "height", "fps", "seed", "steps", "guidance", "enable_audio", "loras", "embed_metadata")
    tail = chained["motion_tail_frames"]
    return ChainRequest(
        model=spec.name,
        prompt=request.prompt,
        total_frames=frames,
        clip_frames=clip_frames,
        source_image=request.source_image,
        output_format=request.output_format or "mp4",  # type: ignore[arg-type]
        **({} if tail is None else {"motion_tail_frames": tail}),
        **{name: getattr(request, name) for name in fields},
    )


def _keyframe(text: str) -> Any:
    from mold_core.wire import Keyframe

    frame, colon, path = text.partition(":")
    if not colon or not frame.isdigit():
        raise ValidationError(
            f"--keyframe {text!r} must be a frame's number and a picture", field="keyframes", hint="as in 48:boat.png"
        )
    return Keyframe(frame=int(frame), image=read_picture(path, "--keyframe"))


def _flag(name: str) -> str:
    return {"motion_tail_frames": "motion-tail", "keyframes": "keyframe"}.get(name, name.replace("_", "-"))
