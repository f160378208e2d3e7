"""Files of low-rank LoRAs (LoRA) → branches beside a network's layers, remembered for the next request."""

from __future__ import annotations

import math
from collections import OrderedDict, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from attrs import frozen
from torch import Tensor, nn

from mold_core.deprecated import renamed_fields
from mold_core.errors import CheckpointError
from mold_core.weights.files import open_weights, read_weights
from mold_core.weights.lora_linear import LoraDelta, LoraUp, with_loras_applied
from mold_core.weights.lora_names import LoraNames, Place, flat, read_key
from mold_core.weights.packed import PackedTensor
from mold_core.wire import Info, LoraWeight

if TYPE_CHECKING:
    from mold_core.hookspecs import Run

__all__ = ["Lora", "LoraCache", "read_lora"]

# What other methods than plain low-rank pairs store; without it the pairs would mean something else.
_OTHER_METHODS = {"dora_scale": "DoRA", "hada_w1_a": "LoHa", "lokr_w1": "LoKr", "oft_diag": "OFT"}

# LoRAs of FLUX.1 take 20 to 350 MB; larger ones are read for each request.
LORA_CACHE_BYTES = 512 * 1024 * 1024
_REMEMBERED_NAMES = 100


@frozen(kw_only=True, eq=False)
class Lora:
    """What a LoRA adds to one network: branches by layer. `ignored` are the keys that it has no place for."""

    deltas: Mapping[str, LoraDelta]
    ignored: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Memory of the numbers."""
        return sum(branch.size_bytes for branch in self.deltas.values())


@frozen(kw_only=True, eq=False)
class _Pair:
    """The two matrices of a place."""

    place: Place
    down: Tensor
    up: Tensor


def read_lora(
    path: Path,
    component: str,
    network: nn.Module,
    names: LoraNames,
    *,
    dtype: torch.dtype,
    device: str | torch.device,
) -> Lora:
    """Return what a file adds to a component of the model, in the dtype and on the device to compute with.

    Pairs may be called lora_A and lora_B, lora_down and lora_up, or as diffusers once did; layers as `names` knows
    them. With an ``alpha`` of its own a pair counts alpha / rank times. Raises CheckpointError naming file and
    key: for no pairs, half a pair, shapes that do not fit, and methods other than plain low-rank pairs.
    """
    try:
        return _read(read_weights(path), component, network, names, dtype, device, path.name)
    except CheckpointError as error:
        if error.message.startswith(str(path)):
            raise
        raise CheckpointError("%s: %s", path, error, hint=error.hint) from None


@renamed_fields(beside="attached")
class LoraCache:
    """LoRAs of one model, read on first use. The most recently used ones stay in memory, up to `limit_bytes`."""

    def __init__(self, names: LoraNames, limit_bytes: int = LORA_CACHE_BYTES) -> None:
        self._names = names
        self._limit_bytes = limit_bytes
        self._kept: OrderedDict[tuple[object, ...], Lora] = OrderedDict()
        self._for_text: OrderedDict[tuple[str, int, int], bool] = OrderedDict()

    @property
    def size_bytes(self) -> int:
        """Memory of the LoRAs that are kept."""
        return sum(adapter.size_bytes for adapter in self._kept.values())

    @contextmanager
    def attached(
        self,
        component: str,
        network: nn.Module,
        loras: Sequence[LoraWeight],
        run: Run,
        *,
        dtype: torch.dtype,
        device: str | torch.device,
    ) -> Iterator[None]:
        """Attach LoRAs to a network while the block runs, and detach them afterwards.

        Tensors of a file that are not used are reported to `run`. Raises CheckpointError as `read_lora` does.
        """
        stack = []
        for lora in loras:
            adapter = self._get(Path(lora.path), component, network, dtype, device)
            _report_ignored(Path(lora.path), adapter.ignored, run)
            if lora.scale:
                stack.append((adapter.deltas, lora.scale))
        with with_loras_applied(network, stack):
            yield

    def text_variant(self, loras: Sequence[LoraWeight]) -> Hashable:
        """Return what tells apart what LoRAs make of prompts; empty where none of them is for a text encoder."""
        states = [(_state(Path(lora.path)), lora.scale) for lora in loras]
        return tuple((state, scale) for state, scale in states if scale and self._is_for_text(state))

    def _is_for_text(self, state: tuple[str, int, int]) -> bool:
        if state not in self._for_text:
            names = open_weights(Path(state[0]))
            self._for_text[state] = any(self._names.component_of(flat(name)) != "transformer" for name in names)
            if len(self._for_text) > _REMEMBERED_NAMES:
                self._for_text.popitem(last=False)
        return self._for_text[state]

    def clear(self) -> None:
        """Forget all adapters."""
        self._kept.clear()

    def _get(
        self, path: Path, component: str, network: nn.Module, dtype: torch.dtype, device: str | torch.device
    ) -> Lora:
        key = (component, dtype, str(device), *_state(path))
        if key not in self._kept:
            self._kept[key] = read_lora(path, component, network, self._names, dtype=dtype, device=device)
        self._kept.move_to_end(key)
        adapter = self._kept[key]
        while self.size_bytes > self._limit_bytes:
            self._kept.popitem(last=False)
        return adapter


def _state(path: Path) -> tuple[str, int, int]:
    """Return what tells a file from what stands there after it was changed."""
    try:
        about = path.stat()
    except OSError as error:
        raise CheckpointError("%s: the file cannot be read: %s", path, error) from None
    return str(path), about.st_size, about.st_mtime_ns


def _report_ignored(path: Path, ignored: Sequence[str], run: Run) -> None:
    if ignored:
        more = f" and {len(ignored) - 3} more" if len(ignored) > 3 else ""
        names = ", ".join(name if len(name) <= 100 else f"{name[:99]}…" for name in ignored[:3])
        run.report(Info(message=f"{path.name}: the model has no place for {names}{more}; ignored"))


def _read(
    tensors: Mapping[str, Tensor | PackedTensor],
    component: str,
    network: nn.Module,
    names: LoraNames,
    dtype: torch.dtype,
    device: str | torch.device,
    source: str,
) -> Lora:
    _refuse_other_methods(tensors)
    keys = {name: read_key(name, names) for name in tensors}
    if not any(keys.values()):
        raise CheckpointError(f"it contains no LoRA weights; it contains {_some(tensors)}")
    places = names.places_of(network)
    halves: dict[Place, dict[str, str]] = defaultdict(dict)
    ignored = []
    for name, key in keys.items():
        if names.component_of(flat(name)) != component:
            continue
        place = None if key is None else places.get(key.layer)
        if key is None or place is None:
            ignored.append(name)
        else:
            halves[place][key.part] = name
    if ignored and not halves:
        raise CheckpointError(f"it is for another model: no layer matches {_some(ignored)}")
    pairs: dict[str, list[_Pair]] = defaultdict(list)
    for place, parts in halves.items():
        pairs[place.layer].append(_pair(place, parts, tensors))
    deltas = {layer: _branch(found, dtype, device, source) for layer, found in pairs.items()}
    return Lora(deltas=deltas, ignored=tuple(ignored))


def _pair(place: Place, names: Mapping[str, str], tensors: Mapping[str, Tensor | PackedTensor]) -> _Pair:
    """Return the two matrices of a place, the second with alpha / rank in it."""
    there = names.get("down") or names.get("up") or names.get("alpha")
    if "down" not in names or "up" not in names:
        raise CheckpointError(f"{there} has no counterpart: lora_A and lora_B (or lora_down and lora_up) come in pairs")
    down, up = (_matrix(names[part], tensors) for part in ("down", "up"))
    rank = len(down)
    for part, matrix, wanted in (("down", down, [rank, place.columns]), ("up", up, [place.rows, rank])):
        if list(matrix.shape) != wanted or not rank:
            raise CheckpointError(f"{names[part]} has the shape {list(matrix.shape)} where {wanted} is needed")
    if place.swapped:
        up = torch.cat(up.chunk(2)[::-1])
    factor = _alpha(names["alpha"], tensors) / rank if "alpha" in names else 1.0
    if factor != 1:
        up = up.float() * factor
    return _Pair(place=place, down=down, up=up)


def _matrix(name: str, tensors: Mapping[str, Tensor | PackedTensor]) -> Tensor:
    tensor = tensors[name]
    dense = tensor if isinstance(tensor, Tensor) else tensor.expand()
    if not dense.is_floating_point():
        raise CheckpointError(f"{name} has no floating-point dtype")
    if dense.ndim == 4 and dense.shape[2:] == (1, 1):  # some write linear layers as convolutions over single pixels
        dense = dense.flatten(1)
    return dense


def _alpha(name: str, tensors: Mapping[str, Tensor | PackedTensor]) -> float:
    tensor = tensors[name]
    if not isinstance(tensor, Tensor) or tensor.numel() != 1 or not math.isfinite(tensor.item()):
        raise CheckpointError(f"{name} must be one finite number")
    return float(tensor.item())


def _branch(pairs: Sequence[_Pair], dtype: torch.dtype, device: str | torch.device, source: str) -> LoraDelta:
    ups, first = [], 0
    for pair in pairs:
        ranks = slice(first, first + len(pair.down))
        ups.append(LoraUp(weight=_own(pair.up, dtype, device), first=pair.place.first, ranks=ranks))
        first = ranks.stop
    down = _own(torch.cat([pair.down for pair in pairs]), dtype, device)
    return LoraDelta(down=down, ups=tuple(ups), source=source)


def _own(matrix: Tensor, dtype: torch.dtype, device: str | torch.device) -> Tensor:
    """Return a copy that shares no memory with the file, which may change while the LoRA is kept."""
    with torch.inference_mode(False):
        return matrix.to(device=device, dtype=dtype, copy=True).contiguous()


def _refuse_other_methods(tensors: Mapping[str, object]) -> None:
    for name in tensors:
        method = _OTHER_METHODS.get(name.rpartition(".")[2])
        if method:
            raise CheckpointError(f"{name} declares {method}; mold supports plain LoRA only")


def _some(names: Iterable[str]) -> str:
    return ", ".join(islice(names, 3)) or "its tensors, of which there are none"
