"""From the files of a catalog entry to a pipeline that runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from mold_core import CheckpointError, WeightLoad
from mold_core.weights import fill, read_weights
from mold_flux import checkpoints
from mold_flux.autoencoder import Autoencoder
from mold_flux.pipeline import FluxPipeline, fast_dtype
from mold_flux.prompts import PromptEncoder
from mold_flux.schedule import DEV, SCHNELL
from mold_flux.text_encoders import ClipTextEncoder, ClipTokenizer, T5Encoder, T5Tokenizer
from mold_flux.transformer import FluxTransformer

if TYPE_CHECKING:
    from mold_core import LoadContext, LocalFiles, ModelSpec
    from mold_flux.checkpoints import Weights

__all__ = ["load_pipeline"]

Module = TypeVar("Module", bound=nn.Module)

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
    """Return the model of a catalog entry, loaded onto the device of `context`.

    Sizes are read off the weights. ``options.variant`` (dev, schnell) says what they do not tell; the tables
    ``transformer``, ``autoencoder``, ``clip`` and ``t5`` of the options, and ``text_tokens``, say it of models that
    are not FLUX.1's size. Quantised weights stay so in memory unless ``expand`` is true. ``donors`` lists transformer
    files, below the models folder, that lend embedding layers to one without. Raises CheckpointError naming the file.
    """
    options = spec.options
    schedule, text_tokens = _VARIANTS[options["variant"]]
    loader = _Loader(spec, files, context, fast_dtype(context.device))
    prompts = PromptEncoder(
        loader.load("clip_encoder", "clip", checkpoints.clip_tensors, checkpoints.clip_config, ClipTextEncoder),
        ClipTokenizer(files.one("clip_tokenizer")),
        loader.load("t5_encoder", "t5", checkpoints.t5_tensors, checkpoints.t5_config, T5Encoder),
        T5Tokenizer(files.one("t5_tokenizer"), length=options.get("text_tokens", text_tokens)),
        context.device,
    )
    return FluxPipeline(
        transformer=loader.load(
            "transformer",
            "transformer",
            loader.transformer_tensors,
            checkpoints.transformer_config,
            FluxTransformer,
        ),
        autoencoder=loader.load(
            "vae", "autoencoder", checkpoints.autoencoder_tensors, checkpoints.autoencoder_config, Autoencoder
        ).to(memory_format=torch.channels_last),
        prompts=prompts,
        schedule=schedule,
        device=context.device,
        threads=context.threads,
    )


class _Loader:
    """Builds networks and fills them from their files, one after the other."""

    def __init__(self, spec: ModelSpec, files: LocalFiles, context: LoadContext, dtype: torch.dtype) -> None:
        self._spec = spec
        self._options = spec.options
        self._files = files
        self._context = context
        self._dtype = dtype
        self._loaded_bytes = 0
        self._total_bytes = files.size_bytes()

    def load(
        self,
        component: str,
        table: str,
        tensors_of: Callable[[Weights], Weights],
        config_of: Callable[..., Any],
        network: Callable[[Any], Module],
    ) -> Module:
        """Return a network with the weights of a component's file, in the dtype and on the device to run on."""
        path = self._files.one(component)
        found = read_weights(path, self._context.loaders)
        try:
            tensors = tensors_of(found)
            config = config_of(
                {name: tuple(tensor.shape) for name, tensor in tensors.items()}, **self._options.get(table, {})
            )
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error.message}", hint=error.hint) from None
        with torch.device("meta"), _WithoutInitialising():
            module = network(config)
        device, expand = self._context.device, bool(self._options.get("expand"))
        fill(module, tensors, path, dtype=self._dtype, device=device, expand=expand)
        self._loaded_bytes += path.stat().st_size
        self._context.report(
            WeightLoad(bytes_loaded=self._loaded_bytes, bytes_total=self._total_bytes, component=component)
        )
        return module.eval().requires_grad_(False)

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


class _WithoutInitialising(TorchFunctionMode):
    """Lets modules be built without drawing the random weights that a checkpoint replaces anyway.

    PERF: on the meta device the first draw would also import torch's compiler, which takes two seconds.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))
