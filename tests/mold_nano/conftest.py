"""The world that flux-nano was trained on, and its judge, lie beside the package: they are scripts, not shipped."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "plugins" / "mold_nano" / "training"))
