"""Time of `mold --help`, against importing the libraries that any such command line needs."""

from __future__ import annotations

import sys
from pathlib import Path

from common import compare_commands, report


def main() -> None:
    """Compare `mold --help` with `python -c "import click, pluggy, attrs"`, in processor time."""
    mold = str(Path(sys.executable).parent / "mold")
    times = compare_commands(
        [mold, "--help"], [sys.executable, "-c", "import click, pluggy, attrs"], pairs=20, warmup=2
    )
    print(times.describe("mold --help", "import click, pluggy, attrs"))
    report("startup", times.ratio, 1.6, "mold --help ÷ bare imports, processor time", better="lower")


if __name__ == "__main__":
    main()
