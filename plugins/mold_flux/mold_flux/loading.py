"""From the files of a catalog entry to a pipeline that runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mold_core import CheckpointError, WeightLoad
from mold_flux import checkpoints
from mold_flux.autoencoder import Autoencoder
from mold_flux.pipeline import FluxPipeline, fast_dtype
from mold_flux.prompts import PromptEncoder
from mold_flux.schedule import DEV, SCHNELL
from mold_flux.text_encoders import ClipTextEncoder, ClipTokenizer, T5Encoder, T5Tokenizer
from mold_flux.transformer import FluxTransformer

if TYPE_CHECKING:
    from mold_core import LoadContext, LocalFiles, ModelSpec

__all__ = ["load_pipeline"]

Module = TypeVar("Module", bound=nn.Module)
Tensors = Mapping[str, Tensor]

# What the weights of the published variants do not tell: how noise levels are spaced, and to how many T5 tokens
# prompts were padded in training.
_VARIANTS = {"dev": (DEV, 512), "schnell": (SCHNELL, 256)}


def load_pipeline(spec: ModelSpec, files: LocalFiles, context: LoadContext) -> FluxPipeline:
    """Return the model of a catalog entry, loaded onto the device of `context`.

    Sizes are read off the weights. ``options.variant`` (dev, schnell) says what they do not tell; the tables
    ``transformer``, ``autoencoder``, ``clip`` and ``t5`` of the options, and ``text_tokens``, say it of models that
    are not FLUX.1's size. Raises CheckpointError naming the file.
    """
    options = spec.options
    schedule, text_tokens = _VARIANTS[options["variant"]]
    loader = _Loader(files, options, context, fast_dtype(context.device))
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
            checkpoints.transformer_tensors,
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

    def __init__(self, files: LocalFiles, options: Mapping[str, Any], context: LoadContext, dtype: torch.dtype) -> None:
        self._files = files
        self._options = options
        self._context = context
        self._dtype = dtype
        self._loaded_bytes = 0
        self._total_bytes = files.size_bytes()

    def load(
        self,
        component: str,
        table: str,
        tensors_of: Callable[[Tensors], Tensors],
        config_of: Callable[..., Any],
        network: Callable[[Any], Module],
    ) -> Module:
        """Return a network with the weights of a component's file, in the dtype and on the device to run on."""
        path = self._files.one(component)
        try:
            tensors = tensors_of(_read(path, self._context.device))
            config = config_of(
                {name: tuple(tensor.shape) for name, tensor in tensors.items()}, **self._options.get(table, {})
            )
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
        with torch.device("meta"), _WithoutInitialising():
            module = network(config)
        checkpoints.fill(module, {name: tensor.to(self._dtype) for name, tensor in tensors.items()}, path)
        self._loaded_bytes += path.stat().st_size
        self._context.report(
            WeightLoad(bytes_loaded=self._loaded_bytes, bytes_total=self._total_bytes, component=component)
        )
        return module.eval().requires_grad_(False)


class _WithoutInitialising(TorchFunctionMode):
    """Lets modules be built without drawing the random weights that a checkpoint replaces anyway.

    PERF: on the meta device the first draw would also import torch's compiler, which takes two seconds.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def _read(path: Path, device: str) -> dict[str, Tensor]:
    with path.open("rb") as file:
        if file.read(4) == b"GGUF":
            raise CheckpointError("GGUF files cannot be read by this version of mold; use a safetensors model")
    try:
        return load_file(path, device=device)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"this is not a whole safetensors file: {error}") from None
