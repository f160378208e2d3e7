"""How LoRAs (LoRA) name LTX-2's layers: as the official files do, as diffusers does, both with prefixes."""

from __future__ import annotations

from torch import nn

from mold_core.weights import Place, linear_layers
from mold_ltx2.checkpoints import diffusers_name

__all__ = ["Ltx2Names"]

_PREFIXES = (
    "base_model_model_",
    "model_diffusion_model_",
    "diffusion_model_",
    "lora_unet_",
    "lora_transformer_",
    "lycoris_",
    "oft_unet_",
    "oft_transformer_",
    "transformer_",
    "model_",
)


class Ltx2Names:
    """How LoRAs name the layers of LTX-2's transformer, which is the only network they are put beside."""

    def component_of(self, name: str) -> str:
        """Return that a tensor is for the transformer; it will have no place for those of others."""
        return "transformer"

    def layer_of(self, name: str) -> str:
        """Return diffusers' name of a layer."""
        while not name.startswith("transformer_blocks_"):
            prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None)
            if prefix is None:
                break
            name = name.removeprefix(prefix)
        return diffusers_name(name)

    def places_of(self, network: nn.Module) -> dict[str, Place]:
        """Return every linear layer by its name."""
        return dict(linear_layers(network))
