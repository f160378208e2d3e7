"""A file that mold writes is whole or not there, whatever happens meanwhile."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO

import pytest

from mold_core.errors import OutputError
from mold_core.files import write_whole

OLD, NEW = b"old content", b"new content, longer than the old"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_holds_all_the_bytes_and_has_ordinary_permissions(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.bin", NEW)
    assert (tmp_path / "a.bin").read_bytes() == NEW
    plain = tmp_path / "plain"
    plain.touch()
    assert (tmp_path / "a.bin").stat().st_mode == plain.stat().st_mode
    assert names(tmp_path) == ["a.bin", "plain"]


def test_an_existing_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(OLD)
    write_whole(str(path), NEW)
    assert path.read_bytes() == NEW


def test_a_relative_path_is_written_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_whole("a.bin", NEW)
    assert (tmp_path / "a.bin").read_bytes() == NEW


def test_a_writer_may_seek(tmp_path: Path) -> None:
    def writer(file: BinaryIO) -> None:
        file.write(b"????body")
        file.seek(0)
        file.write(b"head")

    write_whole(tmp_path / "a.bin", writer)
    assert (tmp_path / "a.bin").read_bytes() == b"headbody"


def test_replacing_keeps_a_private_file_private(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(OLD)
    path.chmod(0o600)
    write_whole(path, NEW)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "dotfiles").mkdir()
    target = tmp_path / "dotfiles" / "config.toml"
    target.write_bytes(OLD)
    link = tmp_path / "config.toml"
    link.symlink_to(target)
    write_whole(link, NEW)
    assert link.is_symlink()
    assert target.read_bytes() == NEW
    assert names(tmp_path / "dotfiles") == ["config.toml"]


def test_a_device_is_written_to_and_stays_a_device() -> None:
    write_whole("/dev/null", NEW)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_pipe_receives_the_bytes(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    write_whole(pipe, NEW)
    reader.join(5)
    assert received == [NEW]


# --- replace=False -----------------------------------------------------------------------------------------------


def test_an_existing_file_is_refused_on_demand(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(OLD)
    with pytest.raises(OutputError, match=r"a\.bin': a file with this name already exists; choose another name"):
        write_whole(path, NEW, replace=False)
    assert path.read_bytes() == OLD
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("hard_links", [True, False])
def test_of_many_writers_of_one_new_file_exactly_one_wins(
    hard_links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not hard_links:  # as on exFAT
        monkeypatch.setattr(os, "link", no_links)
    start, won, lost = threading.Barrier(8), [], []

    def write(number: int) -> None:
        start.wait()
        try:
            write_whole(tmp_path / "a.bin", b"%d" % number * 1000, replace=False)
            won.append(number)
        except OutputError:
            lost.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    assert (tmp_path / "a.bin").read_bytes() == b"%d" % won[0] * 1000
    assert names(tmp_path) == ["a.bin"]


# --- failures ----------------------------------------------------------------------------------------------------


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught:
        write_whole(tmp_path / "no" / "a.bin", NEW)
    folder = tmp_path / "no"
    assert str(caught.value) == (
        f"cannot write '{folder}/a.bin': the folder '{folder}' does not exist; create the folder or choose another path"
    )


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="it is a folder; add a file name"):
        write_whole(tmp_path, NEW)


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(OLD)
    with pytest.raises(OutputError, match=r"a\.bin' is not a folder"):
        write_whole(tmp_path / "a.bin" / "b.bin", NEW)


@pytest.mark.parametrize(
    ("name", "words"), [("x" * 300, "the name is too long"), ("a\0b", "a path cannot contain NUL characters")]
)
def test_an_impossible_name_is_refused(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=words):
        write_whole(tmp_path / name, NEW)
    assert names(tmp_path) == []


def test_a_full_device_is_reported() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with pytest.raises(OutputError, match="'/dev/full': the disk is full; free some space"):
        write_whole("/dev/full", NEW)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_a_writer_that_stops_half_way_changes_nothing(interruption: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(OLD)

    def writer(file: BinaryIO) -> None:
        file.write(b"half")
        file.flush()
        raise interruption

    with pytest.raises(interruption):
        write_whole(path, writer)
    assert path.read_bytes() == OLD
    assert names(tmp_path) == ["a.bin"]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def run(
    script: str, *arguments: object, prefix: tuple[str, ...] = (), cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    command = [*prefix, sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=ENVIRONMENT, cwd=cwd)


REPLACE_UNDER_LIMIT = """
import resource, sys
from mold_core.errors import OutputError
from mold_core.files import write_whole
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_whole(sys.argv[1], bytes(1_000_000))
except OutputError as error:
    print(error)
"""


def test_a_file_over_the_size_limit_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(OLD)
    answer = run(REPLACE_UNDER_LIMIT, path)
    assert answer.stdout == (
        f"cannot write '{path}': the file is larger than this disk or `ulimit -f` allows;"
        " raise the limit or choose another disk\n"
    ), answer.stderr
    assert path.read_bytes() == OLD
    assert names(tmp_path) == ["a.bin"]


ON_SMALL_DISK = """
import os, subprocess, sys
from pathlib import Path
from mold_core.errors import OutputError
from mold_core.files import write_whole
disk = Path(sys.argv[1])
if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True).returncode:
    sys.exit("no mount")
path = disk / "a.bin"
write_whole(path, b"old content")
try:
    write_whole(path, bytes(1_000_000))
except OutputError as error:
    print(error)
print(path.read_bytes(), os.listdir(disk))
subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
try:
    write_whole(path, b"new content")
except OutputError as error:
    print(error)
print(path.read_bytes(), os.listdir(disk))
"""


def test_a_full_or_read_only_disk_keeps_the_old_file(tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare here")
    answer = run(ON_SMALL_DISK, tmp_path, prefix=("unshare", "--user", "--map-root-user", "--mount"))
    if answer.returncode:
        pytest.skip(f"a small disk cannot be made here: {answer.stderr.strip().splitlines()[-1:]}")
    path = tmp_path / "a.bin"
    assert answer.stdout.splitlines() == [
        f"cannot write '{path}': the disk is full; free some space or choose a path on another disk",
        "b'old content' ['a.bin']",
        f"cannot write '{path}': the disk is read-only; choose a path on a disk that can be written to",
        "b'old content' ['a.bin']",
    ]


AS_NOBODY = """
import os, sys
from mold_core.errors import OutputError
from mold_core.files import write_whole
if os.getuid() == 0:
    os.setuid(65534)
for path in sys.argv[1:]:
    try:
        write_whole(path, b"new content")
    except OutputError as error:
        print(error)
"""


def test_a_locked_folder_and_a_read_only_file_are_respected(tmp_path: Path) -> None:
    locked, opened = tmp_path / "locked", tmp_path / "open"
    for folder in (locked, opened):
        folder.mkdir()
    path = opened / "a.bin"
    path.write_bytes(OLD)
    path.chmod(0o444)
    opened.chmod(0o777)
    locked.chmod(0o555)
    tmp_path.chmod(0o755)
    answer = run(AS_NOBODY, "locked/b.bin", "open/a.bin", cwd=tmp_path)
    assert answer.stdout.count("permission denied; make it and its folder") == 2, answer.stderr
    assert path.read_bytes() == OLD
    assert (names(locked), names(opened)) == ([], ["a.bin"])


# --- killed writers ----------------------------------------------------------------------------------------------

REWRITE_FOREVER = """
import hashlib, itertools, sys
from mold_core.files import write_whole
for number in itertools.count():
    body = b"%d" % number * 60_000
    write_whole(sys.argv[1], hashlib.sha256(body).digest() + body)
    if number == 0:
        print("ready", flush=True)
"""


def test_a_killed_writer_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    dice = random.Random(20)
    for _ in range(20):
        with subprocess.Popen(
            [sys.executable, "-S", "-c", REWRITE_FOREVER, path],
            stdout=subprocess.PIPE,
            env=ENVIRONMENT,
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            time.sleep(dice.uniform(0, 0.03))
            writer.send_signal(signal.SIGKILL)
        content = path.read_bytes()
        assert hashlib.sha256(content[32:]).digest() == content[:32]
    leftovers = [name for name in names(tmp_path) if name != "a.bin"]
    assert all(name.startswith(".mold-") and name.endswith(".part") for name in leftovers)


def test_abandoned_parts_are_removed_after_a_day_and_nothing_else_is(tmp_path: Path) -> None:
    mine, fresh = tmp_path / f".mold-{'0a' * 8}.part", tmp_path / f".mold-{'0b' * 8}.part"
    others = [tmp_path / name for name in (".other.part", "mold-0a0a0a0a0a0a0a0a.part", ".mold-short.part")]
    two_days_ago = time.time() - 2 * 24 * 3600
    for path in [mine, fresh, *others]:
        path.write_bytes(b"half")
        if path != fresh:
            os.utime(path, (two_days_ago, two_days_ago))
    write_whole(tmp_path / "a.bin", NEW)
    assert names(tmp_path) == sorted(["a.bin", fresh.name, *(path.name for path in others)])
