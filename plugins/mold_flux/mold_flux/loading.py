"""From the files of a catalog entry to a pipeline that runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mold_core import CheckpointError, WeightLoad
from mold_flux.autoencoder import FLUX_AE, Autoencoder
from mold_flux.pipeline import FluxPipeline
from mold_flux.prompts import PromptEncoder
from mold_flux.schedule import DEV, SCHNELL
from mold_flux.text_encoders import CLIP_L, T5_XXL, ClipTextEncoder, ClipTokenizer, T5Encoder, T5Tokenizer
from mold_flux.transformer import FLUX_DEV, FLUX_SCHNELL, FluxTransformer

if TYPE_CHECKING:
    from mold_core import LoadContext, LocalFiles, ModelSpec

__all__ = ["load_pipeline"]

Module = TypeVar("Module", bound=nn.Module)

# Below this size of all files a model computes in fp32 on a CPU, and with one thread: for so little work bf16 is no
# faster, and a second thread costs more in waiting than it brings.
_SMALL_BYTES = 200_000_000

_VARIANTS = {"dev": (FLUX_DEV, DEV, 512), "schnell": (FLUX_SCHNELL, SCHNELL, 256)}


def load_pipeline(spec: ModelSpec, files: LocalFiles, context: LoadContext) -> FluxPipeline:
    """Return the model of a catalog entry, loaded onto the device of `context`.

    ``options.variant`` names the published sizes to start from (dev, schnell); the tables ``transformer``,
    ``autoencoder``, ``clip`` and ``t5`` in the options change single ones, ``text_tokens`` the length of prompts.
    Raises CheckpointError naming the file.
    """
    options = spec.options
    sizes, schedule, text_tokens = _VARIANTS[options["variant"]]
    small = files.size_bytes() < _SMALL_BYTES
    dtype = torch.float32 if small and context.device == "cpu" else torch.bfloat16
    loader = _Loader(files, options, context, dtype)
    prompts = PromptEncoder(
        loader.load(ClipTextEncoder, CLIP_L, "clip", "clip_encoder"),
        ClipTokenizer(files.one("clip_tokenizer")),
        loader.load(T5Encoder, T5_XXL, "t5", "t5_encoder"),
        T5Tokenizer(files.one("t5_tokenizer"), length=options.get("text_tokens", text_tokens)),
        context.device,
        dtype,
    )
    return FluxPipeline(
        transformer=loader.load(FluxTransformer, sizes, "transformer", "transformer"),
        autoencoder=loader.load(Autoencoder, FLUX_AE, "autoencoder", "vae"),
        prompts=prompts,
        schedule=schedule,
        device=context.device,
        threads=context.threads or (1 if small and context.device == "cpu" else None),
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

    def load(self, network: Callable[[Any], Module], config: Any, table: str, component: str) -> Module:
        """Return a network with the weights of a component's file, in the dtype and on the device to run on."""
        path = self._files.one(component)
        with torch.device("meta"), _WithoutInitialising():
            module = network(attrs.evolve(config, **self._options.get(table, {})))
        tensors = {name: tensor.to(self._dtype) for name, tensor in _read(path, self._context.device).items()}
        _fill(module, tensors, path)
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
    try:
        return load_file(path, device=device)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from None


def _fill(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Make the tensors the module's weights, without a copy; every one must be there and none left over."""
    wanted = {name: tensor.shape for name, tensor in module.state_dict().items()}
    problems = [f"lacks {name}" for name in wanted.keys() - tensors.keys()]
    problems += [f"has {name}, which the model does not" for name in tensors.keys() - wanted.keys()]
    problems += [
        f"has {name} of shape {list(tensor.shape)} where {list(wanted[name])} is needed"
        for name, tensor in tensors.items()
        if name in wanted and tensor.shape != wanted[name]
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(f"{path} is of another model: it {'; it '.join(sorted(problems)[:3])}{more}")
    module.load_state_dict(tensors, assign=True)
