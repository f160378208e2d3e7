"""flux-nano written in the formats that people have FLUX.1 in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs
import torch
from gguf_files import write_gguf
from safetensors.torch import load_file, save_file
from torch import Tensor

from mold_core import Engine, ModelSpec
from mold_flux.checkpoints import transformer_config
from mold_flux.diffusers_layout import layer_names
from mold_flux.lora_names import FluxNames
from mold_flux.transformer import FluxTransformer

__all__ = ["FORMATS", "nano_in", "replace_model"]

FORMATS = ("diffusers", "bfl with prefix", "fp8", "scaled fp8", "Q8_0", "Q5_1", "Q4_0")


def replace_model(engine: Engine, spec: ModelSpec) -> None:
    """Let an engine use another catalog entry under the name of `spec`."""
    object.__setattr__(engine.plugins, "catalog", {**engine.plugins.models, spec.name: spec})


def nano_in(format: str, nano: ModelSpec, folder: Path) -> ModelSpec:
    """Return flux-nano with its transformer written into `folder` in another format."""
    assert nano.root is not None
    (file,) = (file for file in nano.files if file.component == "transformer")
    state, path = load_file(nano.root / file.path), folder / f"{format}.weights"
    match format:
        case "diffusers":
            save_file(in_diffusers_layout(state, nano.options["transformer"]["axes_dim"]), path)
        case "bfl with prefix":
            save_file({f"model.diffusion_model.{name}": tensor for name, tensor in state.items()}, path)
        case "fp8" | "scaled fp8":
            save_file(in_fp8(state, scaled=format.startswith("scaled")), path)
        case _:
            write_gguf(path, state, {name: format for name, tensor in state.items() if is_matrix(name, tensor)})
    files = tuple(attrs.evolve(one, path=str(path)) if one is file else one for one in nano.files)
    return attrs.evolve(nano, files=files)


def is_matrix(name: str, tensor: Tensor) -> bool:
    return name.endswith(".weight") and tensor.ndim == 2


def in_fp8(state: Mapping[str, Tensor], *, scaled: bool) -> dict[str, Tensor]:
    written: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not is_matrix(name, tensor):
            written[name] = tensor
            continue
        scale = tensor.float().abs().max() / 448 if scaled else torch.tensor(1.0)
        written[name] = (tensor.float() / scale).to(torch.float8_e4m3fn)
        if scaled:
            written[f"{name}_scale"] = scale
    return written


def in_diffusers_layout(state: Mapping[str, Tensor], axes_dim: list[int]) -> dict[str, Tensor]:
    """Return a transformer's tensors under diffusers' names, joined layers taken apart."""
    config = transformer_config({name: tensor.shape for name, tensor in state.items()}, axes_dim=axes_dim)
    with torch.device("meta"):
        places = FluxNames().places_of(FluxTransformer(config))
    written: dict[str, Tensor] = {}
    for name in layer_names(config.depth_double, config.depth_single):
        place = places.get(name.replace(".", "_"))
        for kind in ("weight", "bias") if place else ():
            rows = state[f"{place.layer}.{kind}"][place.first : place.first + place.rows]
            written[f"{name}.{kind}"] = torch.cat(rows.chunk(2)[::-1]) if place.swapped else rows.clone()
    streams = (("img_attn", "norm_q", "norm_k"), ("txt_attn", "norm_added_q", "norm_added_k"))
    for number in range(config.depth_double):
        for stream, query, key in streams:
            norm = f"double_blocks.{number}.{stream}.norm"
            written[f"transformer_blocks.{number}.attn.{query}.weight"] = state[f"{norm}.query_norm.scale"]
            written[f"transformer_blocks.{number}.attn.{key}.weight"] = state[f"{norm}.key_norm.scale"]
    for number in range(config.depth_single):
        norm = f"single_blocks.{number}.norm"
        written[f"single_transformer_blocks.{number}.attn.norm_q.weight"] = state[f"{norm}.query_norm.scale"]
        written[f"single_transformer_blocks.{number}.attn.norm_k.weight"] = state[f"{norm}.key_norm.scale"]
    return written
