"""The server knows no kind of job: what is particular to one is declared by its `JobKind`."""

from __future__ import annotations

import re
from pathlib import Path

from mold_core.jobs.kinds import JOB_KINDS

PACKAGE = Path(__file__).parents[2] / "mold_http"

# OpenAI's API has images and videos where mold has kinds of jobs, so its routes translate between them.
TRANSLATES = "openai/"

WORDS = "|".join(JOB_KINDS)
CLASSES = "|".join(cls.__name__ for kind in JOB_KINDS.values() for cls in (kind.request_class, kind.response_class))
KNOWS_A_KIND = re.compile(rf"kind [!=]= \"({WORDS})\"|isinstance\([^)]*\b({CLASSES})\b")


def test_no_module_of_the_server_asks_for_a_kind() -> None:
    paths = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
    found = [
        f"{name}: {line.strip()}"
        for name, path in paths.items()
        if not name.startswith(TRANSLATES)
        for line in path.read_text("utf-8").splitlines()
        if KNOWS_A_KIND.search(line)
    ]
    assert found == []
