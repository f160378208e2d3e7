"""Load the pipeline of a catalog entry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from attrs import frozen
from torch import nn

from mold_core import CheckpointError
from mold_core.families import EmptyComponent, load_resident, memory_plan, planned_components, to_channels_last
from mold_core.weights import empty_modules, overflows_fp16, read_weights
from mold_flux import checkpoints
from mold_flux.autoencoder import Autoencoder, AutoencoderConfig
from mold_flux.compile import attention_for, compile_blocks
from mold_flux.components import COMPONENTS, dtype_of, expands, model_components
from mold_flux.native_resolution import NativeSize
from mold_flux.pipeline import FluxPipeline
from mold_flux.prompts import PromptEncoder
from mold_flux.schedule import DEV, SCHNELL
from mold_flux.text_encoders import ClipTextEncoder, ClipTokenizer, T5Encoder, T5Tokenizer
from mold_flux.transformer import FluxTransformer
from mold_flux.variants import check_components

if TYPE_CHECKING:
    from mold_core import LoadContext, LocalFiles, MemoryPlan, ModelSpec
    from mold_flux.checkpoints import Weights

__all__ = ["load_pipeline"]

# Properties of the published variants that their weights do not tell: the spacing of noise levels, and the number of T5
# tokens that prompts were padded to in training.
_VARIANTS = {"dev": (DEV, 512), "schnell": (SCHNELL, 256), "fill": (DEV, 512), "kontext": (DEV, 512)}

# Files below the models folder, the first of which that exists provides the embedding layers for GGUF files without.
_DONORS = {
    "dev": (
        "flux-dev-q8/flux1-dev-Q8_0.gguf",
        "flux-dev-q6/flux1-dev-Q6_K.gguf",
        "flux-dev-q4/flux1-dev-Q4_1.gguf",
        "flux-krea-q8/flux1-krea-dev-Q8_0.gguf",
        "flux-krea-q6/flux1-krea-dev-Q6_K.gguf",
        "flux-krea-q4/flux1-krea-dev-Q4_1.gguf",
    ),
    "schnell": (
        "flux-schnell-q8/flux1-schnell-Q8_0.gguf",
        "flux-schnell-q6/flux1-schnell-Q6_K.gguf",
        "flux-schnell-q4/flux1-schnell-Q4_1.gguf",
    ),
}


def load_pipeline(spec: ModelSpec, files: LocalFiles, context: LoadContext) -> FluxPipeline:
    """Return the model of a catalog entry, held in memory as the plan of `context` says; without one, all of it.

    Sizes are read off the weights, and compared before anything large is loaded. ``options.variant`` (dev, schnell,
    fill, kontext) says what they do not tell; the tables
    ``transformer``, ``autoencoder``, ``clip`` and ``t5`` of the options, and ``text_tokens``, say it of models that
    are not FLUX.1's size. Quantised weights stay so in memory unless ``expand`` is true. ``donors`` lists transformer
    files, below the models folder, that lend embedding layers to one without. ``native_side`` is the side of the square
    images that a model was trained on, where it draws no others well. Raises CheckpointError naming the file.
    """
    options = spec.options
    schedule, text_tokens = _VARIANTS[options["variant"]]
    plan = memory_plan(context, lambda: model_components(spec, files, context))
    networks = _Networks(spec, files, context, plan)
    variant = check_components(networks.paths(), options["variant"], context.loaders)
    prompts = PromptEncoder(
        ClipTokenizer(files.one("clip_tokenizer")),
        T5Tokenizer(files.one("t5_tokenizer"), length=options.get("text_tokens", text_tokens)),
    )
    components = planned_components(plan, context, networks.component)
    load_resident(components, context.report)
    return FluxPipeline(
        components,
        autoencoder_config=networks.autoencoder_config(),
        prompts=prompts,
        schedule=schedule,
        device=plan.component("transformer").device,
        budget_device=context.device,
        threads=context.threads,
        dtypes=networks.dtypes,
        attention=context.attention,
        native=NativeSize(side=int(options["native_side"])) if "native_side" in options else None,
        variant=variant,
        reference_px=(spec.defaults.width or 1024) * (spec.defaults.height or 1024),
    )


@frozen
class _Architecture:
    """The network of a component: its table of the options, its tensors, its sizes, and the units that are streamed."""

    table: str
    tensors_of: Callable[[Weights], Weights]
    config_of: Callable[..., Any]
    network: Callable[[Any], nn.Module]
    stream_units: Callable[[Any], list[nn.Module]] = lambda module: []
    channels_last: bool = False


_ARCHITECTURES = {
    "clip_encoder": _Architecture("clip", checkpoints.clip_tensors, checkpoints.clip_config, ClipTextEncoder),
    "t5_encoder": _Architecture("t5", checkpoints.t5_tensors, checkpoints.t5_config, T5Encoder, T5Encoder.stream_units),
    "transformer": _Architecture(
        "transformer",
        checkpoints.transformer_tensors,
        checkpoints.transformer_config,
        FluxTransformer,
        FluxTransformer.stream_units,
    ),
    "vae": _Architecture(
        "autoencoder",
        checkpoints.autoencoder_tensors,
        checkpoints.autoencoder_config,
        Autoencoder,
        channels_last=True,
    ),
}


class _Networks:
    """Describes the networks of a model from their files."""

    def __init__(self, spec: ModelSpec, files: LocalFiles, context: LoadContext, plan: MemoryPlan) -> None:
        self._spec = spec
        self._options = spec.options
        self._files = files
        self._context = context
        self._plan = plan

    @cached_property
    def dtypes(self) -> Mapping[str, torch.dtype]:
        """What each component computes in. A transformer with numbers too large for fp16 computes in fp32."""
        dtypes = {component: dtype_of(component, self._context) for component in COMPONENTS}
        if dtypes["transformer"] == torch.float16 and overflows_fp16(self._tensors("transformer")[0].values()):
            dtypes["transformer"] = torch.float32
        return dtypes

    def autoencoder_config(self) -> AutoencoderConfig:
        """Return the sizes of the autoencoder, without loading it. Raises CheckpointError for another model's file."""
        config: AutoencoderConfig = self._tensors("vae")[1]
        return config

    def component(self, name: str) -> EmptyComponent:
        """Return a network of the sizes that a component's file has, and how it is loaded."""
        architecture = _ARCHITECTURES[name]
        tensors, config = self._tensors(name)
        with empty_modules():
            network = architecture.network(config)
        return EmptyComponent(
            network=network,
            tensors=tensors,
            path=self._path(name),
            dtype=self.dtypes[name],
            dequantize=expands(self._spec, self._context),
            dequantize_if_spare=name == "transformer",
            stream_units=lambda: architecture.stream_units(network),
            prepare=to_channels_last if architecture.channels_last else None,
            compile_blocks=partial(self._compile, network) if isinstance(network, FluxTransformer) else None,
        )

    def _compile(self, transformer: FluxTransformer) -> None:
        context, device = self._context, self._plan.component("transformer").device
        compile_blocks(
            transformer,
            graphs=context.cuda_graphs and device.startswith("cuda") and not self._plan.streams("transformer"),
            attention=attention_for(device, context.attention),
            cache_dir=context.cache_dir,
        )

    def _tensors(self, component: str) -> tuple[Weights, Any]:
        path, architecture = self._path(component), _ARCHITECTURES[component]
        found = read_weights(path, self._context.loaders)
        try:
            tensors = self.transformer_tensors(found) if component == "transformer" else architecture.tensors_of(found)
            shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            return tensors, architecture.config_of(shapes, **self._options.get(architecture.table, {}))
        except CheckpointError as error:
            raise CheckpointError("%s: %s", path, error, hint=error.hint) from None

    def paths(self) -> dict[str, Path]:
        """Return the file of each component that has weights."""
        return {component: self._path(component) for component in COMPONENTS}

    def _path(self, component: str) -> Path:
        (path,) = self._plan.component(component).files
        return path

    def transformer_tensors(self, tensors: Weights) -> Weights:
        """Return a transformer's tensors, with the embedding layers of a donor if the file has none."""
        tensors_here = checkpoints.transformer_tensors(tensors)
        if not checkpoints.lacks_embeddings(tensors_here):
            return tensors_here
        variant = self._options["variant"]
        folder = self._models_folder()
        for donor in self._options.get("donors", _DONORS.get(variant, ())):
            if (folder / donor).is_file():
                donated = checkpoints.transformer_tensors(read_weights(folder / donor, self._context.loaders))
                return checkpoints.with_embeddings_of(tensors_here, donated)
        raise CheckpointError(
            "this file lacks the layers that fine-tunes of FLUX.1 share (img_in, time_in, …), and no model that has"
            " them is downloaded",
            hint=f"mold pull flux-{variant}:q8 fetches one" if variant in _DONORS else None,
        )

    def _models_folder(self) -> Path:
        """Return the folder that the paths of the catalog entry are relative to."""
        entry = next(file for file in self._spec.files if file.component == "transformer")
        path = self._files.one("transformer")
        return path.parents[min(len(Path(entry.path).parts), len(path.parents)) - 1]
