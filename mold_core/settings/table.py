"""The settings table: each field declares its environment variable, its key in config.toml, its limits and its help.

Values are read as flag > environment > ``$MOLD_HOME/config.toml`` > default. docs/settings.md is generated from it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache, wraps
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

import attrs

from mold_core.home import expanded, mold_home
from mold_core.settings.api_keys import read_api_keys
from mold_core.settings.parsing import parse_setting
from mold_core.settings.reading import find, read_config, tables, unknown_keys
from mold_core.settings.row import Setting, setting

__all__ = [
    "AttentionChoice",
    "CompileMode",
    "ComputeMode",
    "DeviceName",
    "ExpandWeights",
    "LogFormat",
    "LogLevel",
    "ServerUse",
    "SettingSources",
    "Settings",
    "StrategyChoice",
    "setting_table",
]

_Class = TypeVar("_Class")

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
CompileMode = Literal["auto", "on", "off"]
ComputeMode = Literal["auto", "int8", "exact"]
AttentionChoice = Literal["auto", "default", "cudnn", "flash", "efficient", "math"]
StrategyChoice = Literal["auto", "eager", "sequential", "offload"]
ServerUse = Literal["auto", "never"]
ExpandWeights = Literal["never", "auto", "always"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]


@attrs.frozen(kw_only=True)
class SettingSources:
    """The sources of settings, kept until the settings of plugins are read from them."""

    flags: Mapping[str, Any] = attrs.Factory(dict)
    environ: Mapping[str, str] = attrs.Factory(dict)
    config: Mapping[str, Any] = attrs.Factory(dict)


def _with_names_of_plugins(cls: type[_Class]) -> type[_Class]:
    """Make a class accept plugin settings as arguments: names that it does not declare go to `plugin_values`."""
    generated: Any = vars(cls)["__init__"]

    @wraps(generated)
    def init(self: Any, **values: Any) -> None:
        names = {field.name for field in attrs.fields(cls)}  # type: ignore[arg-type]
        plugin_values = {name: values.pop(name) for name in values.keys() - names}
        generated(self, **values | {"plugin_values": {**values.get("plugin_values", {}), **plugin_values}})

    setattr(cls, "__init__", init)  # noqa: B010
    return cls


@_with_names_of_plugins
@attrs.frozen(kw_only=True)
class Settings:
    """All settings with their values. `Settings.load()` reads them; the plain constructor returns the defaults.

    Settings of plugins are arguments and attributes like mold's own. An engine reads and checks them after it has
    loaded the plugins; until then, only those passed to the constructor have a value.
    """

    home: Path = setting(
        "Where mold keeps its files.", env="MOLD_HOME", key=None, default=attrs.Factory(lambda: mold_home({}))
    )
    models_dir: Path | None = setting(
        "Folder of model files; default: models in MOLD_HOME.", env="MOLD_MODELS_DIR", key="models_dir"
    )
    output_dir: str | None = setting(
        "Folder in which the server saves results; default: output in MOLD_HOME; empty: results are not saved.",
        env="MOLD_OUTPUT_DIR",
        key="output_dir",
        empty_counts=True,
    )
    gallery_dirs: tuple[str, ...] | None = setting(
        "Additional folders whose results the gallery shows.", env="MOLD_GALLERY_DIRS", key="gallery_dirs"
    )
    thumbnail_warmup: bool = setting(
        "Create thumbnails and previews of saved results in the background, before a client requests them.",
        env="MOLD_THUMBNAIL_WARMUP",
        key="thumbnail_warmup",
        default=False,
    )
    default_model: str | None = setting("Model used when none is named.", env="MOLD_DEFAULT_MODEL", key="default_model")
    openai_model: tuple[str, ...] | None = setting(
        "Models that stand for OpenAI's model names (gpt-image-1, dall-e-2, sora-2, …): the first one that generates "
        "images, or videos, is used. Default: the default model, or an installed one.",
        env="MOLD_OPENAI_MODEL",
        key="openai_model",
    )
    plugins: tuple[str, ...] | None = setting(
        "Plugins to load, by entry-point name; default: all installed plugins.", env="MOLD_PLUGINS", key="plugins"
    )
    device: DeviceName = setting("Device that models run on.", env="MOLD_DEVICE", key="device", default="auto")
    gpus: tuple[str, ...] | None = setting("GPUs to use, by number (0,1); default: all.", env="MOLD_GPUS", key="gpus")
    cpu_workers: int = setting(
        "Number of workers that share the CPU if models run on it.",
        env="MOLD_CPU_WORKERS",
        key="cpu_workers",
        default=1,
        minimum=1,
        maximum=256,
    )
    executor: str | None = setting(
        "Where models run: inline (in the main process), process (a separate process per device) or a plugin's "
        "executor; default: process for the server, else inline.",
        env="MOLD_EXECUTOR",
        key="executor",
    )
    worker_silence_s: float = setting(
        "Seconds without a heartbeat after which a worker process is replaced; its jobs are retried once.",
        env="MOLD_WORKER_SILENCE_S",
        key="worker_silence_s",
        default=30.0,
        minimum=1,
        maximum=86_400,
    )
    worker_stall_s: float = setting(
        "Seconds without progress after which a worker process is replaced. The time for its work is added: one second "
        "per 10 MB to load, and per 50,000 pixels of each step.",
        env="MOLD_WORKER_STALL_S",
        key="worker_stall_s",
        default=600.0,
        minimum=1,
        maximum=86_400,
    )
    worker_cancel_s: float = setting(
        "Seconds that a worker process may continue with cancelled work before it is replaced.",
        env="MOLD_WORKER_CANCEL_S",
        key="worker_cancel_s",
        default=10.0,
        minimum=1,
        maximum=86_400,
    )
    memory_budget_gb: float | None = setting(
        "Memory that loaded models may use on each device, in GB of 10^9 bytes; default: 80 % of the device's memory.",
        env="MOLD_MEMORY_BUDGET_GB",
        key="memory_budget_gb",
        minimum=0.001,
        maximum=1_000_000,
    )
    threads: int | None = setting(
        "CPU threads per computation; default: chosen for the model.",
        env="MOLD_THREADS",
        key="threads",
        minimum=1,
        maximum=1024,
    )
    compile: CompileMode = setting(
        "Compile model code for the device: only for large models (auto), always (on) or never (off). Needs a C++ "
        "compiler.",
        env="MOLD_COMPILE",
        key="compile",
        default="auto",
    )
    compute: ComputeMode = setting(
        "Arithmetic of linear layers with 8-bit weights: int8 if the file stores int8 (auto), also for Q8_0 and fp8 "
        "files on a CPU (int8), or never (exact: weights are dequantized). int8 takes two thirds of the time of bf16.",
        env="MOLD_COMPUTE",
        key="compute",
        default="auto",
    )
    expand_weights: ExpandWeights = setting(
        "Dequantize weights when a model is loaded: never, if memory suffices (auto), or always. Saves dequantizing "
        "them in every step, and uses two to four times their memory.",
        env="MOLD_EXPAND_WEIGHTS",
        key="expand_weights",
        default="never",
    )
    attention: AttentionChoice = setting(
        "Attention kernel on CUDA; auto: cuDNN on Hopper and later GPUs, else torch's choice.",
        env="MOLD_ATTENTION",
        key="attention",
        default="auto",
    )
    cuda_graphs: bool = setting(
        "Record compiled blocks as CUDA graphs; uses more memory.",
        env="MOLD_CUDA_GRAPHS",
        key="cuda_graphs",
        default=False,
    )
    idle_unload_s: float | None = setting(
        "Idle seconds after which loaded models are unloaded; default: never.",
        env="MOLD_IDLE_UNLOAD_S",
        key="idle_unload_s",
        minimum=0.1,
        maximum=31_536_000,
    )
    memory_strategy: StrategyChoice = setting(
        "How a model is held in memory: all components (eager), one component at a time (sequential), or one at a time "
        "with streamed blocks (offload); auto: the fastest that fits.",
        env="MOLD_MEMORY_STRATEGY",
        key="memory_strategy",
        default="auto",
    )
    eager: bool = setting("Short for MOLD_MEMORY_STRATEGY=eager.", env="MOLD_EAGER", key="eager", default=False)
    offload: bool = setting("Short for MOLD_MEMORY_STRATEGY=offload.", env="MOLD_OFFLOAD", key="offload", default=False)
    device_text_encoders: str = setting(
        "Device of the text encoders: auto, cpu, cuda, cuda:N, mps.",
        env="MOLD_PLACE_TEXT_ENCODERS",
        key="placement.text_encoders",
        default="auto",
    )
    device_transformer: str = setting(
        "Device of the transformer.", env="MOLD_PLACE_TRANSFORMER", key="placement.transformer", default="auto"
    )
    device_vae: str = setting("Device of the autoencoder.", env="MOLD_PLACE_VAE", key="placement.vae", default="auto")
    upscale_model: str | None = setting(
        "Upscaler used when none is named.", env="MOLD_UPSCALE_MODEL", key="upscale.model"
    )
    upscale_tile_size: int | None = setting(
        "Side length of upscaling tiles in pixels; 0: no tiles; default: chosen for the model and the memory.",
        env="MOLD_UPSCALE_TILE_SIZE",
        key="upscale.tile_size",
        minimum=0,
        maximum=16_384,
    )
    offline: bool = setting(
        "Download nothing; HF_HUB_OFFLINE=1 has the same effect.", env="MOLD_OFFLINE", key="offline", default=False
    )
    job_retention_h: float = setting(
        "Hours for which the server keeps finished jobs and their results.",
        env="MOLD_JOB_RETENTION_H",
        key="job_retention_h",
        default=24.0,
        minimum=0,
        maximum=87_600,
    )
    port: int = setting(
        "Port of the server.", env="MOLD_PORT", key="server_port", default=7680, minimum=1, maximum=65_535
    )
    ollama_port: int | None = setting(
        "Additional port with the image routes of Ollama, for its clients; default: none.",
        env="MOLD_OLLAMA_PORT",
        key="ollama_port",
        minimum=1,
        maximum=65_535,
    )
    bind: str = setting(
        "Address the server listens on, with or without a port; the default accepts only clients on this machine.",
        env="MOLD_BIND",
        key="server_bind",
        default="127.0.0.1",
    )
    host: str | None = setting(
        "Server that commands use: a name, name:port or an address; default: none, or one on this machine (below).",
        env="MOLD_HOST",
        key="host",
    )
    use_server: ServerUse = setting(
        "Whether commands use a server that runs on this machine with the same MOLD_HOME: auto (if there is one) or "
        "never.",
        env="MOLD_USE_SERVER",
        key="use_server",
        default="auto",
    )
    api_key: str | None = setting(
        "Keys that clients of the server must send: one key, several separated by commas, or @FILE with one key per "
        "line. Commands send the first.",
        env="MOLD_API_KEY",
        key="api_key",
        secret=True,
    )
    rate_limit: str | None = setting(
        "Rate limit per client for requests that cause work, such as 10/min; reading is limited to ten times that.",
        env="MOLD_RATE_LIMIT",
        key="rate_limit",
    )
    rate_limit_burst: int | None = setting(
        "Burst size of the rate limit, in requests; default: twice the rate, at most 100.",
        env="MOLD_RATE_LIMIT_BURST",
        key="rate_limit_burst",
        minimum=1,
        maximum=1_000_000,
    )
    allowed_hosts: tuple[str, ...] | None = setting(
        "Host names other than localhost that clients may use for a server that listens only on this machine.",
        env="MOLD_ALLOWED_HOSTS",
        key="allowed_hosts",
    )
    trusted_proxies: tuple[str, ...] | None = setting(
        "Proxies, by address or network, whose headers X-Forwarded-For, -Proto, -Host and -Prefix the server trusts.",
        env="MOLD_TRUSTED_PROXIES",
        key="trusted_proxies",
    )
    cors_origin: str | None = setting(
        "Origin whose pages may call the server, such as https://app.example.",
        env="MOLD_CORS_ORIGIN",
        key="cors_origin",
    )
    gallery_allow_delete: bool = setting(
        "Allow every client to delete results; otherwise only clients with a key or on this machine.",
        env="MOLD_GALLERY_ALLOW_DELETE",
        key="gallery_allow_delete",
        default=False,
    )
    webhook_hosts: tuple[str, ...] | None = setting(
        "Hosts that webhooks may notify when a job has ended.", env="MOLD_WEBHOOK_HOSTS", key="webhook_hosts"
    )
    compat: Literal["mold", "reference"] = setting(
        "reference: respond as the client of mold in Rust requires: /api/upscale as JSON, and the data of "
        "videos of chains as numbers.",
        env="MOLD_COMPAT",
        key="compat",
        default="mold",
    )
    request_timeout_s: float = setting(
        "Seconds within which a request must arrive, plus one second per 16 KiB of it.",
        env="MOLD_REQUEST_TIMEOUT_S",
        key="request_timeout_s",
        default=15.0,
        minimum=0.1,
        maximum=3600,
    )
    shutdown_grace_s: float = setting(
        "Seconds that running jobs may continue when the server shuts down.",
        env="MOLD_SHUTDOWN_GRACE_S",
        key="shutdown_grace_s",
        default=10.0,
        minimum=0,
        maximum=3600,
    )
    queue_size: int = setting(
        "Maximum number of waiting jobs.",
        env="MOLD_QUEUE_SIZE",
        key="queue_size",
        default=200,
        minimum=1,
        maximum=100_000,
    )
    max_batch: int = setting(
        "Maximum number of images computed together.",
        env="MOLD_MAX_BATCH",
        key="max_batch",
        default=8,
        minimum=1,
        maximum=256,
    )
    chain_retention_h: int = setting(
        "Hours for which clips of chains are kept, so that a chain can be resumed.",
        env="MOLD_CHAIN_RETENTION_H",
        key="chain_retention_h",
        default=72,
        minimum=0,
        maximum=100_000,
    )
    expand: bool = setting(
        "Expand prompts by default, if a request does not specify it.",
        env="MOLD_EXPAND",
        key="expand.enabled",
        default=False,
    )
    expand_backend: str = setting(
        "Backend that expands prompts: local, the address of an OpenAI-compatible server, or a plugin's expander.",
        env="MOLD_EXPAND_BACKEND",
        key="expand.backend",
        default="local",
        not_blank=True,
    )
    expand_own: bool = setting(
        "Use a model's own expander, if it has one, instead of the backend.",
        env="MOLD_EXPAND_OWN",
        key="expand.own",
        default=True,
    )
    expand_model: str = setting(
        "Language model of the local backend.",
        env="MOLD_EXPAND_MODEL",
        key="expand.model",
        default="qwen3-expand:q8",
        not_blank=True,
    )
    expand_api_model: str = setting(
        "Name of the language model on the server.",
        env="MOLD_EXPAND_API_MODEL",
        key="expand.api_model",
        default="qwen2.5:3b",
        not_blank=True,
    )
    expand_api_key: str | None = setting(
        "API key of the server that expands prompts.", env="MOLD_EXPAND_API_KEY", key="expand.api_key", secret=True
    )
    expand_timeout_s: float = setting(
        "Timeout of the server in seconds, including retries and the pauses between them.",
        env="MOLD_EXPAND_TIMEOUT_S",
        key="expand.timeout_s",
        default=60.0,
        minimum=0.1,
        maximum=3600,
    )
    expand_temperature: float = setting(
        "Sampling temperature; 0: always the most likely token.",
        env="MOLD_EXPAND_TEMPERATURE",
        key="expand.temperature",
        default=0.7,
        minimum=0,
        maximum=2,
    )
    expand_top_p: float = setting(
        "Nucleus sampling: sample from the most likely tokens up to this total probability.",
        env="MOLD_EXPAND_TOP_P",
        key="expand.top_p",
        default=0.9,
        minimum=0.01,
        maximum=1,
    )
    expand_top_k: int = setting(
        "Sample from this number of most likely tokens (local backend only); 0: from all.",
        env="MOLD_EXPAND_TOP_K",
        key="expand.top_k",
        default=20,
        minimum=0,
        maximum=1000,
    )
    expand_max_tokens: int = setting(
        "Maximum number of tokens of an expanded prompt.",
        env="MOLD_EXPAND_MAX_TOKENS",
        key="expand.max_tokens",
        default=300,
        minimum=1,
        maximum=65_535,
    )
    expand_thinking: bool = setting(
        "Enable the thinking mode of the language model; its thoughts count as tokens.",
        env="MOLD_EXPAND_THINKING",
        key="expand.thinking",
        default=False,
    )
    expand_system_prompt: str | None = setting(
        "System prompt for writing one prompt; may contain {WORD_LIMIT} and {MODEL_NOTES}.",
        env="MOLD_EXPAND_SYSTEM_PROMPT",
        key="expand.system_prompt",
    )
    expand_batch_prompt: str | None = setting(
        "System prompt for writing several prompts on a server; may also contain {N}.",
        env="MOLD_EXPAND_BATCH_PROMPT",
        key="expand.batch_prompt",
    )
    expand_families: dict[str, Any] = setting(
        "Style of prompts by family: word_limit and style_notes; the variable holds a JSON object.",
        env="MOLD_EXPAND_FAMILIES",
        key="expand.families",
        default=attrs.Factory(dict),
    )
    embed_metadata: bool = setting(
        "Embed the request as metadata in result files.", env="MOLD_EMBED_METADATA", key="embed_metadata", default=True
    )
    log_level: LogLevel = setting(
        "Minimum level of log messages.", env="MOLD_LOG", key="logging.level", default="warning"
    )
    log_format: LogFormat = setting(
        "Format of the server's log.", env="MOLD_LOG_FORMAT", key="logging.format", default="text"
    )

    user_models: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    """The unparsed tables `[models."name:tag"]` of config.toml; see `mold_core.catalog.user_models`."""

    sources: Mapping[str, str] = attrs.field(factory=dict, repr=False, eq=False)
    """The source of each value that is not the default: setting → variable, key of config.toml or flag."""

    plugin_values: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    """The values of plugin settings that are not the default."""

    plugin_defaults: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)
    """The default of each setting that loaded plugins declare."""

    unread: SettingSources | None = attrs.field(default=None, repr=False, eq=False)
    """The sources of plugin settings, until these are read."""

    def __getattr__(self, name: str) -> Any:
        """Return the value of a setting that a plugin declares."""
        if not name.startswith("_") and name not in ("plugin_values", "plugin_defaults"):
            for values in (self.plugin_values, self.plugin_defaults):
                if name in values:
                    return values[name]
        raise AttributeError(f"neither mold nor a loaded plugin has a setting {name!r}")

    @property
    def models_path(self) -> Path:
        """The folder of model files."""
        return self.models_dir or self.home / "models"

    @property
    def loras_path(self) -> Path:
        """The folder of LoRAs."""
        return self.home / "loras"

    @property
    def output_path(self) -> Path | None:
        """The folder of results; None if results are not saved."""
        if self.output_dir == "":
            return None
        return expanded(self.output_dir) if self.output_dir else self.home / "output"

    def first_api_key(self) -> str | None:
        """Return the key that a client sends, if any. Raises SettingsError if the setting or its file holds no key."""
        return next(iter(read_api_keys(self.api_key)), None)

    @property
    def config_path(self) -> Path:
        """The file `config.toml`, whether or not it exists."""
        return self.home / "config.toml"

    @classmethod
    def load(cls, flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
        """Return the effective settings. `flags` holds values by field name; None means not set.

        `Plugins.read_settings`, which every engine calls, reads the settings of plugins and checks the keys of
        config.toml that are still unknown. Raises SettingsError naming the setting, its source and the allowed values.
        """
        environ = os.environ if environ is None else environ
        flags = {name: value for name, value in (flags or {}).items() if value is not None}
        home = mold_home(environ)
        rows = setting_table()
        config = read_config(home / "config.toml")
        values: dict[str, Any] = {"home": home, "user_models": tables(config, "models", home / "config.toml")}
        sources: dict[str, str] = {}
        for row in rows:
            found = find(row, flags, environ, config)
            if row.name != "home" and found is not None:
                values[row.name] = parse_setting(row, *found)
                sources[row.name] = found[1]
        unread = SettingSources(
            flags={name: flags[name] for name in flags.keys() - {row.name for row in rows}},
            environ={name: value for name, value in environ.items() if name.startswith("MOLD_")},
            config=config,
        )
        return cls(**values, sources=sources, unread=unread)

    @property
    def has_unread_names(self) -> bool:
        """Whether there are flags or keys of config.toml that mold does not declare, so that a plugin must."""
        return self.unread is not None and bool(self.unread.flags or unknown_keys(self.unread.config, setting_table()))


@cache
def setting_table() -> tuple[Setting, ...]:
    """Return every setting, in the order of the documentation."""
    types = get_type_hints(Settings)
    return tuple(
        Setting(name=field.name, type=types[field.name], default=field.default, secret=not field.repr, **field.metadata)
        for field in attrs.fields(Settings)
        if "env" in field.metadata
    )
