"""A fake expander, and the conformance check of expanders against `mold_core.hookspecs`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mold_core.catalog import resolve
from mold_core.errors import CancelledError
from mold_core.hookspecs import ExpandContext, Expansion, PromptExpander, Run
from mold_core.plugin_members import completed, member_faults
from mold_core.settings import Settings
from mold_core.testing.conformance import HEAVY_MODULES, RecordedRun

__all__ = ["EchoExpander", "check_expander"]


class EchoExpander(PromptExpander):
    """Returns "PROMPT for FAMILY, SEED". It records expansions in `asked`, and reports `size_bytes`."""

    def __init__(self, name: str = "echo", *, size_bytes: int = 0, error: Exception | None = None) -> None:
        self.name = name
        self.asked: list[Expansion] = []
        self._size_bytes = size_bytes
        self._error = error

    def size_bytes(self, expansion: Expansion, context: ExpandContext) -> int:
        """Return the size passed to the constructor."""
        return self._size_bytes

    def expand(self, expansion: Expansion, context: ExpandContext, run: Run) -> list[str]:
        """Return the prompt with the family, and the seed of each variation."""
        self.asked.append(expansion)
        run.check()
        if self._error is not None:
            raise self._error
        seeds = [(expansion.seed + number) % 2**64 for number in range(expansion.variations)]
        return [f"{expansion.prompt} for {expansion.family}, {seed}" for seed in seeds]


class _Cancelled(RecordedRun):
    def check(self) -> None:
        raise CancelledError("the job was cancelled")


def check_expander(
    expander: PromptExpander,
    *,
    backend: str | None = None,
    families: Sequence[str] = ("a-family-nobody-knows",),
    settings: Settings | None = None,
    models: Any = (),
    locate: Any = None,
    module: str | None = None,
) -> None:
    """Raise AssertionError with the problem if the expander violates its protocol.

    It checks that importing the module is cheap; that the number of prompts is as requested, none blank, for any
    family; that equal expansions give equal prompts, also after others; and that cancellation stops it. `models`
    (specs) and `locate` provide its language models.
    """
    _check_imports(module or type(expander).__module__)
    faults = member_faults(expander, PromptExpander)
    assert not faults, "; ".join(faults)
    expander = completed(expander, PromptExpander)
    with tempfile.TemporaryDirectory(prefix="mold-check-") as folder:
        catalog = {spec.name: spec for spec in models}
        context = ExpandContext(
            settings=settings or Settings(home=Path(folder)),
            models=catalog,
            resolve=lambda name: resolve(name, catalog),
            locate=locate or _nothing_here,
        )
        _check_prompts(expander, context, backend or expander.name, families)


def _check_prompts(expander: PromptExpander, context: ExpandContext, backend: str, families: Sequence[str]) -> None:
    def asked(prompt: str, family: str, variations: int, seed: int) -> list[str]:
        expansion = Expansion(prompt=prompt, family=family, variations=variations, seed=seed, backend=backend)
        expander.check(expansion, context)
        return list(expander.expand(expansion, context, RecordedRun()))

    first = asked("a red house", families[0], 1, 7)
    for family in families:
        for variations in (1, 3, 10):
            prompts = asked("a boat", family, variations, 2**64 - 2)
            assert len(prompts) == variations, f"{len(prompts)} prompts for {variations}, family {family}"
            assert all(isinstance(one, str) and one.strip() for one in prompts), f"blank prompts among {prompts}"
    assert asked("a red house", families[0], 1, 7) == first, "the same expansion gave other prompts after others"
    expansion = Expansion(prompt="a boat", family=families[0], variations=1, seed=1, backend=backend)
    try:
        expander.expand(expansion, context, _Cancelled())
    except CancelledError:
        return
    raise AssertionError("it ignored the cancellation: call run.check() regularly")


def _check_imports(module: str) -> None:
    code = f"import sys, {module}; print(*(name for name in {HEAVY_MODULES!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        assert not done.stdout.split(), f"importing {module} imports {done.stdout.strip()}"


def _nothing_here(spec: Any) -> Any:
    raise AssertionError(f"the expander needs the files of {spec.name}; pass locate=")
