"""The devices of a model's components: resolves the placement of a request or config.toml to existing devices."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from mold_core.catalog import ModelSpec
from mold_core.config_file import change_table
from mold_core.errors import SettingsError, ValidationError
from mold_core.hookspecs import ModelFamily
from mold_core.settings import SHARED_COMPONENTS, Settings
from mold_core.wire import DevicePlacement, DeviceRef
from mold_core.wire.convert import from_json, to_json

__all__ = ["WHOLE_MODEL", "PlacedModel", "Placements", "gpu_number", "placed"]

# A key of `ModelSpec.devices`: the device of an undivided model, and of components without a device of their own.
WHOLE_MODEL = "model"


@attrs.frozen(kw_only=True)
class PlacedModel:
    """A model with its devices, and the device whose worker must run it (None: any)."""

    spec: ModelSpec
    device: str | None = None


def placed(
    spec: ModelSpec, family: ModelFamily, placement: DevicePlacement | None, pool: Callable[[], Sequence[str]]
) -> PlacedModel:
    """Return a model with the devices of a placement. `pool` returns the torch names of the workers' devices.

    Raises ValidationError for a GPU that no worker has, for several GPUs, and for components that the family does not
    place.
    """
    requested = {} if placement is None else placement.named()
    if not requested:
        return PlacedModel(spec=spec)
    devices = tuple(pool())
    worker_device = _worker_device(requested, devices)
    home = worker_device or _common_device(devices)
    refs = {path.removeprefix("advanced."): ref for path, ref in requested.items()}
    targets = {name: home if ref.kind == "gpu" else "cpu" for name, ref in refs.items()}
    _refuse_unknown_components(spec, family, refs, targets, home)
    if home == "cpu":
        return PlacedModel(spec=spec)  # everything is on the CPU already
    if all(targets.get(name) == "cpu" for name in SHARED_COMPONENTS):
        targets[WHOLE_MODEL] = "cpu"
    return PlacedModel(spec=attrs.evolve(spec, devices=targets), device=worker_device)


def gpu_number(device: str) -> int | None:
    """Return the GPU number of a device, as placements use it; None for a CPU."""
    if device.startswith("cpu"):
        return None
    number = device.partition(":")[2]
    return int(number) if number else 0


def _worker_device(requested: Mapping[str, DeviceRef], pool: Sequence[str]) -> str | None:
    """Return the torch name of the one requested GPU, if any. Raises ValidationError."""
    path, ref = next(((path, ref) for path, ref in requested.items() if ref.kind == "gpu"), (None, None))
    if ref is None:
        return None
    for name, other in requested.items():
        if other.kind == "gpu" and other.ordinal is None:
            raise ValidationError(
                f"placement.{name}.ordinal is required with kind gpu", field=f"placement.{name}.ordinal"
            )
    words = sorted({other.word for other in requested.values() if other.kind == "gpu"})
    if len(words) > 1:
        raise ValidationError(
            f"multi-GPU worker mode only supports placement on one GPU ordinal per request; got {', '.join(words)}",
            field="placement",
        )
    available = {gpu_number(device): device for device in pool}
    available.pop(None, None)
    if ref.ordinal not in available:
        raise ValidationError(
            f"{ref.word} is not available in this server's worker pool [{', '.join(map(str, available))}]",
            field=f"placement.{path}",
            value=ref.word,
            hint=None if available else "models run on the CPU here: use cpu or auto",
        )
    return available[ref.ordinal]


def _common_device(pool: Sequence[str]) -> str:
    """Return ``cpu`` if all workers run on the CPU, else ``gpu``, which stands for any GPU."""
    return "cpu" if all(device.startswith("cpu") for device in pool) else "gpu"


def _refuse_unknown_components(
    spec: ModelSpec,
    family: ModelFamily,
    refs: Mapping[str, DeviceRef],
    targets: Mapping[str, str],
    home: str,
) -> None:
    declared = family.placement_components
    for name in refs:
        if name not in (declared or SHARED_COMPONENTS):
            raise ValidationError(
                f"{spec.name} has no part {name!r} to place",
                field=f"placement.advanced.{name}",
                hint=f"its parts are {', '.join(declared or SHARED_COMPONENTS)}",
            )
    elsewhere = [name for name in refs if targets[name] != home]
    if not declared and elsewhere and len({targets.get(name, home) for name in SHARED_COMPONENTS}) > 1:
        raise ValidationError(
            f"{spec.name} is placed as a whole only: its family does not divide it over devices",
            field="placement",
            hint=f"give {', '.join(SHARED_COMPONENTS)} the same device",
        )


class Placements:
    """The placements of models in config.toml, by full name. Methods may be called from any thread."""

    def __init__(self, settings: Settings) -> None:
        """Read the placements from the settings. Raises SettingsError that names the model."""
        self._path = settings.config_path
        self._lock = threading.Lock()
        self._by_model = {
            name.lower(): self._read(name, table["placement"])
            for name, table in settings.user_models.items()
            if isinstance(table, Mapping) and "placement" in table
        }

    def get(self, name: str) -> DevicePlacement | None:
        """Return the placement of a model, if it has one."""
        return self._by_model.get(name)

    def put(self, name: str, placement: DevicePlacement | None) -> None:
        """Set the placement of a model in config.toml; None removes it.

        Raises SettingsError or OutputError if config.toml cannot be changed; the placement then stays as it was.
        """
        with self._lock:
            change_table(self._path, ("models", name, "placement"), None if placement is None else to_json(placement))
            if placement is None:
                self._by_model.pop(name, None)
            else:
                self._by_model[name] = placement

    def _read(self, name: str, table: Any) -> DevicePlacement:
        try:
            return from_json(DevicePlacement, table, strict_keys=True)
        except ValidationError as error:
            table_name = f"models.{name!r} placement"
            raise SettingsError("%s: %s: %s", self._path, table_name, error, field=f"models.{name}.placement") from None
