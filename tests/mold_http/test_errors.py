"""What the log says of failures."""

from __future__ import annotations

import logging

import pytest

from mold_core.errors import DownloadError, InferenceError, InsufficientMemoryError, MoldError, QueueFullError
from mold_http.errors import log_failure


def _raised(error: MoldError) -> MoldError:
    try:
        try:
            raise OSError("the cause below")
        except OSError as cause:
            raise error from cause
    except MoldError as caught:
        return caught


@pytest.mark.parametrize("kind", [DownloadError, InsufficientMemoryError, QueueFullError])
def test_an_error_that_says_everything_takes_one_line(kind: type[MoldError], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "mold.http"):
        log_failure("job", _raised(kind("the disk is full")), job="j1")
    assert "job failed: the disk is full" in caplog.text
    assert "Traceback" not in caplog.text
    assert caplog.records[0].job == "j1"  # type: ignore[attr-defined]  # by extra


def test_any_other_comes_with_what_led_to_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "mold.http"):
        log_failure("POST /api/generate", _raised(InferenceError("it broke")))
    assert "POST /api/generate failed: it broke" in caplog.text
    assert "the cause below" in caplog.text
