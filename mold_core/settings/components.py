"""Components of models that can be placed on a separate device, and the setting of each of them."""

from __future__ import annotations

import attrs

from mold_core.settings.row import Setting

__all__ = ["SHARED_COMPONENTS", "PlacementComponent"]

# Components that any family may have. `Settings` declares their settings, `DevicePlacement` their fields.
SHARED_COMPONENTS = ("text_encoders", "transformer", "vae")


@attrs.frozen(kw_only=True)
class PlacementComponent:
    """A component of models that can be placed on a separate device.

    It gets the setting ``device_NAME`` with the variable MOLD_PLACE_NAME and the key ``placement.NAME``, the flag
    ``--device-NAME`` and the field ``advanced.NAME`` of placements. `title` names it in help texts, for example "the
    second text encoder". A component of a `group`, such as "text_encoders", is placed with the group unless it has a
    placement of its own.
    """

    name: str
    title: str
    group: str | None = None

    @property
    def setting(self) -> Setting:
        """The setting of its device."""
        override = "" if self.group is None else f"; overrides the device of all {self.group.replace('_', ' ')}"
        return Setting(
            name=f"device_{self.name}",
            env=f"MOLD_PLACE_{self.name.upper()}",
            key=f"placement.{self.name}",
            default="auto",
            doc=f"Device of {self.title}{override}.",
            flag=f"Device of {self.title}: cpu, cuda, cuda:1 …",
        )
