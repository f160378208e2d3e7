"""Settings of mold: one table, read as flag > environment > ``$MOLD_HOME/config.toml`` > default.

The class `Settings` is the table: every field names its environment variable, its key in config.toml, its bounds and
what it means. The documentation page of settings is made from it.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import attrs

from mold_core.errors import SettingsError
from mold_core.home import mold_home
from mold_core.wire.fields import Bounds, bound_problem, shorten

__all__ = ["Setting", "Settings", "parse_setting", "setting_table", "settings_page"]

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
CompileMode = Literal["auto", "on", "off"]
AttentionChoice = Literal["auto", "default", "cudnn", "flash", "efficient", "math"]
StrategyChoice = Literal["auto", "eager", "sequential", "offload"]
T5Variant = Literal["auto", "fp16", "q8", "q6", "q5", "q4", "q3"]
ServerUse = Literal["auto", "never"]
ExpandWeights = Literal["never", "auto", "always"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


@attrs.frozen(kw_only=True)
class Setting:
    """One row of the table."""

    name: str
    env: str
    key: str | None
    type: Any
    default: Any
    bounds: Bounds
    doc: str
    empty_counts: bool
    secret: bool


def _setting(
    doc: str,
    *,
    env: str,
    key: str | None,
    default: Any = None,
    empty_counts: bool = False,
    secret: bool = False,
    **bounds: Any,
) -> Any:
    """Declare a row. With `empty_counts` an empty variable is a value; otherwise it counts as not set.

    What is `secret` is left out where settings are printed.
    """
    about = {"doc": doc, "env": env, "key": key, "bounds": Bounds(**bounds), "empty_counts": empty_counts}
    return attrs.field(default=default, metadata=about, repr=not secret)


@attrs.frozen(kw_only=True)
class Settings:
    """All settings with their values. `Settings.load()` reads them; the constructor alone gives the defaults."""

    home: Path = _setting(
        "Where mold keeps its files.", env="MOLD_HOME", key=None, default=attrs.Factory(lambda: mold_home({}))
    )
    models_dir: Path | None = _setting(
        "Where model files lie; default: models in MOLD_HOME.", env="MOLD_MODELS_DIR", key="models_dir"
    )
    output_dir: str | None = _setting(
        "Folder in which the server saves results; default: output in MOLD_HOME, empty: nowhere.",
        env="MOLD_OUTPUT_DIR",
        key="output_dir",
        empty_counts=True,
    )
    gallery_dirs: tuple[str, ...] | None = _setting(
        "Further folders whose results the gallery shows.", env="MOLD_GALLERY_DIRS", key="gallery_dirs"
    )
    thumbnail_warmup: bool = _setting(
        "Let the server make thumbnails and previews of what it keeps before anybody asks for them.",
        env="MOLD_THUMBNAIL_WARMUP",
        key="thumbnail_warmup",
        default=False,
    )
    default_model: str | None = _setting(
        "Model used when none is named.", env="MOLD_DEFAULT_MODEL", key="default_model"
    )
    plugins: tuple[str, ...] | None = _setting(
        "Plugins to load, by entry-point name; default: all that are installed.", env="MOLD_PLUGINS", key="plugins"
    )
    device: DeviceName = _setting("Device that models run on.", env="MOLD_DEVICE", key="device", default="auto")
    gpus: tuple[str, ...] | None = _setting("GPUs to use, by number (0,1); default: all.", env="MOLD_GPUS", key="gpus")
    cpu_workers: int = _setting(
        "Workers that share the CPU, where it is the device.",
        env="MOLD_CPU_WORKERS",
        key="cpu_workers",
        default=1,
        minimum=1,
        maximum=256,
    )
    executor: str | None = _setting(
        "Where models run: inline (in the program itself), process (one for each device) or a plugin's executor; "
        "default: process for the server, else inline.",
        env="MOLD_EXECUTOR",
        key="executor",
    )
    memory_budget_gb: float | None = _setting(
        "Memory that loaded models may take on each device, in GB of 10^9 bytes; default: 80 % of the device's.",
        env="MOLD_MEMORY_BUDGET_GB",
        key="memory_budget_gb",
        minimum=0.001,
        maximum=1_000_000,
    )
    threads: int | None = _setting(
        "CPU threads of one computation; default: what suits the model.",
        env="MOLD_THREADS",
        key="threads",
        minimum=1,
        maximum=1024,
    )
    compile: CompileMode = _setting(
        "Compile code for the device: where it pays (large models), always, or never. Needs a C++ compiler.",
        env="MOLD_COMPILE",
        key="compile",
        default="auto",
    )
    expand_weights: ExpandWeights = _setting(
        "Make quantised weights dense when a model is loaded: never, where memory is left (auto), or always. Saves "
        "expanding them in every step, and takes two to four times their memory.",
        env="MOLD_EXPAND_WEIGHTS",
        key="expand_weights",
        default="never",
    )
    attention: AttentionChoice = _setting(
        "Kernel of attention on CUDA; auto: cuDNN's from Hopper on, else torch's choice.",
        env="MOLD_ATTENTION",
        key="attention",
        default="auto",
    )
    cuda_graphs: bool = _setting(
        "Record compiled blocks as CUDA graphs; takes more memory.",
        env="MOLD_CUDA_GRAPHS",
        key="cuda_graphs",
        default=False,
    )
    idle_unload_s: float | None = _setting(
        "Seconds without work after which loaded models are freed; default: never.",
        env="MOLD_IDLE_UNLOAD_S",
        key="idle_unload_s",
        minimum=0.1,
        maximum=31_536_000,
    )
    memory_strategy: StrategyChoice = _setting(
        "How a model is held in memory: as a whole, part by part, part by part with streamed blocks; auto: what fits.",
        env="MOLD_MEMORY_STRATEGY",
        key="memory_strategy",
        default="auto",
    )
    eager: bool = _setting("Short for MOLD_MEMORY_STRATEGY=eager.", env="MOLD_EAGER", key="eager", default=False)
    offload: bool = _setting(
        "Short for MOLD_MEMORY_STRATEGY=offload.", env="MOLD_OFFLOAD", key="offload", default=False
    )
    device_text_encoders: str = _setting(
        "Device of the text encoders: auto, cpu, cuda, cuda:N, mps.",
        env="MOLD_PLACE_TEXT_ENCODERS",
        key="placement.text_encoders",
        default="auto",
    )
    device_t5: str = _setting(
        "Device of the T5 text encoder, before that of all text encoders.",
        env="MOLD_PLACE_T5",
        key="placement.t5",
        default="auto",
    )
    device_clip_l: str = _setting(
        "Device of the CLIP text encoder, before that of all text encoders.",
        env="MOLD_PLACE_CLIP_L",
        key="placement.clip_l",
        default="auto",
    )
    device_transformer: str = _setting(
        "Device of the transformer.", env="MOLD_PLACE_TRANSFORMER", key="placement.transformer", default="auto"
    )
    device_vae: str = _setting("Device of the autoencoder.", env="MOLD_PLACE_VAE", key="placement.vae", default="auto")
    t5_variant: T5Variant = _setting(
        "File of the T5 text encoder; auto: 16 bits where they fit, else the largest that is here and does.",
        env="MOLD_T5_VARIANT",
        key="t5_variant",
        default="auto",
    )
    upscale_model: str | None = _setting(
        "Upscaler used when none is named.", env="MOLD_UPSCALE_MODEL", key="upscale.model"
    )
    upscale_tile_size: int | None = _setting(
        "Side of the tiles that pictures are enlarged in, in pixels; 0: none; default: what suits model and memory.",
        env="MOLD_UPSCALE_TILE_SIZE",
        key="upscale.tile_size",
        minimum=0,
        maximum=16_384,
    )
    offline: bool = _setting(
        "Fetch nothing, whoever asks; HF_HUB_OFFLINE=1 does the same.", env="MOLD_OFFLINE", key="offline", default=False
    )
    job_retention_h: float = _setting(
        "Hours for which the server keeps jobs that have ended, and their results.",
        env="MOLD_JOB_RETENTION_H",
        key="job_retention_h",
        default=24.0,
        minimum=0,
        maximum=87_600,
    )
    port: int = _setting(
        "Port of the server.", env="MOLD_PORT", key="server_port", default=7680, minimum=1, maximum=65_535
    )
    bind: str = _setting(
        "Address the server listens on; the default reaches nobody but this machine.",
        env="MOLD_BIND",
        key="server_bind",
        default="127.0.0.1",
    )
    host: str | None = _setting(
        "Server that commands use: a name, name:port or an address; default: none, or one on this machine (below).",
        env="MOLD_HOST",
        key="host",
    )
    use_server: ServerUse = _setting(
        "Whether commands use a server that runs on this machine with the same MOLD_HOME: auto, where there is one; "
        "never.",
        env="MOLD_USE_SERVER",
        key="use_server",
        default="auto",
    )
    api_key: str | None = _setting(
        "Keys that clients of the server must have: one, several with commas, or @FILE with one a line. Commands send "
        "the first.",
        env="MOLD_API_KEY",
        key="api_key",
        secret=True,
    )
    rate_limit: str | None = _setting(
        "How often each client may ask the server for work, such as 10/min; ten times as often to read.",
        env="MOLD_RATE_LIMIT",
        key="rate_limit",
    )
    rate_limit_burst: int | None = _setting(
        "Requests that may come at once; default: twice the rate, at most 100.",
        env="MOLD_RATE_LIMIT_BURST",
        key="rate_limit_burst",
        minimum=1,
        maximum=1_000_000,
    )
    allowed_hosts: tuple[str, ...] | None = _setting(
        "Names beside localhost by which clients may call a server that listens on this machine only.",
        env="MOLD_ALLOWED_HOSTS",
        key="allowed_hosts",
    )
    cors_origin: str | None = _setting(
        "Site whose pages may use the server, such as https://app.example.", env="MOLD_CORS_ORIGIN", key="cors_origin"
    )
    gallery_allow_delete: bool = _setting(
        "Let everybody delete results; otherwise those with a key or on this machine.",
        env="MOLD_GALLERY_ALLOW_DELETE",
        key="gallery_allow_delete",
        default=False,
    )
    webhook_hosts: tuple[str, ...] | None = _setting(
        "Hosts that jobs may be posted to when they have ended.", env="MOLD_WEBHOOK_HOSTS", key="webhook_hosts"
    )
    request_timeout_s: float = _setting(
        "Seconds in which a request must arrive, beside a second for every 16 KiB of it.",
        env="MOLD_REQUEST_TIMEOUT_S",
        key="request_timeout_s",
        default=15.0,
        minimum=0.1,
        maximum=3600,
    )
    shutdown_grace_s: float = _setting(
        "Seconds that work under way may go on when the server is told to end.",
        env="MOLD_SHUTDOWN_GRACE_S",
        key="shutdown_grace_s",
        default=10.0,
        minimum=0,
        maximum=3600,
    )
    queue_size: int = _setting(
        "Jobs that may wait.", env="MOLD_QUEUE_SIZE", key="queue_size", default=200, minimum=1, maximum=100_000
    )
    max_batch: int = _setting(
        "Pictures that are computed together at most.",
        env="MOLD_MAX_BATCH",
        key="max_batch",
        default=8,
        minimum=1,
        maximum=256,
    )
    chain_retention_h: int = _setting(
        "Hours for which clips of chains are kept to go on from.",
        env="MOLD_CHAIN_RETENTION_H",
        key="chain_retention_h",
        default=72,
        minimum=0,
        maximum=100_000,
    )
    expand: bool = _setting(
        "Expand the prompt of requests that do not say whether to.",
        env="MOLD_EXPAND",
        key="expand.enabled",
        default=False,
    )
    expand_backend: str = _setting(
        "What expands prompts: local, the address of an OpenAI-compatible server, or what a plugin brings.",
        env="MOLD_EXPAND_BACKEND",
        key="expand.backend",
        default="local",
        not_blank=True,
    )
    expand_own: bool = _setting(
        "Let models that have an expander of their own use it, whatever the backend.",
        env="MOLD_EXPAND_OWN",
        key="expand.own",
        default=True,
    )
    expand_model: str = _setting(
        "Language model of the backend local.",
        env="MOLD_EXPAND_MODEL",
        key="expand.model",
        default="qwen3-expand:q8",
        not_blank=True,
    )
    expand_api_model: str = _setting(
        "Name of the language model at a server.",
        env="MOLD_EXPAND_API_MODEL",
        key="expand.api_model",
        default="qwen2.5:3b",
        not_blank=True,
    )
    expand_api_key: str | None = _setting(
        "Key for the server that expands.", env="MOLD_EXPAND_API_KEY", key="expand.api_key", secret=True
    )
    expand_timeout_s: float = _setting(
        "Seconds a server may take to answer, attempts and waits together.",
        env="MOLD_EXPAND_TIMEOUT_S",
        key="expand.timeout_s",
        default=60.0,
        minimum=0.1,
        maximum=3600,
    )
    expand_temperature: float = _setting(
        "How freely words are chosen; 0: always the likeliest.",
        env="MOLD_EXPAND_TEMPERATURE",
        key="expand.temperature",
        default=0.7,
        minimum=0,
        maximum=2,
    )
    expand_top_p: float = _setting(
        "Words are chosen from those that together have this probability.",
        env="MOLD_EXPAND_TOP_P",
        key="expand.top_p",
        default=0.9,
        minimum=0.01,
        maximum=1,
    )
    expand_top_k: int = _setting(
        "Words are chosen from so many of the likeliest, by the backend local; 0: from all.",
        env="MOLD_EXPAND_TOP_K",
        key="expand.top_k",
        default=20,
        minimum=0,
        maximum=1000,
    )
    expand_max_tokens: int = _setting(
        "Tokens of a prompt at most.",
        env="MOLD_EXPAND_MAX_TOKENS",
        key="expand.max_tokens",
        default=300,
        minimum=1,
        maximum=65_535,
    )
    expand_thinking: bool = _setting(
        "Let the language model think before it writes; thoughts count as tokens.",
        env="MOLD_EXPAND_THINKING",
        key="expand.thinking",
        default=False,
    )
    expand_system_prompt: str | None = _setting(
        "What the language model is told to write one prompt; may hold {WORD_LIMIT}, {MODEL_NOTES}.",
        env="MOLD_EXPAND_SYSTEM_PROMPT",
        key="expand.system_prompt",
    )
    expand_batch_prompt: str | None = _setting(
        "What a server is told to write several; may also hold {N}.",
        env="MOLD_EXPAND_BATCH_PROMPT",
        key="expand.batch_prompt",
    )
    expand_families: dict[str, Any] = _setting(
        "How prompts for a family are written: word_limit, style_notes; a JSON object in the variable.",
        env="MOLD_EXPAND_FAMILIES",
        key="expand.families",
        default=attrs.Factory(dict),
    )
    embed_metadata: bool = _setting(
        "Write the request into result files.", env="MOLD_EMBED_METADATA", key="embed_metadata", default=True
    )
    log_level: LogLevel = _setting("How much is logged.", env="MOLD_LOG", key="logging.level", default="warning")
    log_format: LogFormat = _setting(
        "How the server's logs look.", env="MOLD_LOG_FORMAT", key="logging.format", default="text"
    )

    own_models: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    """The tables `[models."name:tag"]` of config.toml as they stand there; see `mold_core.catalog.own_models`."""

    sources: Mapping[str, str] = attrs.field(factory=dict, repr=False, eq=False)
    """Where the values came from that are not the default: setting → variable, key of config.toml or flag."""

    @property
    def models_path(self) -> Path:
        """The folder of model files."""
        return self.models_dir or self.home / "models"

    @property
    def loras_path(self) -> Path:
        """The folder of adapters (LoRA)."""
        return self.home / "loras"

    @property
    def output_path(self) -> Path | None:
        """The folder of results; None means that none are kept."""
        if self.output_dir == "":
            return None
        return _path(self.output_dir) if self.output_dir else self.home / "output"

    def first_api_key(self) -> str | None:
        """Return the key that a client sends. Raises SettingsError where the file that has it cannot be read."""
        text = self.api_key or ""
        if not text.startswith("@"):
            return next(filter(None, (key.strip() for key in text.split(","))), None)
        try:
            lines = _path(text[1:]).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            raise SettingsError(f"MOLD_API_KEY names {text[1:]}, which cannot be read", field="api_key") from None
        return next((line.strip() for line in lines if line.strip() and not line.strip().startswith("#")), None)

    @property
    def config_path(self) -> Path:
        """The file `config.toml`, whether or not it exists."""
        return self.home / "config.toml"

    @classmethod
    def load(cls, flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
        """Return the settings in force. `flags` holds values by field name; None means not given.

        Raises SettingsError naming the setting, its source and what it may be.
        """
        environ = os.environ if environ is None else environ
        flags = {name: value for name, value in (flags or {}).items() if value is not None}
        home = mold_home(environ)
        config = _read_config(home / "config.toml")
        _refuse_unknown_keys(config, home / "config.toml")
        values: dict[str, Any] = {"home": home, "own_models": _tables(config, "models", home / "config.toml")}
        sources: dict[str, str] = {}
        for row in setting_table():
            found = _find(row, flags, environ, config)
            if row.name != "home" and found is not None:
                values[row.name] = parse_setting(row, *found)
                sources[row.name] = found[1]
        return cls(**values, sources=sources)


def setting_table() -> tuple[Setting, ...]:
    """Return every setting, in the order of the documentation."""
    types = get_type_hints(Settings)
    return tuple(
        Setting(
            name=field.name,
            env=field.metadata["env"],
            key=field.metadata["key"],
            type=types[field.name],
            default=field.default,
            bounds=field.metadata["bounds"],
            doc=field.metadata["doc"],
            empty_counts=field.metadata["empty_counts"],
            secret=not field.repr,
        )
        for field in attrs.fields(Settings)
        if "env" in field.metadata
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}", hint="correct it or move it away") from None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None


def _refuse_unknown_keys(config: Mapping[str, Any], path: Path) -> None:
    rows = [row for row in setting_table() if row.key]
    known = [row.key for row in rows if row.key]
    tables = tuple(f"{row.key}." for row in rows if get_origin(row.type) is dict)
    for key in _keys({key: value for key, value in config.items() if key != "models"}):
        if key not in known and not key.startswith(tables):
            from difflib import get_close_matches

            near = get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise SettingsError(f"{path} has an unknown key {key!r}", field=key, hint=hint)


def _tables(config: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    found = config.get(key, {})
    if not isinstance(found, Mapping):
        raise SettingsError(f"{path}: {key} must be a table of tables", field=key)
    return found


def _keys(table: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _find(
    row: Setting, flags: Mapping[str, Any], environ: Mapping[str, str], config: Mapping[str, Any]
) -> tuple[Any, str] | None:
    if row.name in flags:
        return flags[row.name], f"--{row.name.replace('_', '-')}"
    if environ.get(row.env) or (row.empty_counts and row.env in environ):
        return environ[row.env], row.env
    value: Any = config
    for part in (row.key or "").split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return None if value is None else (value, f"{row.key} in config.toml")


def parse_setting(row: Setting, value: Any, source: str) -> Any:
    """Return the value of a setting as text or TOML gives it. Raises SettingsError, which names `source`."""
    try:
        result = _parse(row.type, value)
    except ValueError as error:
        raise SettingsError(f"{source} {error}", field=row.name, value=value) from None
    problem = bound_problem(row.bounds, result)
    if problem:
        raise SettingsError(f"{source} {problem}", field=row.name, value=value)
    return result


def _parse(type_: Any, value: Any) -> Any:
    """Return `value` (text from a variable, or a TOML value) as `type_`, or raise ValueError saying what it must be."""
    options = [option for option in get_args(type_) if option is not type(None)]
    if get_origin(type_) is Literal:
        return _parse_word(get_args(type_), value)
    if get_origin(type_) is tuple:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
            raise ValueError(f"must be a list of names, not {shorten(value)}")
        return tuple(item.strip() for item in items if item.strip())
    if get_origin(type_) is dict:
        return _parse_styles(value)
    if type(None) in get_args(type_):
        return _parse(options[0], value)
    if type_ is bool:
        return _parse_bool(value)
    if type_ is Path:
        if not isinstance(value, str | Path):
            raise ValueError(f"must be a path, not {shorten(value)}")
        return _path(value)
    if type_ in (int, float):
        return _parse_number(type_, value)
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {shorten(value)}")
    return value


def _parse_styles(value: Any) -> dict[str, dict[str, Any]]:
    """Return tables of word_limit and style_notes by family."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(f"must be a JSON object, not {shorten(value)}") from None
    wanted = 'must hold tables by family, such as sdxl = { word_limit = 40, style_notes = "…" }'
    if not isinstance(value, dict) or not all(isinstance(table, dict) for table in value.values()):
        raise ValueError(f"{wanted}, not {shorten(value)}")
    for family, table in value.items():
        limit, notes = table.get("word_limit", 1), table.get("style_notes", "")
        if table.keys() - {"word_limit", "style_notes"} or not isinstance(notes, str):
            raise ValueError(f"{wanted}, not {shorten(table)} for {shorten(family)}")
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= 10_000:
            raise ValueError(f"has for {shorten(family)} a word_limit that is not from 1 to 10,000: {shorten(limit)}")
    return {family: dict(table) for family, table in value.items()}


def _path(value: str | Path) -> Path:
    return Path(os.path.expanduser(value))  # unlike Path.expanduser() it takes "~nobody" as it is


def _parse_word(words: tuple[str, ...], value: Any) -> str:
    word = str(value).lower()
    if word == "warn" and "warning" in words:
        word = "warning"
    if word not in words:
        raise ValueError(f"must be one of {', '.join(words)}, not {shorten(value)}")
    return word


def _parse_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word not in _TRUE | _FALSE:
        raise ValueError(f"must be true or false, not {shorten(value)}")
    return word in _TRUE


def _parse_number(type_: type, value: Any) -> Any:
    kind = "a whole number" if type_ is int else "a number"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"must be {kind}, not {shorten(value)}")
    try:
        number = type_(value)
    except (ValueError, OverflowError):
        number = None
    if number is None or (isinstance(value, float) and number != value and isfinite(value)):
        raise ValueError(f"must be {kind}, not {shorten(value)}")
    return number


def settings_page() -> str:
    """Return the documentation of all settings as Markdown; `python -m mold_core.settings` prints it."""
    lines = [_PAGE_START]
    for row in setting_table():
        key = f"`{row.key}`" if row.key else "–"
        lines.append(f"| `{row.env}` | {key} | {_kind(row)} | {_default(row)} | {row.doc} |")
    return "\n".join(lines) + "\n"


_PAGE_START = """\
# Settings

A setting is taken from the first of these that has it: the flag of the command, the environment variable, the file
`config.toml` in `MOLD_HOME`, the default. An empty variable counts as not set, unless the table says what empty means.
A key of `config.toml` that is not in this table is refused. `mold info` shows which files are in use.

This page is made from the table in the code: `python -m mold_core.settings > docs/settings.md`.

| environment | config.toml | value | default | meaning |
|---|---|---|---|---|"""


def _kind(row: Setting) -> str:
    types = [option for option in get_args(row.type) or (row.type,) if option is not type(None)]
    if get_origin(row.type) is dict:
        return "tables"
    if isinstance(types[0], str):
        return ", ".join(types)
    if get_origin(types[0]) is tuple:
        return "names, separated by commas in the variable"
    words = {int: "whole number", float: "number", bool: "true or false", str: "text", Path: "path"}[types[0]]
    low, high = row.bounds.minimum, row.bounds.maximum
    return words if low is None or high is None else f"{words} from {low:,} to {high:,}"


def _default(row: Setting) -> str:
    if row.name == "home":
        return "`~/.mold`"
    if row.default is None or isinstance(row.default, attrs.Factory):  # type: ignore[arg-type]
        return "–"
    return f"`{str(row.default).lower() if isinstance(row.default, bool) else row.default}`"


if __name__ == "__main__":
    print(settings_page(), end="")
