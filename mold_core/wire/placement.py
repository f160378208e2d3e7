"""Where the parts of a model are to be: the word of a request or of config.toml, on devices by their number."""

from __future__ import annotations

from typing import Literal

import attrs

from mold_core.wire.fields import wire_field

__all__ = ["AdvancedPlacement", "DevicePlacement", "DeviceRef"]


@attrs.frozen(kw_only=True)
class DeviceRef:
    """A device, or `auto`: mold's choice."""

    kind: Literal["auto", "cpu", "gpu"] = wire_field("auto, cpu, or gpu with its `ordinal`.")
    ordinal: int | None = wire_field("Number of the GPU, with kind gpu.", default=None, minimum=0, maximum=1023)

    @property
    def word(self) -> str:
        """The device in one word: ``auto``, ``cpu``, ``gpu:1``."""
        return self.kind if self.kind != "gpu" else f"gpu:{self.ordinal}"


_AUTO = DeviceRef(kind="auto")


@attrs.frozen(kw_only=True)
class AdvancedPlacement:
    """Devices of single parts. A text encoder named here goes before `text_encoders`."""

    transformer: DeviceRef = wire_field("The transformer.", default=_AUTO)
    vae: DeviceRef = wire_field("The autoencoder.", default=_AUTO)
    clip_l: DeviceRef | None = wire_field("The text encoder CLIP-L.", default=None)
    clip_g: DeviceRef | None = wire_field("The text encoder CLIP-G.", default=None)
    t5: DeviceRef | None = wire_field("The text encoder T5.", default=None)
    qwen: DeviceRef | None = wire_field("The text encoder Qwen.", default=None)


@attrs.frozen(kw_only=True)
class DevicePlacement:
    """On which devices the parts of a model are."""

    text_encoders: DeviceRef = wire_field("All text encoders.", default=_AUTO)
    advanced: AdvancedPlacement | None = wire_field("Single parts.", default=None)

    def named(self) -> dict[str, DeviceRef]:
        """Return what is said of parts, by their path in this object; `auto` says nothing."""
        refs = {"text_encoders": self.text_encoders}
        if self.advanced is not None:
            for field in attrs.fields(AdvancedPlacement):
                refs[f"advanced.{field.name}"] = getattr(self.advanced, field.name)
        return {path: ref for path, ref in refs.items() if ref is not None and ref.kind != "auto"}
