"""Components of models that people can place on a device of their own, and the setting that each of them has."""

from __future__ import annotations

import attrs

from mold_core.settings.row import Setting

__all__ = ["SHARED_COMPONENTS", "PlacementComponent"]

# The components that every family may have. `Settings` declares their settings, `DevicePlacement` their fields.
SHARED_COMPONENTS = ("text_encoders", "transformer", "vae")


@attrs.frozen(kw_only=True)
class PlacementComponent:
    """A component of models that has a device of its own.

    It gets the setting ``device_NAME`` with the variable MOLD_PLACE_NAME and the key ``placement.NAME``, the flag
    ``--device-NAME`` and the field ``advanced.NAME`` of placements. `title` names it in help texts, such as "the second
    text encoder". A component of a `group`, such as "text_encoders", is placed with it unless it is placed itself.
    """

    name: str
    title: str
    group: str | None = None

    @property
    def setting(self) -> Setting:
        """The setting of its device."""
        before = "" if self.group is None else f", before that of all {self.group.replace('_', ' ')}"
        return Setting(
            name=f"device_{self.name}",
            env=f"MOLD_PLACE_{self.name.upper()}",
            key=f"placement.{self.name}",
            default="auto",
            doc=f"Device of {self.title}{before}.",
            flag=f"Device of {self.title}: cpu, cuda, cuda:1 …",
        )
