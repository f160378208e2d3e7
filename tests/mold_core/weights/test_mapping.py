"""Files larger than memory are mapped, on any Python, with and without limits of memory; none of it needs torch."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import mold_core
from mold_core.weights import open_weights

GIB = 2**30


def sparse_file(path: Path, data_bytes: int) -> Path:
    """Write a safetensors file with one tensor of zeros that takes no room on the disk."""
    entry = {"dtype": "U8", "shape": [data_bytes], "data_offsets": [0, data_bytes]}
    header = json.dumps({"big": entry}).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + data_bytes)
    return path


@pytest.fixture
def larger_than_memory(tmp_path: Path) -> Path:
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return sparse_file(tmp_path / "huge.safetensors", 2 * memory_bytes)


def run(code: str, *arguments: object, interpreter: str = sys.executable, **environment: str) -> str:
    done = subprocess.run(
        [interpreter, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def python_of(version: str) -> str | None:
    """Return an interpreter of a version that runs, from the path or pyenv's folder."""
    found = [shutil.which(f"python{version}")]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found += map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}")))
    runs = (one for one in found if one and subprocess.run([one, "-c", ""], capture_output=True).returncode == 0)
    return next(runs, None)


MAPPED = """
import sys
from pathlib import Path
from mold_core.weights.mapping import map_file
mapped = map_file(Path(sys.argv[1]))
assert "torch" not in sys.modules
mapped[-1] = 7  # stays in this process
print(len(mapped), mapped[-1])
"""


def test_a_file_larger_than_memory_is_mapped_and_can_be_written_to_in_memory(larger_than_memory: Path) -> None:
    size_bytes = larger_than_memory.stat().st_size
    assert run(MAPPED, larger_than_memory) == f"{size_bytes} 7"
    with larger_than_memory.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        assert file.read() == b"\0"


@pytest.mark.parametrize("version", ["3.12", "3.13", "3.14"])
def test_other_versions_of_python_map_it_too(larger_than_memory: Path, version: str) -> None:
    interpreter = python_of(version)
    if interpreter is None:
        pytest.skip(f"there is no python{version} here")
    root, pure = Path(mold_core.__file__).parents[1], sys.modules["attr"].__file__
    assert pure is not None
    path = os.pathsep.join((str(root), str(Path(pure).parents[1])))  # attrs is Python alone
    said = run(MAPPED, larger_than_memory, interpreter=interpreter, PYTHONPATH=path)
    assert said == f"{larger_than_memory.stat().st_size} 7"


LIMITED = """
import resource, sys
from pathlib import Path
import torch
from mold_core.weights import open_weights, read_weights
which, limit, path = getattr(resource, sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
resource.setrlimit(which, (limit, limit))
source = open_weights(path)["big"]
if sys.argv[4] == "read":
    print(source.size_bytes, int(source.read()[-1]), int(read_weights(path)["big"][0]))
else:
    print(source.size_bytes)
"""


def test_weights_are_read_under_a_limit_of_data_that_is_smaller_than_the_file(larger_than_memory: Path) -> None:
    said = run(LIMITED, "RLIMIT_DATA", 4 * GIB, larger_than_memory, "read", PYTHONWARNINGS="error")
    assert said.split()[1:] == ["0", "0"]


def test_a_header_is_read_under_a_limit_of_addresses_that_is_smaller_than_the_file(larger_than_memory: Path) -> None:
    said = run(LIMITED, "RLIMIT_AS", 8 * GIB, larger_than_memory, "open")
    assert int(said) > 16 * GIB or int(said) > os.sysconf("SC_PHYS_PAGES")


def test_a_file_that_became_shorter_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = sparse_file(tmp_path / "short.safetensors", 2**20)
    source = open_weights(path)["big"]
    os.truncate(path, 2**19)
    with pytest.raises(mold_core.CheckpointError, match="was truncated while"):
        source.read()
