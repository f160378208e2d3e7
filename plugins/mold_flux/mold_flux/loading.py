"""From the files of a catalog entry to a pipeline that runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from attrs import frozen
from torch import nn

from mold_core import CheckpointError, Info, MemoryPlan
from mold_core.weights import (
    BlockStream,
    LoadedComponents,
    LoadProgress,
    empty_modules,
    load_weights,
    overflows_fp16,
    read_weights,
)
from mold_flux import checkpoints
from mold_flux.autoencoder import Autoencoder, AutoencoderConfig
from mold_flux.compile import attention_for, compile_blocks, worth_compiling
from mold_flux.components import COMPONENTS, dtype_of, expands, model_components
from mold_flux.native_resolution import NativeSize
from mold_flux.pipeline import FluxPipeline
from mold_flux.prompts import PromptEncoder
from mold_flux.schedule import DEV, SCHNELL
from mold_flux.text_encoders import ClipTextEncoder, ClipTokenizer, T5Encoder, T5Tokenizer
from mold_flux.transformer import FluxTransformer

if TYPE_CHECKING:
    from mold_core import LoadContext, LocalFiles, ModelSpec, ProgressEvent
    from mold_core.weights import ComponentLoader
    from mold_flux.checkpoints import Weights

__all__ = ["load_pipeline"]

# What the weights of the published variants do not tell: how noise levels are spaced, and to how many T5 tokens
# prompts were padded in training.
_VARIANTS = {"dev": (DEV, 512), "schnell": (SCHNELL, 256)}

# Transformers that lend their embedding layers to GGUF files without any: the first that is here, below the models
# folder; and what to pull where there is none.
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

    Sizes are read off the weights. ``options.variant`` (dev, schnell) says what they do not tell; the tables
    ``transformer``, ``autoencoder``, ``clip`` and ``t5`` of the options, and ``text_tokens``, say it of models that
    are not FLUX.1's size. Quantised weights stay so in memory unless ``expand`` is true. ``donors`` lists transformer
    files, below the models folder, that lend embedding layers to one without. ``native_side`` is the side of the square
    images that a model was trained on, where it draws no others well. Raises CheckpointError naming the file.
    """
    options = spec.options
    schedule, text_tokens = _VARIANTS[options["variant"]]
    plan = context.plan or MemoryPlan(strategy="eager", parts=model_components(spec, files, context), room={})
    loader = _Loader(spec, files, context, plan)
    prompts = PromptEncoder(
        ClipTokenizer(files.one("clip_tokenizer")),
        T5Tokenizer(files.one("t5_tokenizer"), length=options.get("text_tokens", text_tokens)),
    )
    parts = LoadedComponents(plan, {name: loader.part(name) for name in COMPONENTS})
    if plan.strategy == "eager":
        parts.load_all(context.report)
    return FluxPipeline(
        parts=parts,
        autoencoder_config=loader.autoencoder_config(),
        prompts=prompts,
        schedule=schedule,
        device=plan.part("transformer").device,
        home=context.device,
        threads=context.threads,
        dtypes=loader.dtypes,
        attention=context.attention,
        native=NativeSize(side=int(options["native_side"])) if "native_side" in options else None,
    )


@frozen
class _Kind:
    """How a component becomes a network: its table of the options, its tensors, its sizes, and what is streamed."""

    table: str
    tensors_of: Callable[[Weights], Weights]
    config_of: Callable[..., Any]
    network: Callable[[Any], nn.Module]
    units_of: Callable[[Any], list[nn.Module]] = lambda module: []
    memory_format: torch.memory_format = torch.preserve_format


_KINDS = {
    "clip_encoder": _Kind("clip", checkpoints.clip_tensors, checkpoints.clip_config, ClipTextEncoder),
    "t5_encoder": _Kind("t5", checkpoints.t5_tensors, checkpoints.t5_config, T5Encoder, T5Encoder.units),
    "transformer": _Kind(
        "transformer",
        checkpoints.transformer_tensors,
        checkpoints.transformer_config,
        FluxTransformer,
        FluxTransformer.units,
    ),
    "vae": _Kind(
        "autoencoder",
        checkpoints.autoencoder_tensors,
        checkpoints.autoencoder_config,
        Autoencoder,
        memory_format=torch.channels_last,
    ),
}


class _Loader:
    """Builds networks and fills them from their files, one after the other, whenever they are wanted."""

    def __init__(self, spec: ModelSpec, files: LocalFiles, context: LoadContext, plan: MemoryPlan) -> None:
        self._spec = spec
        self._options = spec.options
        self._files = files
        self._context = context
        self._plan = plan
        self._loaded_bytes = 0
        self._total_bytes = sum(part.size_bytes for part in plan.parts)

    @cached_property
    def dtypes(self) -> Mapping[str, torch.dtype]:
        """What each component computes in. A transformer with numbers too large for fp16 computes in fp32."""
        dtypes = {component: dtype_of(component, self._context) for component in COMPONENTS}
        if dtypes["transformer"] == torch.float16 and overflows_fp16(self._tensors("transformer")[0].values()):
            dtypes["transformer"] = torch.float32
        return dtypes

    def part(self, component: str) -> ComponentLoader:
        """Return what loads a component."""
        return lambda report: self.load(component, report)

    def autoencoder_config(self) -> AutoencoderConfig:
        """Return the sizes of the autoencoder, without loading it. Raises CheckpointError for another model's file."""
        config: AutoencoderConfig = self._tensors("vae")[1]
        return config

    def load(self, component: str, report: Callable[[ProgressEvent], object]) -> tuple[nn.Module, BlockStream | None]:
        """Return a network with the weights of a component's file, in the dtype and on the device to run on.

        Where the plan streams it, its blocks stay in the mapped file, and what brings them comes too.
        """
        kind, device, streamed = _KINDS[component], self._plan.part(component).device, self._plan.streams(component)
        dtype = self.dtypes[component]
        tensors, config = self._tensors(component)
        with empty_modules():
            module = kind.network(config)
        path = self._path(component)
        expand, progress = expands(self._spec, self._context), self._progress(component, report)
        compiling = {"progress": progress, "compile": self._context.compile, "cache_dir": self._context.cache_dir}
        if streamed:
            load_weights(module, tensors, path, dtype=dtype, device="cpu", expand=expand, as_stored=True, **compiling)
            stream = BlockStream(module, kind.units_of(module), device=device, dtype=dtype, pin=True)
        else:
            within = self._dense_within(component, device)
            load_weights(
                module,
                tensors,
                path,
                dtype=dtype,
                device=device,
                expand=expand,
                dequantize_within_bytes=within,
                **compiling,
            )
            stream = None
        module.to(memory_format=kind.memory_format)
        if isinstance(module, FluxTransformer):
            self._speed_up(module, device, streamed, report)
        progress.finish()
        return module.eval().requires_grad_(False), stream

    def _dense_within(self, component: str, device: str) -> int | None:
        """Return what a part's weights may take when they are made dense; None where they shall stay as they are.

        Half of what is left is for other models.
        """
        if self._context.expand_weights != "auto" or component != "transformer":
            return None
        return self._plan.held_bytes(component) + self._plan.spare_bytes(device) // 2

    def _speed_up(
        self, transformer: FluxTransformer, device: str, streamed: bool, report: Callable[[ProgressEvent], object]
    ) -> None:
        context = self._context
        if worth_compiling(context.compile, device, self._plan.part("transformer").size_bytes):
            report(Info(message="the first step compiles the transformer, and takes longer than those after it"))
            compile_blocks(
                transformer,
                graphs=context.cuda_graphs and not streamed and device.startswith("cuda"),
                attention=attention_for(device, context.attention),
                cache_dir=context.cache_dir,
            )

    def _tensors(self, component: str) -> tuple[Weights, Any]:
        path, kind = self._path(component), _KINDS[component]
        found = read_weights(path, self._context.loaders)
        try:
            tensors = self.transformer_tensors(found) if component == "transformer" else kind.tensors_of(found)
            shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            return tensors, kind.config_of(shapes, **self._options.get(kind.table, {}))
        except CheckpointError as error:
            raise CheckpointError("%s: %s", path, error, hint=error.hint) from None

    def _path(self, component: str) -> Path:
        (path,) = self._plan.part(component).files
        return path

    def _progress(self, component: str, report: Callable[[ProgressEvent], object]) -> LoadProgress:
        size_bytes = self._plan.part(component).size_bytes
        if self._plan.strategy != "eager":
            return LoadProgress(report, component, size_bytes, size_bytes)
        before, self._loaded_bytes = self._loaded_bytes, self._loaded_bytes + size_bytes
        return LoadProgress(report, component, size_bytes, self._total_bytes, before)

    def transformer_tensors(self, tensors: Weights) -> Weights:
        """Return a transformer's tensors, with the embedding layers of a donor where the file has none."""
        own = checkpoints.transformer_tensors(tensors)
        if not checkpoints.lacks_embeddings(own):
            return own
        variant = self._options["variant"]
        folder = self._models_folder()
        for donor in self._options.get("donors", _DONORS[variant]):
            if (folder / donor).is_file():
                lent = checkpoints.transformer_tensors(read_weights(folder / donor, self._context.loaders))
                return checkpoints.with_embeddings_of(own, lent)
        raise CheckpointError(
            "this file leaves out the layers that fine-tunes of FLUX.1 have in common (img_in, time_in, …), and no"
            " model that could lend them is downloaded",
            hint=f"mold pull flux-{variant}:q8 fetches one",
        )

    def _models_folder(self) -> Path:
        """Return the folder that the paths of the catalog entry are relative to."""
        entry = next(file for file in self._spec.files if file.component == "transformer")
        path = self._files.one("transformer")
        return path.parents[min(len(Path(entry.path).parts), len(path.parents)) - 1]
