"""Map the names in LoRA files to layers of mold's networks and their rows.

Layers have the official names (``double_blocks.0.img_attn.qkv``), diffusers' (``transformer_blocks.0.attn.to_q``) or
by the attention processors of XLabs and USO (``double_blocks.0.processor.qkv_lora1``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from attrs import evolve
from torch import nn

from mold_core import LoraWeight
from mold_core.weights import Place, flat, linear_layers, open_weights, parameter_layers, split_key
from mold_flux.diffusers_layout import layer_names, norm_names, target
from mold_flux.text_encoders import ClipTextEncoder
from mold_flux.transformer import FluxConfig, FluxTransformer

__all__ = ["FluxNames", "takes_control_image"]

# Prefixes of trainers before the names of layers, with underscores. A text encoder's prefix marks its layers.
_TEXT = {
    "lora_te1_": "clip_encoder",
    "lora_te2_": "t5_encoder",
    "lora_te3_": "t5_encoder",
    "lora_te_": "clip_encoder",
    "text_encoder_2_": "t5_encoder",
    "text_encoder_": "clip_encoder",
    "text_encoders_t5xxl_transformer_": "t5_encoder",
    "text_encoders_clip_l_transformer_": "clip_encoder",
    "text_encoders_t5xxl_": "t5_encoder",
    "text_encoders_clip_l_": "clip_encoder",
    "lycoris_te1_": "clip_encoder",
    "lycoris_te_": "clip_encoder",
    "lycoris_text_encoder_2_": "t5_encoder",
    "lycoris_text_encoder_": "clip_encoder",
    "base_model_model_text_model_": "clip_encoder",
    "clip_l_": "clip_encoder",
    "t5xxl_": "t5_encoder",
}
_TRANSFORMER = (
    "base_model_model_",
    "model_diffusion_model_",
    "diffusion_model_",
    "lora_unet_",
    "lora_transformer_",
    "lycoris_",
    "oft_unet_",
    "oft_transformer_",
    "transformer_",
    "unet_",
)


class FluxNames:
    """The names of FLUX.1's layers in LoRA files. LoRAs for control images widen the first layer."""

    widened_layers = frozenset({"img_in"})

    def component_of(self, name: str) -> str:
        """Return the network of a LoRA's tensor: transformer, clip_encoder or t5_encoder."""
        return next((component for prefix, component in _TEXT.items() if name.startswith(prefix)), "transformer")

    def layer_of(self, name: str) -> str:
        """Return a layer's name without prefixes."""
        for prefix in _TEXT:
            if name.startswith(prefix):
                return name.removeprefix(prefix).removeprefix("transformer_")
        while not name.startswith("transformer_blocks_"):
            found = next((prefix for prefix in _TRANSFORMER if name.startswith(prefix)), None)
            if found is None:
                break
            name = name.removeprefix(found)
        return name

    def places_of(self, network: nn.Module) -> dict[str, Place]:
        """Return every linear layer of a network, or some of its rows, by all its names."""
        places = dict(linear_layers(network))
        if isinstance(network, ClipTextEncoder):  # transformers 5 omits the first word
            return {**places, **{name.removeprefix("text_model_"): place for name, place in places.items()}}
        if not isinstance(network, FluxTransformer):
            return places
        config = network.config
        norms = dict(parameter_layers(network))
        for name in norm_names(config.depth_double, config.depth_single):
            places[flat(name)] = norms[flat(target(f"{name}.weight").name.removesuffix(".scale"))]
        return {**places, **dict(_diffusers_layers(config, places)), **dict(_processor_layers(config, places))}


def takes_control_image(loras: Sequence[LoraWeight], inputs: int) -> bool:
    """Return whether a LoRA doubles the `inputs` of the transformer, to add the latents of a control image."""
    return any(lora.scale and _inputs_of(Path(lora.path)) == 2 * inputs for lora in loras)


def _inputs_of(path: Path) -> int | None:
    """Return the input width of a LoRA's first layer; None if it does not change the first layer."""
    names = FluxNames()
    for name, source in open_weights(path).items():
        key = split_key(name)
        if key and key.role == "down" and names.layer_of(flat(key.stem)) in ("img_in", "x_embedder"):
            return source.shape[-1]
    return None


def _diffusers_layers(config: FluxConfig, layers: Mapping[str, Place]) -> Iterator[tuple[str, Place]]:
    """Yield the linear layers by diffusers' names. Several names may refer to rows of one layer."""
    for name in layer_names(config.depth_double, config.depth_single):
        where = target(f"{name}.weight")
        whole = layers.get(flat(where.name.removesuffix(".weight")))
        if whole is None:  # the model has no guidance embedder
            continue
        widths = [whole.rows // where.of] * where.of
        if where.of == 4:  # query, key, value and MLP of a single block
            widths = [config.hidden_size] * 3 + [config.mlp_size]
        first, rows = sum(widths[: where.place]), widths[where.place]
        yield flat(name), evolve(whole, first=first, rows=rows, swapped=where.swapped)


def _processor_layers(config: FluxConfig, layers: Mapping[str, Place]) -> Iterator[tuple[str, Place]]:
    """Yield the layers with LoRAs in attention processors: 1 is for the image, 2 for the text."""
    for number in range(config.depth_double):
        block = f"double_blocks_{number}"
        for stream, index in (("img", 1), ("txt", 2)):
            for layer in ("qkv", "proj"):
                yield f"{block}_processor_{layer}_lora{index}", layers[f"{block}_{stream}_attn_{layer}"]
    for number in range(config.depth_single):
        block = f"single_blocks_{number}"
        qkv = evolve(layers[f"{block}_linear1"], rows=3 * config.hidden_size)
        yield f"{block}_processor_qkv_lora", qkv
        yield f"{block}_linear1_qkv", qkv
        yield f"{block}_processor_proj_lora", layers[f"{block}_linear2"]
