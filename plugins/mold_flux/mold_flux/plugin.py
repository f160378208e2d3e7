"""The hooks of mold-flux: the family `flux`, its models and their files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mold_core import PlacementComponent, Setting, hookimpl

if TYPE_CHECKING:
    from mold_core import ModelFamily, ModelSpec, Signature

__all__ = ["mold_families", "mold_models", "mold_placement_components", "mold_settings", "mold_signatures"]

CATALOG = Path(__file__).parent / "catalog.toml"
SIGNATURES = Path(__file__).parent / "signatures.toml"

T5Variant = Literal["auto", "fp16", "q8", "q6", "q5", "q4", "q3"]


@hookimpl
def mold_families() -> list[ModelFamily]:
    """Return the family `flux`."""
    from mold_flux.family import FluxFamily

    return [FluxFamily()]


@hookimpl
def mold_models() -> list[ModelSpec]:
    """Return the popular checkpoints of FLUX.1."""
    from mold_core import read_catalog

    return read_catalog(CATALOG)


@hookimpl
def mold_signatures() -> list[Signature]:
    """Return the signatures of FLUX.1's files."""
    from mold_core import read_signatures

    return read_signatures(SIGNATURES)


@hookimpl
def mold_placement_components() -> list[PlacementComponent]:
    """Let people place each text encoder."""
    return [
        PlacementComponent(name="t5", title="the T5 text encoder", group="text_encoders"),
        PlacementComponent(name="clip_l", title="the CLIP text encoder", group="text_encoders"),
    ]


@hookimpl
def mold_settings() -> list[Setting]:
    """Let people choose the file of the T5 text encoder."""
    return [
        Setting(
            name="t5_variant",
            env="MOLD_T5_VARIANT",
            key="t5_variant",
            type=T5Variant,
            default="auto",
            doc="File of the T5 text encoder; auto: 16 bits where they fit, else the largest that is here and does.",
            flag="Variant of the T5 text encoder: fp16, q8, q6, q5, q4 or q3.",
            variant_of="t5",
        )
    ]
