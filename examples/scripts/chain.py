"""A video of two clips from a TOML script, with its progress."""

from pathlib import Path

from mold_core import Engine, ProgressEvent
from mold_core.chains import read_script


def show(event: ProgressEvent) -> None:
    print(type(event).__name__)


with Engine() as engine:
    video = engine.chain(read_script(Path(__file__).with_name("video.toml")), show).video
print(f"{video.save('video.mp4')}: {video.frames} frames of {video.width}x{video.height}")
