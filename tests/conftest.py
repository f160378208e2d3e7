"""Every test has a home of its own and none of the settings of the person who runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

EXECUTABLE = Path(sys.executable).parent / "mold"

# Where nothing may be missing that tests need. It is read now, since every test runs without the settings of mold.
STRICT = bool(os.environ.get("MOLD_TESTS_STRICT"))

# Why a test may be skipped there all the same: what it is about is not of this machine. That a tool, a package or a
# right is missing is no such reason.
OF_ANOTHER_MACHINE = re.compile(
    r"this machine has a GPU|16-bit files take twice their size here|this disk has no such dates|no disk can be mounted"
    r"|only root can mount|a small disk cannot be made|there is no python3\.\d+ here|soak"
)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Let a test fail that is skipped for something missing, where nothing may be missing."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.skipped and STRICT and not hasattr(report, "wasxfail"):
        _refuse_skip(report)


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """The same for whole modules."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.skipped and STRICT:
        _refuse_skip(report)


def _refuse_skip(report: Any) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not OF_ANOTHER_MACHINE.search(reason):
        report.outcome = "failed"
        report.longrepr = f"MOLD_TESTS_STRICT is set, and this was skipped: {reason}"


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The MOLD_HOME of the test; mold makes the folder when it needs it."""
    for name in [name for name in os.environ if name.startswith("MOLD_")] + ["NO_COLOR", "FORCE_COLOR", "COLUMNS"]:
        monkeypatch.delenv(name, raising=False)
    path = tmp_path_factory.mktemp("mold") / "home"
    monkeypatch.setenv("MOLD_HOME", str(path))
    return path


@pytest.fixture(autouse=True)
def seed() -> None:
    """Start every test from the same random numbers of torch, so that a tolerance holds always or never."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def mold_process(tmp_path: Path) -> Callable[..., subprocess.Popen[Any]]:
    """Start the real executable: `mold_process("list", paths=[folder], MOLD_DEVICE="cpu", stdout=PIPE)`.

    It runs in `tmp_path`. `paths` are folders to import from; names in capitals are environment variables; all else
    goes to Popen. Warnings are errors there too.
    """

    def start(*arguments: str | Path, paths: list[Path] | None = None, **options: Any) -> subprocess.Popen[Any]:
        variables = {name: options.pop(name) for name in list(options) if name.isupper()}
        environment = {"MOLD_DEVICE": "cpu", "PYTHONPATH": os.pathsep.join(map(str, paths or ()))}
        environment = {**os.environ, "PYTHONWARNINGS": "error", **environment, **variables}
        options = {"cwd": tmp_path, "env": environment, **options}
        return subprocess.Popen([EXECUTABLE, *arguments], **options)

    return start


@pytest.fixture
def mold(mold_process: Callable[..., subprocess.Popen[Any]]) -> Callable[..., subprocess.CompletedProcess[Any]]:
    """Run the real executable and return what came of it; `stdin` is its standard input."""

    def run(*arguments: str | Path, stdin: Any = None, text: bool = True, **options: Any) -> Any:
        piped = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with mold_process(*arguments, **{**piped, "text": text, **options}) as process:
            out, err = process.communicate(stdin, timeout=120)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    return run
