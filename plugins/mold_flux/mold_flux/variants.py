"""Identify the variant of a transformer file, and check that the files of a model match, by their headers only."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from attrs import frozen

from mold_core import CheckpointError
from mold_core.weights import open_weights

if TYPE_CHECKING:
    from mold_core.hookspecs import WeightLoader
    from mold_core.weights import TensorSource

__all__ = ["Variant", "check_components", "refuse_other_models"]

# The transformer's inputs besides noise: none, a mask and the image around it, a control image (the edges or the depth
# of the image to generate), or an image to edit.
Variant = Literal["plain", "fill", "control", "kontext"]

# Other models by prefixes of tensor names that only they have. The first match names the file.
_OTHERS = {
    "Chroma": r"distilled_guidance_layer\.|nerf_blocks\.",
    "FLUX.2": r"(double|single)_stream_modulation|single_transformer_blocks\.\d+\.attn\.to_qkv_mlp_proj",
    "FLUX.1 Redux": r"redux_(up|down)\.",
    "HunyuanVideo": r"txt_in\.individual_token_refiner|double_blocks\.\d+\.img_mlp\.fc1",
    "Stable Diffusion 3": r"joint_blocks\.|pos_embed\.proj\.",
    "Stable Diffusion XL": r"label_emb\.|add_embedding\.",
    "Stable Diffusion": r"input_blocks\.|down_blocks\.",
    "Qwen-Image": r"transformer_blocks\.\d+\.(img|txt)_(mlp|mod)\.",
    "LTX-Video": r"patchify_proj\.",
    "Wan": r"blocks\.\d+\.(self_attn|cross_attn)\.",
    "Z-Image": r"(noise|context)_refiner\.",
    "HiDream": r"(double|single)_stream_blocks\.",
    "AuraFlow": r"(double|single)_layers\.\d+\.attn\.w",
}

_UNPLAIN = ("U8", "I8")  # matrices of these types may have the shapes of packed numbers


def refuse_other_models(names: Iterable[str]) -> None:
    """Raise CheckpointError for the transformer of another image or video model, and name that model."""
    listed = list(names)
    for title, pattern in _OTHERS.items():
        begins = re.compile(pattern)
        if any(begins.match(name) for name in listed):
            raise CheckpointError(
                f"this is {title}, and no FLUX.1 transformer",
                hint="mold list shows the models that mold runs",
            )


@frozen(kw_only=True)
class _Size:
    """A size that two components share, and the tensors whose shapes contain it: names and dimension."""

    names: tuple[str, ...]
    dimension: int


_INPUTS = _Size(names=("img_in.weight", "x_embedder.weight"), dimension=1)
_OUTPUTS = _Size(names=("final_layer.linear.weight", "proj_out.weight"), dimension=0)
_LATENTS = _Size(names=("decoder.conv_in.weight",), dimension=1)
_CONTEXT = _Size(names=("txt_in.weight", "context_embedder.weight"), dimension=1)
_POOLED = _Size(names=("vector_in.in_layer.weight", "time_text_embed.text_embedder.linear_1.weight"), dimension=1)
_T5_WIDTH = _Size(names=("shared.weight", "encoder.embed_tokens.weight", "token_embd.weight"), dimension=1)
_CLIP_WIDTH = _Size(
    names=("text_model.embeddings.token_embedding.weight", "embeddings.token_embedding.weight"), dimension=1
)


def check_components(files: Mapping[str, Path], hint: str, loaders: Iterable[WeightLoader] = ()) -> Variant:
    """Check that the files of a model match, and return the variant of its transformer.

    `files` are those of transformer, vae, t5_encoder and clip_encoder. `hint` is the variant in the model's table.
    Kontext has the shapes of FLUX.1 dev, so a table, a header or a file name must identify it. Raises CheckpointError
    naming both files and their numbers. Reads headers only.
    """
    from mold_flux.checkpoints import component_tensors

    loaders = tuple(loaders)
    headers = {name: open_weights(path, loaders) for name, path in files.items()}
    sources = {name: component_tensors(name, header) for name, header in headers.items()}
    path = files["transformer"]
    try:
        refuse_other_models(sources["transformer"])
    except CheckpointError as error:
        raise CheckpointError("%s: %s", path, error, hint=error.hint) from None
    outputs, latents = _read(sources["transformer"], _OUTPUTS), _read(sources["vae"], _LATENTS)
    if outputs and latents and outputs != 4 * latents:
        raise CheckpointError(
            "%s returns %s channels for 2x2 latents, and the autoencoder %s has latents of %s channels (%s for 2x2)",
            path, outputs, files["vae"], latents, 4 * latents,
        )  # fmt: skip
    for size, component, width, title in (
        (_CONTEXT, "t5_encoder", _T5_WIDTH, "T5"),
        (_POOLED, "clip_encoder", _CLIP_WIDTH, "CLIP"),
    ):
        takes, gives = _read(sources["transformer"], size), _read(sources[component], width)
        if takes and gives and takes != gives:
            raise CheckpointError(
                "%s takes %s embeddings of %s channels, and the text encoder %s gives %s",
                path, title, takes, files[component], gives,
            )  # fmt: skip
    inputs = _read(sources["transformer"], _INPUTS)
    if inputs and outputs and inputs != outputs:
        return _widened(path, inputs, outputs, _factor(sources["vae"]))
    named = hint == "kontext" or "kontext" in path.name.lower() or _says_kontext(headers["transformer"])
    return "kontext" if named else "plain"


def _widened(path: Path, inputs: int, outputs: int, factor: int) -> Variant:
    """Return the variant of a transformer with more input channels than output channels."""
    if inputs == 2 * outputs + 4 * factor**2:
        return "fill"
    if inputs == 2 * outputs:
        return "control"
    raise CheckpointError(
        "%s is a variant of FLUX.1 that mold does not know: its transformer takes %s input channels. mold runs those"
        " that take %s (FLUX.1 dev, schnell, Krea, Kontext), %s (Canny, Depth) or %s (Fill)",
        path, inputs, outputs, 2 * outputs, 2 * outputs + 4 * factor**2,
    )  # fmt: skip


def _factor(autoencoder: Mapping[str, TensorSource]) -> int:
    """Return the pixels per latent along each side: a factor of 2 for each level except one."""
    levels = {match[1] for name in autoencoder if (match := re.match(r"decoder\.up(?:_blocks)?\.(\d+)\.", name))}
    return int(2 ** max(0, len(levels) - 1))


def _read(sources: Mapping[str, TensorSource], size: _Size) -> int | None:
    for name in size.names:
        source = sources.get(name)
        if source is not None and source.type.name not in _UNPLAIN and len(source.shape) > size.dimension:
            return int(source.shape[size.dimension])
    return None


def _says_kontext(header: Mapping[str, TensorSource]) -> bool:
    metadata: Mapping[str, object] = getattr(header, "metadata", {})
    keys = ("modelspec.architecture", "modelspec.title", "general.name", "general.basename")
    return any("kontext" in str(metadata.get(key, "")).lower() for key in keys)
