"""The model catalog: names, files and defaults of models, and which files are on this machine.

Downloading is in `mold_core.catalog.pull`, which is not imported here because most programs never download.
"""

from mold_core.catalog.adopted import CatalogWithAdopted
from mold_core.catalog.default import DefaultModel, default_model, remember_model
from mold_core.catalog.loras import LoraFolder, SuppliedLora, refuse_lora_paths
from mold_core.catalog.model import ModelDefaults, ModelEntry, ModelFile, ModelSpec, Vocabulary, read_catalog
from mold_core.catalog.names import nearest_names, resolve
from mold_core.catalog.signature import Layout, Signature, read_signatures
from mold_core.catalog.store import LocalFiles, ModelStore
from mold_core.catalog.user_models import user_models

__all__ = [
    "CatalogWithAdopted",
    "DefaultModel",
    "Layout",
    "LocalFiles",
    "LoraFolder",
    "ModelDefaults",
    "ModelEntry",
    "ModelFile",
    "ModelSpec",
    "ModelStore",
    "Signature",
    "SuppliedLora",
    "Vocabulary",
    "default_model",
    "nearest_names",
    "read_catalog",
    "read_signatures",
    "refuse_lora_paths",
    "remember_model",
    "resolve",
    "user_models",
]
