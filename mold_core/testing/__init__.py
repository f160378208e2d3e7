"""Fakes and conformance checks for the tests of mold and of plugins.

    from mold_core.testing import check_family

    def test_my_family():
        check_family(MyFamily(), MY_SPEC)

Nothing here needs pytest or a network, and only `check_upscaler` needs torch.
"""

from mold_core.testing.conformance import RecordedRun, check_family
from mold_core.testing.engines import FakePlugin, engine_with
from mold_core.testing.expanders import EchoExpander, check_expander
from mold_core.testing.flipbook import FlipbookFamily, FlipbookRenderer, ball_at, flipbook_model
from mold_core.testing.sketch import Gate, SketchFamily, sketch_model
from mold_core.testing.upscalers import check_upscaler

__all__ = [
    "EchoExpander",
    "FakePlugin",
    "FlipbookFamily",
    "FlipbookRenderer",
    "Gate",
    "RecordedRun",
    "SketchFamily",
    "ball_at",
    "check_expander",
    "check_family",
    "check_upscaler",
    "engine_with",
    "flipbook_model",
    "sketch_model",
]
