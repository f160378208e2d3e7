"""Read LoRA files as changes of a network's layers, and cache them for the next request."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Protocol

import torch
from attrs import frozen
from torch import Tensor, nn

from mold_core.cancelling import check_cancelled
from mold_core.deprecated import renamed_fields
from mold_core.errors import CheckpointError
from mold_core.weights.files import open_weights, read_weights
from mold_core.weights.finite import all_finite
from mold_core.weights.lora_changes import LowRank
from mold_core.weights.lora_keys import TensorKey, flat, split_key, stems
from mold_core.weights.lora_layers import LayerChange, LayerShape, LayerTensors, layer_change
from mold_core.weights.lora_linear import Delta, LayerDelta, LoraDelta, LoraUp, with_loras_applied
from mold_core.weights.lora_names import LoraNames, Place, main_parameter, parameter_layers
from mold_core.weights.lora_parameters import parameter_deltas
from mold_core.weights.lora_settings import LoraSettings, config_file, read_settings
from mold_core.weights.packed import PackedTensor
from mold_core.wire import Info, LoraWeight, ProgressEvent

__all__ = ["Lora", "LoraCache", "read_lora"]

# LoRAs of large models take 20 to 350 MB; larger ones are read again for each request.
LORA_CACHE_BYTES = 512 * 1024 * 1024
_REMEMBERED_NAMES = 100


class Reporter(Protocol):
    """Receives events about LoRAs: the run of a batch."""

    def report(self, event: ProgressEvent) -> None:
        """Send an event to every job of the batch."""


@frozen(kw_only=True, eq=False)
class Lora:
    """The deltas of a LoRA for one network, by layer. `ignored` are the keys of layers that the network lacks."""

    deltas: Mapping[str, tuple[Delta, ...]]
    ignored: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Memory of the tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors())

    def tensors(self) -> Iterator[Tensor]:
        """Yield its tensors."""
        for deltas in self.deltas.values():
            for delta in deltas:
                yield from delta.tensors()


def read_lora(
    path: Path,
    component: str,
    network: nn.Module,
    names: LoraNames,
    *,
    dtype: torch.dtype,
    device: str | torch.device,
) -> Lora:
    """Return the deltas of a file for a component of the model, in the dtype and on the device of the computation.

    `names` maps the names of layers. Any method of `lora_layers` may change a layer. An alpha comes from the layer's
    tensors, else from the header or an adapter_config.json in the folder. Raises CheckpointError naming file and key
    for a tensor of a layer of the network that does not fit the layer or is not understood.
    """
    try:
        file = _File(
            name=path.name,
            tensors=read_weights(path),
            settings=read_settings(path, getattr(open_weights(path), "metadata", {})),
        )
        return _read(file, component, network, names, dtype, device)
    except CheckpointError as error:
        if error.message.startswith(str(path)):
            raise
        raise CheckpointError("%s: %s", path, error, hint=error.hint) from None


@renamed_fields(beside="attached")
class LoraCache:
    """LoRAs of one model, read on first use. The most recently used stay in memory, up to `limit_bytes`."""

    def __init__(self, names: LoraNames, limit_bytes: int = LORA_CACHE_BYTES) -> None:
        self._names = names
        self._limit_bytes = limit_bytes
        self._kept: OrderedDict[tuple[object, ...], Lora] = OrderedDict()
        self._for_text: OrderedDict[tuple[str, int, int], bool] = OrderedDict()

    @property
    def size_bytes(self) -> int:
        """Memory of the cached LoRAs."""
        return sum(adapter.size_bytes for adapter in self._kept.values())

    @contextmanager
    def attached(
        self,
        component: str,
        network: nn.Module,
        loras: Sequence[LoraWeight],
        run: Reporter,
        *,
        dtype: torch.dtype,
        device: str | torch.device,
    ) -> Iterator[None]:
        """Attach LoRAs to a network during the block, and detach them afterwards.

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
        """Return a key of the LoRAs that change text encoders, for caches of encoded prompts; empty if none does."""
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
        """Drop all LoRAs."""
        self._kept.clear()

    def _get(
        self, path: Path, component: str, network: nn.Module, dtype: torch.dtype, device: str | torch.device
    ) -> Lora:
        config = config_file(path)
        key = (component, dtype, str(device), *_state(path), *(() if config is None else _state(config)))
        if key not in self._kept:
            self._kept[key] = read_lora(path, component, network, self._names, dtype=dtype, device=device)
        self._kept.move_to_end(key)
        adapter = self._kept[key]
        while self.size_bytes > self._limit_bytes:
            self._kept.popitem(last=False)
        return adapter


def _state(path: Path) -> tuple[str, int, int]:
    """Return a key that changes when the file does."""
    try:
        about = path.stat()
    except OSError as error:
        raise CheckpointError("%s: the file cannot be read: %s", path, error) from None
    return str(path), about.st_size, about.st_mtime_ns


def _report_ignored(path: Path, ignored: Sequence[str], run: Reporter) -> None:
    if ignored:
        more = f" and {len(ignored) - 3} more" if len(ignored) > 3 else ""
        names = ", ".join(name if len(name) <= 100 else f"{name[:99]}…" for name in ignored[:3])
        run.report(Info(message=f"{path.name}: the model has no place for {names}{more}; ignored"))


@frozen(kw_only=True, eq=False)
class _File:
    """The tensors of a LoRA file, and its configuration."""

    name: str
    tensors: Mapping[str, Tensor | PackedTensor]
    settings: tuple[LoraSettings, ...]

    def settings_of(self, stem: str) -> LoraSettings | None:
        """Return the settings for a layer of the file: the ones whose prefix its name starts with."""
        return next(
            (each for each in self.settings if f"{stem}.".startswith(f"{each.prefix}.") or not each.prefix), None
        )


def _read(
    file: _File,
    component: str,
    network: nn.Module,
    names: LoraNames,
    dtype: torch.dtype,
    device: str | torch.device,
) -> Lora:
    keys = {name: split_key(name) for name in file.tensors}
    if not any(keys.values()):
        raise CheckpointError(f"it contains no LoRA weights; it contains {_some(file.tensors)}")
    places = {**dict(parameter_layers(network)), **names.places_of(network)}
    layers: dict[str, dict[str, str]] = defaultdict(dict)
    found: dict[str, Place] = {}
    ignored = []
    for name, known in keys.items():
        if names.component_of(flat(name)) != component:
            continue
        key = known or _unmarked(name, keys, network, names, places)
        place = None if key is None else places.get(names.layer_of(flat(key.stem)))
        if key is not None and place is not None:
            if key.role in layers[key.stem]:
                raise CheckpointError(f"{name} and {layers[key.stem][key.role]} mean the same thing")
            layers[key.stem][key.role], found[key.stem] = name, place
        elif layer := _layer_below(name, names, places):
            raise CheckpointError(f"{name} is not understood, and the model has the layer {layer}")
        else:
            ignored.append(name)
    if ignored and not layers:
        raise CheckpointError(f"it is for another model: no layer matches {_some(ignored)}")
    deltas: dict[str, list[Delta]] = defaultdict(list)
    pairs: dict[str, list[tuple[Place, LowRank]]] = defaultdict(list)
    wide: frozenset[str] = getattr(names, "widened_layers", frozenset())
    for stem, roles in layers.items():
        check_cancelled()
        place = found[stem]
        entries = LayerTensors(stem=stem, names=roles, tensors=file.tensors, settings=file.settings_of(stem))
        module = network.get_submodule(place.layer)
        if not hasattr(module, "out_features"):
            added = tuple(parameter_deltas(entries, module, _copier(dtype, device), file.name))
            if not all(all_finite(*delta.tensors()) for delta in added):
                raise CheckpointError(f"it holds NaN or infinity for {place.layer}")
            deltas[place.layer] += added
            continue
        shape = LayerShape(rows=place.rows, columns=place.columns, widened=place.layer in wide)
        done = layer_change(entries, shape, partial(_dense_rows, module, place))
        if isinstance(done.change, LowRank) and done.bias is None:
            pairs[place.layer].append((place, done.change))
        else:
            deltas[place.layer].append(_delta(done, place, dtype, device, file.name))
    for layer, found_pairs in pairs.items():
        deltas[layer].insert(0, _branch(found_pairs, dtype, device, file.name))
    return Lora(deltas={layer: tuple(some) for layer, some in deltas.items()}, ignored=tuple(ignored))


def _unmarked(
    name: str, keys: Mapping[str, object], network: nn.Module, names: LoraNames, places: Mapping[str, Place]
) -> TensorKey | None:
    """Split a name without a method's marker: IA3's factors, and whole parameters of norms."""
    stem, _, kind = name.rpartition(".")
    if kind == "weight" and f"{stem}.on_input" in keys:
        return TensorKey(stem=stem, role="gain")
    place = places.get(names.layer_of(flat(stem)))
    if place is None:
        return None
    module = network.get_submodule(place.layer)
    if not hasattr(module, "out_features") and kind == main_parameter(module):
        return TensorKey(stem=stem, role="value")
    return None


def _layer_below(name: str, names: LoraNames, places: Mapping[str, Place]) -> str | None:
    """Return the layer of the model that a name starts with, or None."""
    found = (places.get(names.layer_of(flat(stem))) for stem in stems(name))
    return next((place.layer for place in found if place is not None), None)


def _dense_rows(module: nn.Module, place: Place) -> Tensor:
    """Return the rows of a layer that a LoRA changes, float32 and in the LoRA's order."""
    weight: Tensor | PackedTensor = module.weight  # type: ignore[assignment]
    with torch.inference_mode(False), torch.no_grad():
        dense = weight.detach() if isinstance(weight, Tensor) else weight.expand()
        rows = dense[place.first : place.first + place.rows].float()
        return torch.cat(rows.chunk(2)[::-1]) if place.swapped else rows


def _delta(done: LayerChange, place: Place, dtype: torch.dtype, device: str | torch.device, source: str) -> LayerDelta:
    copy = _copier(dtype, device)
    return LayerDelta(
        first=place.first,
        count=place.rows,
        change=None if done.change is None else done.change.moved(copy),
        bias=None if done.bias is None else copy(done.bias),
        swapped=place.swapped,
        source=source,
    )


def _branch(
    pairs: Sequence[tuple[Place, LowRank]], dtype: torch.dtype, device: str | torch.device, source: str
) -> LoraDelta:
    """Return all plain pairs of a layer as one delta, which needs one product with the inputs."""
    copy = _copier(dtype, device)
    ups, first = [], 0
    for place, pair in pairs:
        ranks = slice(first, first + len(pair.down))
        up = torch.cat(pair.up.chunk(2)[::-1]) if place.swapped else pair.up
        ups.append(LoraUp(weight=copy(up), first=place.first, ranks=ranks))
        first = ranks.stop
    return LoraDelta(down=copy(torch.cat([pair.down for _, pair in pairs])), ups=tuple(ups), source=source)


def _copier(dtype: torch.dtype, device: str | torch.device) -> Callable[[Tensor], Tensor]:
    return lambda matrix: _copied(matrix, dtype, device)


def _copied(matrix: Tensor, dtype: torch.dtype, device: str | torch.device) -> Tensor:
    """Return a copy that shares no memory with the file, which may change while the LoRA is kept."""
    with torch.inference_mode(False):
        return matrix.to(device=device, dtype=dtype, copy=True).contiguous()


def _some(names: Iterable[str]) -> str:
    return ", ".join(islice(names, 3)) or "its tensors, of which there are none"
