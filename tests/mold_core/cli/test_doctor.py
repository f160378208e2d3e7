"""mold doctor shows code that could not be compiled on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any


def test_code_that_did_not_compile_is_a_note(mold: Callable[..., CompletedProcess[Any]], home: Path) -> None:
    (home / "cache" / "kernels").mkdir(parents=True)
    note = home / "cache" / "kernels" / "Q4_0-bfloat16-cpu.failed"
    note.write_text("Q4_0 is dequantized without compiled code: CompileError: g++ failed\n")
    (finding,) = [found for found in json.loads(mold("doctor", "--json").stdout) if found["about"] == "compiler"]
    assert (finding["state"], finding["words"]) == ("note", note.read_text().strip())
    note.unlink()
    assert not [found for found in json.loads(mold("doctor", "--json").stdout) if found["about"] == "compiler"]
