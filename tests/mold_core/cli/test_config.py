"""mold config and mold default: config.toml changed key by key, and nothing else in it."""

from __future__ import annotations

import codecs
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from mold_core.config_file import change_key, change_table
from mold_core.errors import SettingsError

Mold = Callable[..., CompletedProcess[Any]]

FILE = """\
# mine
queue_size = 9  # few

[expand]
# warm
temperature = 0.5
"""


@pytest.fixture
def file(home: Path) -> Path:
    """A config.toml with comments."""
    home.mkdir(parents=True, exist_ok=True)
    path = home / "config.toml"
    path.write_text(FILE)
    return path


def test_a_value_is_changed_where_it_stands(file: Path) -> None:
    change_key(file, "queue_size", 12)
    change_key(file, "expand.temperature", 0.9)
    assert file.read_text() == FILE.replace("= 9", "= 12").replace("0.5", "0.9")


def test_a_key_comes_at_the_end_of_its_table_and_a_table_at_the_end(file: Path) -> None:
    change_key(file, "default_model", 'a "model"')
    change_key(file, "expand.model", "ö")
    change_key(file, "upscale.tile_size", 256)
    assert file.read_text() == (
        '# mine\nqueue_size = 9  # few\ndefault_model = "a \\"model\\""\n\n[expand]\n# warm\ntemperature = 0.5\n'
        'model = "ö"\n\n[upscale]\ntile_size = 256\n'
    )


def test_a_key_is_taken_out_and_one_that_is_not_there_is_no_trouble(file: Path) -> None:
    change_key(file, "queue_size", None)
    change_key(file, "default_model", None)
    assert file.read_text() == FILE.replace("queue_size = 9  # few\n", "")


LAYOUTS = [
    ("gpus = [\n  '0', # first\n]\n", "gpus", ("1",), 'gpus = ["1"]\n'),
    ("gpus = [\n  '0', # first\n]\nthreads = 2\n", "gpus", None, "threads = 2\n"),
    ("expand = {model = 'x'} # mine\n", "expand.model", "y", 'expand = {model = "y"} # mine\n'),
    ("expand = {model = 'x'}\n", "expand.model", None, "expand = {}\n"),
    ("'gpus' = ['0']\n", "gpus", ("1",), "'gpus' = [\"1\"]\n"),
    ("expand.model = 'x' # mine\nthreads = 2\n", "expand.model", "y", 'expand.model = "y" # mine\nthreads = 2\n'),
    ("expand.model='x'\nthreads=2\n", "expand.top_p", 0.5, "expand.model='x'\nexpand.top_p = 0.5\nthreads=2\n"),
    ('a = """\n[expand]\n"""\n', "queue_size", 3, 'a = """\n[expand]\n"""\nqueue_size = 3\n'),
    ("[expand]\n\n# the end\n", "queue_size", 3, "queue_size = 3\n\n[expand]\n\n# the end\n"),
    ("queue_size = 9 # few", "expand.model", "x", 'queue_size = 9 # few\n\n[expand]\nmodel = "x"\n'),
    ("[models.a]\nlike='b'\n[expand]\n[models.c]\nlike='d'\n", "expand.model", "x",
     "[models.a]\nlike='b'\n[expand]\nmodel = \"x\"\n[models.c]\nlike='d'\n"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "key", "value", "expected"), LAYOUTS)
def test_any_layout_is_changed_in_its_place(file: Path, text: str, key: str, value: object, expected: str) -> None:
    file.write_text(text)
    change_key(file, key, value)
    assert file.read_text() == expected


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8], ids=["no mark", "byte order mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_the_byte_order_mark_and_the_line_ends_of_a_file_stay(file: Path, mark: bytes, end: str) -> None:
    file.write_bytes(mark + FILE.replace("\n", end).encode())
    change_key(file, "threads", 3)
    change_key(file, "upscale.tile_size", 256)
    expected = FILE.replace("# few\n", "# few\nthreads = 3\n") + "\n[upscale]\ntile_size = 256\n"
    assert file.read_bytes() == mark + expected.replace("\n", end).encode()


TABLES = [
    "",
    "[models.'a:b']\nlike = 'x' # kept\n",
    "[models.'a:b']\nlike = 'x' # kept\nplacement = { vae = 'cpu' }\n",
    "models.'a:b'.like = 'x' # kept\n",
    "models = { 'a:b' = { like = 'x' } } # kept\n",
    "[models.'a:b'.placement]\nvae = 'cpu'\n\n[models.'a:b']\nlike = 'x' # kept\n",
    "[models.c]\nlike = 'x' # kept\n\n[expand]\n\n[models.'a:b'.placement]\nvae = 'cpu'\n",
]


@pytest.mark.parametrize("text", TABLES)
def test_a_table_is_written_replaced_and_removed_wherever_it_stands(file: Path, text: str) -> None:
    file.write_text(text)
    before = tomllib.loads(text).get("models", {})
    keys, placement = ("models", "a:b", "placement"), {"vae": "cuda:0", "advanced": {"transformer": "cpu"}}
    change_table(file, keys, placement)
    after = tomllib.loads(file.read_text())
    assert after["models"] == {**before, "a:b": {**before.get("a:b", {}), "placement": placement}}
    change_table(file, keys, None)
    after = tomllib.loads(file.read_text()).get("models", {})
    assert "placement" not in after.get("a:b", {})
    assert after.get("a:b", {}).get("like") == before.get("a:b", {}).get("like")
    assert ("# kept" in text) == ("# kept" in file.read_text())


def test_a_value_that_should_be_a_table_is_named_and_kept(file: Path) -> None:
    file.write_text("expand = 3\n")
    with pytest.raises(SettingsError, match="expand must be a table"):
        change_key(file, "expand.model", "x")
    assert file.read_text() == "expand = 3\n"


def test_settings_are_set_listed_explained_and_reset(sketch_inside: Mold, file: Path) -> None:
    assert sketch_inside("config", "set", "expand.temperature", "0.75").stdout == "expand.temperature = 0.75\n"
    assert sketch_inside("config", "get", "MOLD_EXPAND_TEMPERATURE", "--raw").stdout == "0.75\n"
    listed = json.loads(sketch_inside("config", "list", "--json").stdout)
    assert listed["expand.temperature"] == {"value": 0.75, "from": "expand.temperature in config.toml"}
    assert listed["device"]["from"] == "MOLD_DEVICE"
    assert sketch_inside("config", "where", "server_port").stdout == "default\n"
    assert sketch_inside("config", "reset", "expand.temperature").returncode == 0
    assert file.read_text() == FILE.replace("temperature = 0.5\n", "")


def test_a_key_that_is_secret_is_not_shown(sketch_inside: Mold, file: Path) -> None:
    assert sketch_inside("config", "set", "api_key", "s3cret").stdout == "api_key = <set>\n"
    assert "s3cret" not in sketch_inside("config", "list").stdout + sketch_inside("config", "list", "--json").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("set", "queue_size", "0"), "queue_size must be from 1 to 100000, not 0"),
        (("get", "queue_sise"), "unknown setting 'queue_sise'; did you mean queue_size?"),
    ],
)
def test_what_cannot_be_is_said(sketch_inside: Mold, file: Path, arguments: tuple[str, ...], words: str) -> None:
    done = sketch_inside("config", *arguments)
    assert (done.returncode, done.stderr) == (2, f"error: {words}\n")
    assert file.read_text() == FILE


def test_the_default_model_is_set_and_said_with_its_reason(sketch_inside: Mold, home: Path) -> None:
    assert sketch_inside("default").stdout == "sketch:v1  (only downloaded)\n"
    done = sketch_inside("default", "far")
    assert (done.stdout, "mold pull far:q8" in done.stderr) == ("far:q8\n", True)
    assert sketch_inside("default").stdout == "far:q8  (default_model in config.toml)\n"
    assert sketch_inside("default", "nosuch").returncode == 1
