"""Leaves a note of the revision and the day in wheels that are built from a checkout; all else is in pyproject.toml."""

import datetime
import json
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithNote(build_py):
    """Builds the packages, and mold_core/build.json beside them, which mold_core.build reads."""

    def run(self) -> None:
        super().run()
        if self.editable_mode or not Path(".git").exists():
            return
        try:
            sha = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], text=True).strip()
        except (OSError, subprocess.SubprocessError):
            return
        note = {"git_sha": sha, "build_date": datetime.datetime.now(datetime.UTC).date().isoformat()}
        Path(self.build_lib, "mold_core", "build.json").write_text(json.dumps(note), "utf-8")


setup(cmdclass={"build_py": BuildWithNote})
