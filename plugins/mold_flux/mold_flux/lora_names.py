"""Where the weights of a low-rank LoRA go: the names that trainers write → layers of our networks, and their rows.

Layers are named the official way (``double_blocks.0.img_attn.qkv``) or diffusers' (``transformer_blocks.0.attn.to_q``).
"""

from __future__ import annotations

from torch import nn

from mold_core.weights import Place, flat, linear_layers
from mold_flux.diffusers_layout import layer_names, target
from mold_flux.transformer import FluxTransformer

__all__ = ["FluxNames"]

# What trainers put before the names of layers, in underscores. Names with a text encoder's prefix are that encoder's.
_TEXT = {
    "lora_te1_": "clip_encoder",
    "lora_te2_": "t5_encoder",
    "lora_te3_": "t5_encoder",
    "lora_te_": "clip_encoder",
    "text_encoder_2_": "t5_encoder",
    "text_encoder_": "clip_encoder",
    "text_encoders_t5xxl_transformer_": "t5_encoder",
    "text_encoders_clip_l_transformer_": "clip_encoder",
}
_TRANSFORMER = (
    "base_model_model_",
    "model_diffusion_model_",
    "diffusion_model_",
    "lora_unet_",
    "lora_transformer_",
    "transformer_",
    "unet_",
)


class FluxNames:
    """How LoRAs name FLUX.1's layers."""

    def component_of(self, name: str) -> str:
        """Return which network a tensor of a LoRA is for: transformer, clip_encoder or t5_encoder."""
        return next((component for prefix, component in _TEXT.items() if name.startswith(prefix)), "transformer")

    def layer_of(self, name: str) -> str:
        """Return a layer's name without the prefixes before it."""
        for prefix in _TEXT:
            if name.startswith(prefix):
                return name.removeprefix(prefix)
        while not name.startswith("transformer_blocks_"):
            found = next((prefix for prefix in _TRANSFORMER if name.startswith(prefix)), None)
            if found is None:
                break
            name = name.removeprefix(found)
        return name

    def places_of(self, network: nn.Module) -> dict[str, Place]:
        """Return every linear layer of a network, or part of one, by all its names."""
        places = dict(linear_layers(network))
        if not isinstance(network, FluxTransformer):
            return places
        config = network.config
        for name in layer_names(config.depth_double, config.depth_single):
            where = target(f"{name}.weight")
            whole = places.get(flat(where.name.removesuffix(".weight")))
            if whole is None:  # the guidance embedder of a model without one
                continue
            widths = [whole.rows // where.of] * where.of
            if where.of == 4:  # a single block's query, key, value and MLP
                widths = [config.hidden_size] * 3 + [config.mlp_size]
            first, rows = sum(widths[: where.place]), widths[where.place]
            places[flat(name)] = Place(
                layer=whole.layer, first=first, rows=rows, columns=whole.columns, swapped=where.swapped
            )
        return places
