"""What the stages found: kept in a JSON file after each of them, so that a run that was ended can go on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import attrs
from stage_setup import Figures
from stages import STAGES

__all__ = ["Outcome", "Results"]


@attrs.frozen(kw_only=True)
class Outcome:
    """What became of a stage: passed, skipped, failed, "out of time", or "not reached"."""

    status: str
    seconds: float = 0.0
    reason: str = ""
    figures: Figures = attrs.Factory(dict)

    @property
    def over(self) -> bool:
        """Whether the stage need not run again."""
        return self.status in ("passed", "skipped")


@attrs.define(kw_only=True)
class Results:
    """Outcomes by stage, for one device and size, in a file."""

    path: Path
    device: str
    tiny: bool
    outcomes: dict[str, Outcome] = attrs.Factory(dict)

    @classmethod
    def of(cls, path: Path, device: str, tiny: bool) -> Results:
        """Return what an earlier run with the same device and size left in a file, or nothing yet."""
        results = cls(path=path, device=device, tiny=tiny)
        if path.is_file():
            kept: dict[str, Any] = json.loads(path.read_text("utf-8"))
            if (kept["device"], kept["tiny"]) == (device, tiny):
                results.outcomes = {name: Outcome(**fields) for name, fields in kept["stages"].items()}
        return results

    def remaining(self) -> list[str]:
        """Return the stages to run: first those that were never begun, then those that came to no good end."""
        names = [stage.name for stage in STAGES if not self.outcome(stage.name).over]
        return sorted(names, key=lambda name: self.outcome(name).status != "not reached")

    def outcome(self, name: str) -> Outcome:
        """Return what became of a stage."""
        return self.outcomes.get(name, Outcome(status="not reached"))

    def note(self, name: str, outcome: Outcome) -> None:
        """Keep an outcome, in the file too."""
        self.outcomes[name] = outcome
        stages = {key: attrs.asdict(value) for key, value in self.outcomes.items()}
        unfinished = self.path.with_suffix(".part")
        unfinished.write_text(
            json.dumps({"device": self.device, "tiny": self.tiny, "stages": stages}, indent=1, ensure_ascii=False),
            "utf-8",
        )
        os.replace(unfinished, self.path)
