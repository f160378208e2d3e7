"""Settings come from the right place, and a bad one says where it came from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mold_core import Settings, SettingsError, load_plugins
from mold_core.cli.settings_page import settings_page
from mold_core.settings import Setting, setting_table

ROOT = Path(__file__).parents[2]


NO_PLUGINS = load_plugins(found=())


def load(home: Path, config: str = "", flags: Any = None, **environ: str) -> Settings:
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(config, "utf-8")
    return NO_PLUGINS.read_settings(Settings.load(flags, {"MOLD_HOME": str(home), **environ}))


# One setting of every type: name, text of the variable, TOML of the file, and what each source gives:
# flag, variable, file, default.
SOURCES = [
    ("models_dir", "/env", '"/file"', Path("/flag"), Path("/env"), Path("/file"), None),
    ("default_model", "env", '"file"', "flag", "env", "file", None),
    ("plugins", "a, b,", '["c"]', ("f",), ("a", "b"), ("c",), None),
    ("device", "CPU", '"mps"', "cuda", "cpu", "mps", "auto"),
    ("memory_budget_gb", "2.5", "3", 1.0, 2.5, 3.0, None),
    ("threads", "2", "3", 1, 2, 3, None),
    ("queue_size", "2", "3.0", 1, 2, 3, 200),
    ("embed_metadata", "off", "false", False, False, False, True),
    ("log_level", "warn", '"info"', "debug", "warning", "info", "warning"),
]


@pytest.mark.parametrize(("name", "env", "file", "flag", "from_env", "from_file", "default"), SOURCES)
def test_flag_beats_variable_beats_file_beats_default(
    home: Path, name: str, env: str, file: str, flag: Any, from_env: Any, from_file: Any, default: Any
) -> None:
    row = next(row for row in setting_table() if row.name == name)
    config = f"{row.key} = {file}"
    assert getattr(load(home, config, {name: flag}, **{row.env: env}), name) == flag
    assert getattr(load(home, config, {name: None}, **{row.env: env}), name) == from_env
    assert getattr(load(home, config, **{row.env: ""}), name) == from_file
    assert getattr(load(home), name) == default


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("MOLD_DEVICE", "tpu", "must be one of auto, cpu, cuda, mps, not 'tpu'"),
        ("MOLD_THREADS", "many", "must be a whole number, not 'many'"),
        ("MOLD_THREADS", "2.5", "must be a whole number, not '2.5'"),
        ("MOLD_THREADS", "0", "must be from 1 to 1024, not 0"),
        ("MOLD_QUEUE_SIZE", "1e3", "must be a whole number, not '1e3'"),
        ("MOLD_MEMORY_BUDGET_GB", "nan", "must be a finite number, not nan"),
        ("MOLD_MEMORY_BUDGET_GB", "1e999", "must be a finite number, not inf"),
        ("MOLD_MEMORY_BUDGET_GB", "16 GB", "must be a number, not '16 GB'"),
        ("MOLD_EMBED_METADATA", "perhaps", "must be true or false, not 'perhaps'"),
        ("MOLD_LOG", "loud", "must be one of debug, info, warning, error, not 'loud'"),
    ],
)
def test_a_bad_variable_is_named(home: Path, variable: str, value: str, problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(home, **{variable: value})
    assert str(caught.value) == f"{variable} {problem}"


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ("threads = 2.5", "threads in config.toml must be a whole number, not 2.5"),
        ("threads = true", "threads in config.toml must be a whole number, not True"),
        ("threads = inf", "threads in config.toml must be a whole number, not inf"),
        ("threads = nan", "threads in config.toml must be a whole number, not nan"),
        ("threads = [1]", "threads in config.toml must be a whole number, not [1]"),
        ("queue_size = 0", "queue_size in config.toml must be from 1 to 100000, not 0"),
        ("memory_budget_gb = false", "memory_budget_gb in config.toml must be a number, not False"),
        ("models_dir = 5", "models_dir in config.toml must be a path, not 5"),
        ("default_model = 5", "default_model in config.toml must be text, not 5"),
        ("plugins = [1]", "plugins in config.toml must be a list of names, not [1]"),
        ("plugins = 1", "plugins in config.toml must be a list of names, not 1"),
        ("device = ['cpu']", "device in config.toml must be one of auto, cpu, cuda, mps, not ['cpu']"),
        ("embed_metadata = 2", "embed_metadata in config.toml must be true or false, not 2"),
        (
            "[logging]\nlevel = 'loud'",
            "logging.level in config.toml must be one of debug, info, warning, error, not 'loud'",
        ),
    ],
)
def test_a_bad_entry_of_the_file_is_named(home: Path, config: str, problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(home, config)
    assert str(caught.value) == problem


def test_a_bad_flag_is_named(home: Path) -> None:
    with pytest.raises(SettingsError, match=r"^--device must be one of auto, cpu, cuda, mps, not 'tpu'$"):
        load(home, flags={"device": "tpu"})


def test_the_error_names_setting_and_value(home: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load(home, MOLD_THREADS="many")
    assert (caught.value.field, caught.value.value) == ("threads", "many")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"threads = ", 1),
        (b"\n\nthreads", 3),
        (b"threads = 2\n[a\n", 2),
        (b"a = 1\na = 2", 2),
        (b"plugins = [\n  'a',\n", 2),
        (b'title = "a\n', 1),
        ("# é\nthreads = 2 # zwölf\n".encode("latin-1"), 1),
        (b"threads = 2\n# \x84quoted\x93\n", 2),
        ("threads = 2\n".encode("utf-16"), 1),
    ],
)
def test_a_file_that_is_not_toml_is_named_with_its_line(home: Path, content: bytes, line: int) -> None:
    home.mkdir()
    (home / "config.toml").write_bytes(content)
    with pytest.raises(SettingsError, match=rf"{home}/config\.toml is not valid TOML: line {line}: .*; "):
        Settings.load({}, {"MOLD_HOME": str(home)})


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_file_with_a_byte_order_mark_is_read(home: Path, ending: str) -> None:
    home.mkdir()
    (home / "config.toml").write_bytes(f"threads = 3{ending}plugins = ['sketch']{ending}".encode("utf-8-sig"))
    settings = Settings.load({}, {"MOLD_HOME": str(home)})
    assert (settings.threads, settings.plugins) == (3, ("sketch",))


def test_a_file_that_is_a_folder_is_named(home: Path) -> None:
    (home / "config.toml").mkdir(parents=True)
    with pytest.raises(SettingsError, match=r"config\.toml cannot be read: Is a directory"):
        Settings.load({}, {"MOLD_HOME": str(home)})


def test_a_misspelt_key_is_refused_and_the_right_one_suggested(home: Path) -> None:
    with pytest.raises(SettingsError, match=r"unknown key 'quue_size'; did you mean queue_size\?"):
        load(home, "quue_size = 5")


def test_an_unknown_key_in_a_table_is_refused(home: Path) -> None:
    with pytest.raises(SettingsError, match=r"unknown key 'logging\.colour'"):
        load(home, "[logging]\ncolour = 'red'")


def test_without_a_file_and_variables_everything_is_the_default(home: Path) -> None:
    assert Settings.load({}, {"MOLD_HOME": str(home)}) == Settings(home=home)


def test_home_is_dot_mold_in_the_persons_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert Settings.load({}, {}).home == Settings().home == Path("/somewhere/.mold")


def test_a_tilde_is_the_persons_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    settings = load(home, 'output_dir = "~/out"', MOLD_MODELS_DIR="~/models")
    assert (settings.models_path, settings.output_path) == (Path("/somewhere/models"), Path("/somewhere/out"))


def test_folders_lie_in_home_unless_they_are_set(home: Path) -> None:
    settings = Settings(home=home)
    assert (settings.models_path, settings.output_path) == (home / "models", home / "output")
    assert settings.config_path == home / "config.toml"


def test_an_empty_output_folder_means_nowhere(home: Path) -> None:
    assert load(home, 'output_dir = "/file"', MOLD_OUTPUT_DIR="").output_path is None
    assert load(home, 'output_dir = ""').output_path is None


def test_settings_are_read_from_the_environment_of_the_process(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLD_QUEUE_SIZE", "7")
    settings = Settings.load()
    assert (settings.home, settings.queue_size) == (home, 7)


@pytest.mark.parametrize("row", setting_table(), ids=lambda row: row.name)
def test_every_setting_is_documented(row: Setting) -> None:
    (line,) = [line for line in settings_page().splitlines() if line.startswith(f"| `{row.env}` |")]
    assert row.doc in line
    assert row.key is None or f"| `{row.key}` |" in line


def test_names_of_variables_and_keys_are_unique() -> None:
    rows = setting_table()
    assert len({row.env for row in rows}) == len({row.key for row in rows}) == len(rows)
    assert all(row.env.startswith("MOLD_") for row in rows)


def test_the_page_of_the_documentation_is_the_table() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "mold_core.cli.settings_page"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert (ROOT / "docs" / "settings.md").read_text("utf-8") == printed, (
        "run: python -m mold_core.cli.settings_page > docs/settings.md"
    )
