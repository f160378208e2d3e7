"""A film of two scenes out of a TOML script, and how far it is."""

from pathlib import Path

from mold_core import Engine, ProgressEvent
from mold_core.chains import read_script


def show(event: ProgressEvent) -> None:
    print(type(event).__name__)


with Engine() as engine:
    film = engine.chain(read_script(Path(__file__).with_name("film.toml")), show).video
print(f"{film.save('film.mp4')}: {film.frames} frames of {film.width}x{film.height}")
