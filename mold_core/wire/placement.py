"""Devices requested for the components of a model, in a request or in config.toml."""

from __future__ import annotations

from typing import Any, Literal

import attrs

from mold_core.wire.fields import wire_field

__all__ = ["AdvancedPlacement", "DevicePlacement", "DeviceRef"]


@attrs.frozen(kw_only=True)
class DeviceRef:
    """A device, or `auto` to let mold choose."""

    kind: Literal["auto", "cpu", "gpu"] = wire_field("auto, cpu, or gpu with an `ordinal`.")
    ordinal: int | None = wire_field("Ordinal of the GPU, for kind gpu.", default=None, minimum=0, maximum=1023)

    @property
    def word(self) -> str:
        """The device as text: ``auto``, ``cpu``, ``gpu:1``."""
        return self.kind if self.kind != "gpu" else f"gpu:{self.ordinal}"


_AUTO = DeviceRef(kind="auto")


@attrs.frozen(kw_only=True, init=False)
class AdvancedPlacement:
    """Devices of single components. A text encoder named here overrides `text_encoders`.

    Families have further components, each a field with a [DeviceRef](#deviceref) under its name.
    """

    transformer: DeviceRef = wire_field("The transformer.", default=_AUTO)
    vae: DeviceRef = wire_field("The autoencoder.", default=_AUTO)
    components: dict[str, DeviceRef] = wire_field(
        "Components of single families, by name.", default=attrs.Factory(dict), hash=False, open_ended=True
    )

    def __init__(self, **devices: Any) -> None:
        """Take devices by the names of components."""
        declared = {field.name for field in attrs.fields(type(self))}
        others = {name: devices.pop(name) for name in devices.keys() - declared}
        others = {name: device for name, device in others.items() if device is not None}
        devices["components"] = {**devices.get("components", {}), **others}
        self.__attrs_init__(**devices)

    def __getattr__(self, name: str) -> DeviceRef | None:
        """Return the device of a component of single families; None where it is not placed."""
        if name.startswith("_") or name == "components":
            raise AttributeError(name)
        return self.components.get(name)


@attrs.frozen(kw_only=True)
class DevicePlacement:
    """Devices of the components of a model."""

    text_encoders: DeviceRef = wire_field("Device of all text encoders.", default=_AUTO)
    advanced: AdvancedPlacement | None = wire_field("Devices of single components.", default=None)

    def named(self) -> dict[str, DeviceRef]:
        """Return the requested devices, except `auto`, by the path of the field in this object."""
        refs = {"text_encoders": self.text_encoders}
        if self.advanced is not None:
            refs |= {"advanced.transformer": self.advanced.transformer, "advanced.vae": self.advanced.vae}
            refs |= {f"advanced.{name}": ref for name, ref in self.advanced.components.items()}
        return {path: ref for path, ref in refs.items() if ref.kind != "auto"}
