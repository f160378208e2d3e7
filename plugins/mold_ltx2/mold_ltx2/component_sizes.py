"""Memory that the components of an LTX-2 model take, from the headers of its files. Imports torch only for a dtype."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mold_core import ModelComponent
from mold_core.weights import ComponentSizes, measure, open_weights
from mold_ltx2.components import COMPONENTS, Components
from mold_ltx2.tiles import TILE_PX_FRAMES

if TYPE_CHECKING:
    from mold_core import LoadContext, LocalFiles, ModelSpec

__all__ = ["device_of", "model_components", "number_bytes"]

# The name under which a component is placed; all others are placed with the transformer.
_PLACEMENT_NAMES = {"text_encoder": "text_encoders", "vae": "vae", "audio_vae": "vae", "vocoder": "vae"}

# The tensors of a unit that is streamed.
_UNITS = {
    "text_encoder": re.compile(r"^layers\.\d+\."),
    "transformer": re.compile(r"^transformer_blocks\.\d+\."),
}

# Sizes of LTX-2 and LTX-2.3, for files that are not downloaded: billions of numbers, of which the transformer's blocks
# are in fp8 in files of that kind; and the shares of weights that do not stream, and of the largest unit.
_NUMBERS: Mapping[str, float] = {"connectors": 1.43e9, "vae": 1.22e9, "audio_vae": 0.053e9, "vocoder": 0.056e9}
_NUMBERS_23: Mapping[str, float] = {"connectors": 3.17e9, "vae": 0.73e9, "audio_vae": 0.053e9, "vocoder": 0.129e9}
_SHARES = {"text_encoder": (0.085, 0.0191), "transformer": (0.02, 0.0205)}

# Numbers per token and channel of video that are in memory at once in a step: the residual stream, the activations of
# attention and MLP, as in FLUX.1, and the modulations of each token, of which there are up to nine.
_TOKEN_WIDTHS = 50
# Numbers for every pixel of every frame that the video autoencoder decodes at once.
_PIXEL_NUMBERS = 180
# Gemma: per token and channel, in addition to the states of all layers, which the connectors normalise in copies.
_TEXT_WIDTHS, _STATE_COPIES = 20, 4


def device_of(component: str, context: LoadContext) -> str:
    """Return the device of a component: the requested one, else that of the context."""
    return context.memory_policy.device_of(_PLACEMENT_NAMES.get(component, "transformer"), default=context.device)


def number_bytes(component: str, spec: ModelSpec, context: LoadContext) -> int:
    """Return the bytes of each number of a component that is not quantised."""
    from mold_ltx2.dtypes import dtype_of

    device = device_of(component, context)
    return dtype_of(component, spec, device, context.capabilities.get(device)).itemsize


def model_components(spec: ModelSpec, files: LocalFiles, context: LoadContext) -> tuple[ModelComponent, ...]:
    """Return the components of a model in the order of their use.

    Downloaded files are measured by their headers, others by the catalog. Raises CheckpointError for a header that
    cannot be read.
    """
    components = Components(files, spec.options, context.loaders)
    on_disk = all(path.is_file() for paths in files.by_component.values() for path in paths)
    sizes = _measured(spec, components, context) if on_disk else _announced(spec, context)
    working = _working_numbers(spec, components if on_disk else None)
    paths = _paths(components, files) if on_disk else {}
    lora_bytes = sum(file.size_bytes or 0 for file in spec.files if file.component == "distilled_lora")
    return tuple(
        ModelComponent(
            name=name,
            size_bytes=size.total_bytes,
            device=device_of(name, context),
            streamed_bytes=size.streamed_bytes(device_of(name, context)),
            working_bytes=working.get(name, 0) * number_bytes(name, spec, context)
            + (lora_bytes if name == "transformer" else 0),  # the transformer uses it in a second pass
            files=paths.get(name, ()),
            together=1,
        )
        for name, size in sizes.items()
    )


def _measured(spec: ModelSpec, components: Components, context: LoadContext) -> dict[str, ComponentSizes]:
    expand = context.expand_weights == "always"
    headers: dict[str, Mapping[str, Any]] = {"text_encoder": components.text_headers()}
    headers |= {name: components.headers(name) for name in COMPONENTS}
    headers |= {kind: open_weights(file.path, context.loaders) for kind, file in components.upsamplers.items()}
    return {
        name: measure(found, number_bytes(name, spec, context), expand=expand, unit=_UNITS.get(name))
        for name, found in headers.items()
    }


def _paths(components: Components, files: LocalFiles) -> dict[str, tuple[Path, ...]]:
    return {
        "text_encoder": files.by_component["text_encoder"],
        **{name: (components.path(name),) for name in COMPONENTS},
        **{kind: (file.path,) for kind, file in components.upsamplers.items()},
    }


def _announced(spec: ModelSpec, context: LoadContext) -> dict[str, ComponentSizes]:
    """Return the sizes of files that are not downloaded, from the catalog, whose files are bf16 or fp8."""
    files: dict[str, int] = {}
    for file in spec.files:
        files[file.component] = files.get(file.component, 0) + (file.size_bytes or 0)
    counts = _NUMBERS_23 if spec.name.startswith("ltx-2.3") else _NUMBERS  # only the name tells
    others = {name: int(numbers * number_bytes(name, spec, context)) for name, numbers in counts.items()}
    # Only tensors in bf16 can grow: all of a transformer in bf16, few of one in fp8.
    stored = 2 if spec.tag in ("bf16", "fp16") else 1
    wider = {name: number_bytes(name, spec, context) / 2 for name in _SHARES}
    transformer = files.get("transformer", 0) - sum(int(numbers * 2) for numbers in counts.values())
    totals = {
        "text_encoder": int(files.get("text_encoder", 0) * wider["text_encoder"]),
        "connectors": others["connectors"],
        "transformer": int(transformer * (wider["transformer"] if stored == 2 else 1)),
        **{name: others[name] for name in ("vae", "audio_vae", "vocoder")},
    }
    totals |= {name: size for name, size in files.items() if name.endswith("_upscaler")}
    return {
        name: ComponentSizes(
            total_bytes=total,
            staying_bytes=int(total * _SHARES.get(name, (1, 0))[0]),
            largest_bytes=int(total * _SHARES.get(name, (1, 0))[1]),
        )
        for name, total in totals.items()
    }


def _working_numbers(spec: ModelSpec, components: Components | None) -> dict[str, int]:
    """Return the numbers in memory in addition to the weights, for one clip of the model's default size."""
    defaults = spec.defaults
    pixels, frames = (defaults.width or 1216) * (defaults.height or 704), defaults.frames or 97
    words = int(spec.options.get("text_tokens", 1024))
    space, width, layers, hidden = 32, 4096, 48, 3840
    if components is not None:
        space = components.config("vae").get("spatial_compression_ratio", 32)
        sizes = components.config("transformer")
        width = sizes.get("num_attention_heads", 32) * sizes.get("attention_head_dim", 128)
        embedding = components.text_headers()
        hidden = embedding["norm.weight"].shape[0]
        layers = sum(name.endswith(".input_layernorm.weight") for name in embedding)
    tokens = pixels // space**2 * ((frames - 1) // 8 + 1)
    decoding = min(pixels * frames, TILE_PX_FRAMES) * _PIXEL_NUMBERS
    return {
        "text_encoder": words * hidden * (_TEXT_WIDTHS + layers + 1),
        "connectors": words * hidden * (layers + 1) * _STATE_COPIES,
        "transformer": tokens * width * _TOKEN_WIDTHS,
        "vae": decoding,
    }
