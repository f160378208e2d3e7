"""A film of two scenes out of a TOML script, and how far it is. The family is a toy; real ones are asked alike."""

from pathlib import Path

from mold_core import Engine, ProgressEvent, Settings, load_plugins
from mold_core.chains import read_script
from mold_core.testing import FakePlugin, FlipbookFamily, FlipbookRenderer, flipbook_model


def show(event: ProgressEvent) -> None:
    print(type(event).__name__)


toy = FakePlugin(families=[FlipbookFamily()], models=[flipbook_model()], chain_renderers=[FlipbookRenderer()])
with Engine(Settings.load(), load_plugins(extra=[("toy", toy)])) as engine:
    film = engine.chain(read_script(Path(__file__).with_name("film.toml")), show).video
print(f"{film.save('film.mp4')}: {film.frames} frames of {film.width}x{film.height}")
