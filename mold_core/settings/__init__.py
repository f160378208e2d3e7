"""Settings of mold: one table, read as flag > environment > ``$MOLD_HOME/config.toml`` > default."""

from mold_core.settings.parsing import parse_setting
from mold_core.settings.row import Setting
from mold_core.settings.table import (
    AttentionChoice,
    CompileMode,
    DeviceName,
    ExpandWeights,
    Settings,
    StrategyChoice,
    setting_table,
)

__all__ = [
    "AttentionChoice",
    "CompileMode",
    "DeviceName",
    "ExpandWeights",
    "Setting",
    "Settings",
    "StrategyChoice",
    "parse_setting",
    "setting_table",
]
