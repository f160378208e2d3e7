"""GET /api/capabilities: what this server supports, for clients that adapt to it."""

from __future__ import annotations

import attrs
import falcon.asgi

from mold_core.parameters import describe
from mold_core.placement.device_map import gpu_number
from mold_core.requests.formats import possible_formats
from mold_core.wire import ParameterInfo
from mold_core.wire.fields import wire_field
from mold_http.guard.hosts import is_loopback
from mold_http.responses import JSON, respond_json
from mold_http.routes.route import ResponseSpec, Route
from mold_http.service import Service

__all__ = ["ROUTES", "Capabilities", "FamilyInfo", "GalleryCapabilities", "may_delete"]


@attrs.frozen(kw_only=True)
class GalleryCapabilities:
    """Permissions for the gallery."""

    enabled: bool = wire_field("Whether results are saved.")
    can_delete: bool = wire_field("Whether this client may delete them.")


@attrs.frozen(kw_only=True)
class FamilyInfo:
    """A model family, with everything a form needs."""

    name: str = wire_field("Name of the family.")
    title: str = wire_field("Display name.")
    capabilities: tuple[str, ...] = wire_field("Capabilities of the family.")
    parameters: tuple[ParameterInfo, ...] = wire_field(
        "Parameters that it accepts: shared ones, and those it declares."
    )
    output_formats: tuple[str, ...] = wire_field("File formats of its results, the default first.")
    size_multiple: int = wire_field("Width and height are multiples of this.")
    max_pixels: int = wire_field("Maximum number of pixels.")
    recommended_sizes: tuple[str, ...] = wire_field("Recommended sizes, as WIDTHxHEIGHT.")
    places: tuple[str, ...] = wire_field(
        "Components that can be placed on devices; empty: a model is placed as a whole."
    )


@attrs.frozen(kw_only=True)
class Capabilities:
    """What this server supports."""

    gallery: GalleryCapabilities = wire_field("The gallery.")
    families: tuple[FamilyInfo, ...] = wire_field("The installed model families.")
    chains: bool = wire_field("Whether any family supports chains.")
    devices: tuple[str, ...] = wire_field("Devices for placing components: cpu, gpu:0, …")


def may_delete(service: Service, req: falcon.asgi.Request) -> bool:
    """Return whether the client may delete results: with a key, on this machine, or if a setting allows it."""
    return service.keys.required or service.settings.gallery_allow_delete or is_loopback(req.remote_addr)


async def capabilities(service: Service, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
    """Respond with Capabilities."""
    plugins = service.engine.plugins
    respond_json(
        resp,
        Capabilities(
            gallery=GalleryCapabilities(enabled=service.gallery is not None, can_delete=may_delete(service, req)),
            families=tuple(
                FamilyInfo(
                    name=family.name,
                    title=family.title,
                    capabilities=tuple(sorted(family.capabilities)),
                    parameters=describe(family.parameters),
                    output_formats=possible_formats(family),
                    size_multiple=family.sizes.multiple,
                    max_pixels=family.sizes.max_pixels,
                    recommended_sizes=tuple(f"{width}x{height}" for width, height in family.sizes.recommended),
                    places=family.placement_components,
                )
                for family in plugins.families.values()
            ),
            chains=bool(plugins.chain_renderers),
            devices=_devices(service),
        ),
    )


def _devices(service: Service) -> tuple[str, ...]:
    numbers = (gpu_number(device.device) for device in service.engine.devices())
    return ("cpu", *(f"gpu:{number}" for number in numbers if number is not None))


ROUTES = (
    Route(
        method="GET",
        path="/api/capabilities",
        name="capabilities",
        summary="Capabilities of this server",
        handler=capabilities,
        tag="server",
        responses=(ResponseSpec(doc="Gallery, families and their parameters.", content={JSON: Capabilities}),),
        example="curl localhost:7680/api/capabilities",
    ),
)
