"""Where the parts of models go: what a request or config.toml says, held against the devices that are here."""

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

# In `ModelSpec.devices`: where a model is that is not divided, and the parts of others that nothing is said of.
WHOLE_MODEL = "model"


@attrs.frozen(kw_only=True)
class PlacedModel:
    """A model with its devices, and the device whose worker has to run it (None: any)."""

    spec: ModelSpec
    device: str | None = None


def placed(
    spec: ModelSpec, family: ModelFamily, placement: DevicePlacement | None, pool: Callable[[], Sequence[str]]
) -> PlacedModel:
    """Return a model placed as asked for. `pool` gives the devices that workers run on, by their torch names.

    Raises ValidationError for a GPU that no worker has, for several, and for parts that the family does not place.
    """
    wanted = {} if placement is None else placement.named()
    if not wanted:
        return PlacedModel(spec=spec)
    devices = tuple(pool())
    pinned = _worker_device(wanted, devices)
    home = pinned or _common_device(devices)
    places = {path.removeprefix("advanced."): ref for path, ref in wanted.items()}
    targets = {name: home if ref.kind == "gpu" else "cpu" for name, ref in places.items()}
    _refuse_unknown_parts(spec, family, places, targets, home)
    if home == "cpu":
        return PlacedModel(spec=spec)  # everything is there anyhow
    if all(targets.get(name) == "cpu" for name in SHARED_COMPONENTS):
        targets[WHOLE_MODEL] = "cpu"
    return PlacedModel(spec=attrs.evolve(spec, devices=targets), device=pinned)


def gpu_number(device: str) -> int | None:
    """Return the number by which a device is asked for as a GPU; None for a processor."""
    if device.startswith("cpu"):
        return None
    number = device.partition(":")[2]
    return int(number) if number else 0


def _worker_device(wanted: Mapping[str, DeviceRef], pool: Sequence[str]) -> str | None:
    """Return the one GPU that is asked for, by its torch name. Raises ValidationError."""
    path, ref = next(((path, ref) for path, ref in wanted.items() if ref.kind == "gpu"), (None, None))
    if ref is None:
        return None
    for where, other in wanted.items():
        if other.kind == "gpu" and other.ordinal is None:
            raise ValidationError(
                f"placement.{where}.ordinal is required with kind gpu", field=f"placement.{where}.ordinal"
            )
    words = sorted({other.word for other in wanted.values() if other.kind == "gpu"})
    if len(words) > 1:
        raise ValidationError(
            f"multi-GPU worker mode only supports placement on one GPU ordinal per request; got {', '.join(words)}",
            field="placement",
        )
    here = {gpu_number(device): device for device in pool}
    here.pop(None, None)
    if ref.ordinal not in here:
        raise ValidationError(
            f"{ref.word} is not available in this server's worker pool [{', '.join(map(str, here))}]",
            field=f"placement.{path}",
            value=ref.word,
            hint=None if here else "models run on the CPU here: use cpu or auto",
        )
    return here[ref.ordinal]


def _common_device(pool: Sequence[str]) -> str:
    """Return ``cpu`` where all workers are on the processor, else what stands for any GPU."""
    return "cpu" if all(device.startswith("cpu") for device in pool) else "gpu"


def _refuse_unknown_parts(
    spec: ModelSpec,
    family: ModelFamily,
    places: Mapping[str, DeviceRef],
    targets: Mapping[str, str],
    home: str,
) -> None:
    own = family.placement_components
    for name in places:
        if name not in (own or SHARED_COMPONENTS):
            raise ValidationError(
                f"{spec.name} has no part {name!r} to place",
                field=f"placement.advanced.{name}",
                hint=f"its parts are {', '.join(own or SHARED_COMPONENTS)}",
            )
    elsewhere = [name for name in places if targets[name] != home]
    if not own and elsewhere and len({targets.get(name, home) for name in SHARED_COMPONENTS}) > 1:
        raise ValidationError(
            f"{spec.name} is placed as a whole only: its family does not divide it over devices",
            field="placement",
            hint=f"give {', '.join(SHARED_COMPONENTS)} the same device",
        )


class Placements:
    """The placements of models that config.toml has, by full name. Methods may be called from any thread."""

    def __init__(self, settings: Settings) -> None:
        """Read them. Raises SettingsError that names the model."""
        self._path = settings.config_path
        self._lock = threading.Lock()
        self._by_model = {
            name.lower(): self._read(name, table["placement"])
            for name, table in settings.user_models.items()
            if isinstance(table, Mapping) and "placement" in table
        }

    def get(self, name: str) -> DevicePlacement | None:
        """Return what is said of a model."""
        return self._by_model.get(name)

    def put(self, name: str, placement: DevicePlacement | None) -> None:
        """Write down where a model is to be from now on; None: nothing is said of it any more.

        Raises SettingsError or OutputError where config.toml cannot be changed; nothing changes then.
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
            where = f"models.{name!r} placement"
            raise SettingsError("%s: %s: %s", self._path, where, error, field=f"models.{name}.placement") from None
