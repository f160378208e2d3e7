"""mold list, info, plugins, version and the help page."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from mold_core import __version__

Mold = Callable[..., CompletedProcess[Any]]


def output(done: CompletedProcess[str]) -> str:
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


# --- models ------------------------------------------------------------------------------------------------------


def test_list_shows_what_is_here_and_what_could_be(sketch: Mold) -> None:
    here, elsewhere = output(sketch("list")).split("Available to download:")
    assert here.startswith("Downloaded:\n★ sketch:v1 ")
    assert "far:q8" in elsewhere


def test_list_as_json_is_for_programs(sketch: Mold) -> None:
    models = {model["name"]: model for model in json.loads(output(sketch("list", "--json")))}
    assert models["sketch:v1"] == {
        "name": "sketch:v1",
        "family": "sketch",
        "description": "Rectangles for tests",
        "licence": None,
        "downloaded": True,
        "embedded": False,
        "default": True,
        "size_bytes": 0,
        "width": 32,
        "height": 32,
        "steps": 2,
        "guidance": 1.0,
    }
    assert (models["far:q8"]["downloaded"], models["far:q8"]["default"]) == (False, False)


def test_list_without_plugins_says_why_it_is_empty(sketch: Mold) -> None:
    assert output(sketch("--no-plugins", "list")) == "No models: no loaded plugin provides any (mold plugins).\n"
    assert json.loads(output(sketch("--no-plugins", "list", "--json"))) == []


def test_info_shows_a_model_and_where_its_files_lie(sketch: Mold, home: Path) -> None:
    text = output(sketch("info", "far"))
    rows = dict(line.split("  ", 1) for line in text.splitlines() if "  " in line)
    assert rows["name"].strip() == "far:q8"
    assert rows["image"].strip() == "32x32, 2 steps, guidance 1"
    assert rows["downloaded"].strip() == "no, 1 missing"
    assert f"✗ weights                    {home}/models/far-q8/weights" in text


def test_info_as_json_is_for_programs(sketch: Mold, home: Path) -> None:
    model = json.loads(output(sketch("info", "far", "--json")))
    assert (model["name"], model["downloaded"]) == ("far:q8", False)
    (file,) = model["files"]
    assert (file["path"], file["here"]) == (f"{home}/models/far-q8/weights", False)


def test_info_of_an_unknown_model_suggests_the_nearest(sketch: Mold) -> None:
    done = sketch("info", "skech")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: unknown model 'skech'; nearest: sketch:v1 (mold list shows all)\n"


def test_info_without_a_model_shows_the_installation(sketch: Mold, home: Path) -> None:
    shown = json.loads(output(sketch("info", "--json")))
    assert (shown["mold"], shown["home"]) == (__version__, str(home))
    assert shown["default model"] == "sketch:v1 (only downloaded)"
    text = output(sketch("info"))
    assert f"config         {home}/config.toml (none)" in text


def test_info_works_where_there_is_no_model_at_all(sketch: Mold) -> None:
    assert "default model  none: no model was named and none is installed" in output(sketch("--no-plugins", "info"))


# --- plugins -----------------------------------------------------------------------------------------------------


def test_plugins_shows_what_each_brings(sketch: Mold) -> None:
    text = output(sketch("plugins"))
    assert "● sketch 1.0  sketch_plugin\n    family: sketch\n    model: sketch:v1, far:q8\n" in text


def test_plugins_shows_what_was_left_out_and_what_is_missing(sketch: Mold) -> None:
    assert "○ sketch 1.0  sketch_plugin\n    disabled by MOLD_PLUGINS" in output(sketch("plugins", MOLD_PLUGINS="gone"))
    assert "✗ gone" in output(sketch("plugins", MOLD_PLUGINS="gone"))


def test_a_plugin_may_add_commands(sketch: Mold) -> None:
    assert re.search(r"^  scribble +Scribble on standard output\.$", output(sketch("--help")), re.MULTILINE)
    assert output(sketch("scribble")) == "~~~\n"


def test_without_plugins_their_commands_are_not_there(sketch: Mold) -> None:
    assert "scribble" not in output(sketch("--no-plugins", "--help"))


def test_the_help_page_remembers_the_commands_of_plugins_until_one_changes(
    sketch: Mold, site: Path, home: Path
) -> None:
    first, second = (sketch("--help", SKETCH_GREETS="1") for _ in "12")
    assert (first.stderr, second.stderr) == ("imported\n", "")
    assert first.stdout == second.stdout
    os.utime(site / "sketch_plugin.py")
    assert sketch("--help", SKETCH_GREETS="1").stderr == "imported\n"
    (home / "cache" / "commands.json").write_text("{")
    assert "scribble" in output(sketch("--help"))


def test_a_plugin_whose_commands_break_costs_only_those(sketch: Mold) -> None:
    done = sketch("--help", SKETCH_BREAKS="1")
    assert done.returncode == 0
    assert done.stderr == "warning: plugin sketch could not add its commands: no commands today\n"
    assert "scribble" not in done.stdout
    assert sketch("list", SKETCH_BREAKS="1").returncode == 0


# --- the rest ----------------------------------------------------------------------------------------------------


def test_version_is_said_three_ways(sketch: Mold) -> None:
    assert output(sketch("version")) == output(sketch("--version")) == f"mold {__version__}\n"
    told = json.loads(output(sketch("version", "--json")))
    assert told.pop("version") == __version__
    assert told.keys() <= {"git_sha", "build_date"}


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_names_every_command_and_shows_examples(sketch_inside: Mold, arguments: tuple[str, ...]) -> None:
    text = output(sketch_inside(*arguments))
    for command in ("run", "list", "info", "pull", "plugins", "version"):
        assert f"\n  {command} " in text
    assert 'mold run "a red house under a yellow moon"' in text


@pytest.mark.parametrize("command", ["run", "list", "info", "pull", "plugins", "version"])
def test_every_command_explains_itself(sketch_inside: Mold, command: str) -> None:
    text = output(sketch_inside(command, "--help"))
    assert text.startswith(f"Usage: mold {command} ")


def test_help_fits_a_narrow_terminal(sketch: Mold) -> None:
    text, _, examples = output(sketch("--help", COLUMNS="40")).partition("Examples:")
    assert examples
    assert max(map(len, text.splitlines())) <= 50  # Click folds at 50 on anything narrower


def test_a_misspelt_command_suggests_the_right_one(sketch: Mold) -> None:
    done = sketch("lst")
    assert (done.returncode, done.stdout) == (2, "")
    assert "unknown command 'lst'; did you mean 'list'?" in done.stderr


def test_an_unknown_option_is_a_usage_error(sketch: Mold) -> None:
    assert sketch("run", "--colour").returncode == 2
