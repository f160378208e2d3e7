"""The settings of a LoRA's layers in its header or in an adapter_config.json: alpha, rank, kinds of rotation.

diffusers writes PEFT's configuration of each network into the header, as `lora_adapter_metadata`. PEFT itself writes a
file next to the weights. Files with alphas in tensors need neither.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import frozen

from mold_core.errors import CheckpointError

__all__ = ["LoraSettings", "config_file", "read_settings"]

_HEADER = "lora_adapter_metadata"
_CONFIG = "adapter_config.json"
_LONGEST_CONFIG = 1_000_000
_LARGEST_NUMBER = 1e9
_PREFIX = re.compile(r"(base_model\.model\.|model\.)+")


@frozen(kw_only=True)
class LoraSettings:
    """PEFT's configuration for the layers whose names start with `prefix`."""

    prefix: str
    values: Mapping[str, Any]

    def scale(self, stem: str, rank: int) -> float:
        """Return alpha / rank of a layer, with rslora (arXiv 2312.03732) alpha / √rank; 1 if no alpha is given.

        Raises CheckpointError for values that are not numbers.
        """
        name = _PREFIX.sub("", stem.removeprefix(f"{self.prefix}."), count=1)
        alpha = self._value("alpha_pattern", name, ("lora_alpha", "alpha"))
        if alpha is None:
            return 1.0
        stored = self._value("rank_pattern", name, ("r",))
        ranks = rank if stored is None else stored
        if ranks <= 0 or not math.isfinite(alpha):
            raise CheckpointError(f"its configuration gives {stem} the rank {ranks} and the alpha {alpha}")
        return float(alpha / (math.sqrt(ranks) if self.flag("use_rslora") else ranks))

    def flag(self, name: str, default: bool = False) -> bool:
        """Return a boolean of the configuration."""
        value = self.values.get(name, default)
        return value if isinstance(value, bool) else default

    def count(self, name: str, default: int) -> int:
        """Return a whole number of the configuration. Raises CheckpointError for anything else."""
        value = self.values.get(name, default)
        if type(value) is not int:
            raise CheckpointError(f"{name} of its configuration must be a whole number")
        return value

    def _value(self, patterns: str, name: str, keys: tuple[str, ...]) -> float | None:
        table = self.values.get(patterns)
        found = table if isinstance(table, dict) else {}
        for pattern, value in found.items():
            if _matches(pattern, name):
                return _number(patterns, value)
        return next((_number(key, self.values[key]) for key in keys if self.values.get(key) is not None), None)


def read_settings(path: Path, metadata: Mapping[str, object]) -> tuple[LoraSettings, ...]:
    """Return the settings of a LoRA file, the longest prefix first; empty if there are none.

    Raises CheckpointError for an invalid adapter_config.json.
    """
    found = list(_of_header(metadata))
    config = config_file(path)
    if not found and config is not None:
        found = [LoraSettings(prefix="", values=_read_config(config))]
    return tuple(sorted(found, key=lambda settings: -len(settings.prefix)))


def config_file(path: Path) -> Path | None:
    """Return the adapter_config.json of a LoRA file: the one in its folder, if no other LoRA is there."""
    config = path.with_name(_CONFIG)
    if not os.path.isfile(config):
        return None
    alone = path.name.startswith("adapter_model") or len(list(path.parent.glob("*.safetensors"))) == 1
    return config if alone else None


def _of_header(metadata: Mapping[str, object]) -> Iterator[LoraSettings]:
    text = metadata.get(_HEADER)
    if text is None:
        return
    values = None
    with suppress(ValueError, RecursionError):
        values = json.loads(str(text))
    if not isinstance(values, dict):
        raise CheckpointError(f"{_HEADER} of its header is not a JSON object")
    tables: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        prefix, _, name = key.rpartition(".")
        tables.setdefault(prefix, {})[name] = value
    for prefix, table in tables.items():
        yield LoraSettings(prefix=prefix, values=table)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            values = json.loads(file.read(_LONGEST_CONFIG))
    except (OSError, ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise CheckpointError("%s is not a JSON object", path)
    return values


def _matches(pattern: str, name: str) -> bool:
    """Return whether a pattern of PEFT, a regular expression for the end of a name, matches a layer.

    Patterns are untrusted. Raises CheckpointError for one whose search could take very long.
    """
    whole = pattern.startswith("^")
    bare = pattern.removeprefix("^").removesuffix("$")
    if len(bare) > 300 or re.search(r"[{}]|\)[*+?]|\[", bare) or len(re.findall(r"(?<!\\)[*+?]", bare)) > 2:
        raise CheckpointError(f"its configuration has the pattern {pattern[:80]!r}, which is too intricate")
    try:
        return re.fullmatch(bare if whole else rf"(?:.*\.)?(?:{bare})", name) is not None
    except re.error:
        raise CheckpointError(f"its configuration has the pattern {pattern[:80]!r}, which is none") from None


def _number(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CheckpointError(f"{key} of its configuration must be a number")
    if not abs(value) < _LARGEST_NUMBER:
        raise CheckpointError(f"{key} of its configuration must be a number below {_LARGEST_NUMBER:g}")
    return value
