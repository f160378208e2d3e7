"""Settings of mold: one table, read as flag > environment > ``$MOLD_HOME/config.toml`` > default."""

from mold_core.settings.components import SHARED_COMPONENTS, PlacementComponent
from mold_core.settings.parsing import parse_setting
from mold_core.settings.plugin_values import OtherPlugins, setting_problem, with_plugin_values
from mold_core.settings.row import Setting
from mold_core.settings.table import (
    AttentionChoice,
    CompileMode,
    ComputeMode,
    DeviceName,
    ExpandWeights,
    Settings,
    StrategyChoice,
    setting_table,
)

__all__ = [
    "SHARED_COMPONENTS",
    "AttentionChoice",
    "CompileMode",
    "ComputeMode",
    "DeviceName",
    "ExpandWeights",
    "OtherPlugins",
    "PlacementComponent",
    "Setting",
    "Settings",
    "StrategyChoice",
    "parse_setting",
    "setting_problem",
    "setting_table",
    "with_plugin_values",
]
