"""The lines of progress that a terminal shows, as a person sees them."""

from __future__ import annotations

import re
from io import StringIO

from mold_core.cli.progress import ProgressLine
from mold_core.wire import (
    ChainDenoiseStep,
    ChainStageStart,
    ChainStart,
    DenoiseStep,
    DownloadDone,
    DownloadProgress,
    Info,
    Stitching,
)

CODE = re.compile(r"\x1b\[(\d*)([A-Z])")


class Screen(StringIO):
    """A terminal that understands what the lines are drawn with."""

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        """Return what is on the screen now."""
        shown, row, column = [""], 0, 0
        text, position = self.getvalue(), 0
        while position < len(text):
            code = CODE.match(text, position)
            if code:
                position = code.end()
                if code[2] == "A":
                    row -= int(code[1] or 1)
                    assert row >= 0, "it moves above what it has drawn"
                elif code[2] == "K":
                    assert code[1] == "2"
                    shown[row] = ""
                continue
            character, position = text[position], position + 1
            if character == "\r":
                column = 0
            elif character == "\n":
                row, column = row + 1, 0
                shown += [""] * (row + 1 - len(shown))
            else:
                shown[row] = shown[row].ljust(column)[:column] + character + shown[row][column + 1 :]
                column += 1
        return [line for line in shown if line]


def test_a_chain_has_a_bar_for_the_whole_and_one_for_the_clip() -> None:
    screen = Screen()
    line = ProgressLine(screen)
    line(ChainStart(stage_count=4, estimated_total_frames=200))
    line(ChainStageStart(stage_idx=1))
    whole, clip = screen.lines()
    assert whole == "━" * 6 + "─" * 18 + " clip 2/4" and clip == "─" * 24 + " …"
    line._last_draw = 0
    line(ChainDenoiseStep(stage_idx=1, step=4, total=8))
    whole, clip = screen.lines()
    assert whole.startswith("━" * 9 + "─" * 15 + " clip 2/4  ") and whole.endswith(" left")
    assert clip == "━" * 12 + "─" * 12 + " step 4/8"
    line(Info(message="a word"))
    (only,) = screen.lines()
    assert only.endswith("a word")
    line(Stitching(total_frames=190))
    assert screen.lines()[-1] == "joining 4 clips, 190 frames …"
    line.clear()
    assert len(screen.lines()) == 1


def test_one_clip_has_one_bar() -> None:
    screen = Screen()
    line = ProgressLine(screen)
    line(DenoiseStep(step=2, total=2, elapsed_ms=10))
    assert screen.lines() == ["━" * 24 + " step 2/2  0.0 s left"]


def test_several_files_have_a_bar_each() -> None:
    screen = Screen()
    line = ProgressLine(screen)

    def report(index: int, done: int, batch: int) -> None:
        line(
            DownloadProgress(
                filename=f"file-{index}",
                file_index=index,
                total_files=2,
                bytes_downloaded=done,
                bytes_total=1000,
                batch_bytes_downloaded=batch,
                batch_bytes_total=2000,
            )
        )

    report(1, 500, 500)
    assert len(screen.lines()) == 1
    report(2, 250, 750)
    whole, first, second = screen.lines()
    assert " 37 %  750 of 2.0 kB" in whole or "750 B of 2.0 kB" in whole
    assert first == "━" * 6 + "─" * 6 + "  50 %  1  file-1"
    assert second == "━" * 3 + "─" * 9 + "  25 %  2  file-2"
    line(DownloadDone(filename="file-1", file_index=1, total_files=2))
    report(2, 500, 1500)
    done, whole = screen.lines()
    assert done.endswith("1/2 file-1")
    assert "75 %" in whole
