"""What is unfinished is removed by a program that ends at once, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mold_core.unfinished import remove_unfinished, unfinished

PROGRAM = """
import sys
import tempfile
from mold_core.cli.interrupt import exit_now
from mold_core.files import write_whole
from mold_core.unfinished import unfinished

def write(file):
    file.write(b"half")
    file.flush()
    with tempfile.TemporaryDirectory(dir=sys.argv[1]) as folder, unfinished(folder):
        print("said", end="")
        exit_now(130)

write_whole(sys.argv[1] + "/whole.png", b"whole")
write_whole(sys.argv[1] + "/half.png", write)
"""


def test_a_program_that_ends_at_once_leaves_what_is_whole_and_has_said_what_it_said(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], stdout=subprocess.PIPE, check=False)
    assert (done.returncode, done.stdout) == (130, b"said")
    assert os.listdir(tmp_path) == ["whole.png"]


def test_what_is_finished_stays(tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.touch()
    (folder / "inside").mkdir(parents=True)
    with unfinished(file), unfinished(folder):
        pass
    remove_unfinished()
    assert file.exists() and folder.exists()
    with unfinished(file), unfinished(folder), unfinished(tmp_path / "not there"):
        remove_unfinished()
    assert not file.exists() and not folder.exists()
