"""Request and response of downloading a model."""

from __future__ import annotations

import attrs

from mold_core.wire.fields import wire_field
from mold_core.wire.request import Request

__all__ = ["PullRequest", "PullResponse"]


@attrs.frozen(kw_only=True)
class PullRequest(Request["PullResponse"]):
    """A request to download the files of a model."""

    model: str = wire_field("Model name, with or without its tag.", not_blank=True, max_length=200)
    skip_verify: bool = wire_field("Skip the comparison with the catalog's sizes and checksums.", default=False)


@attrs.frozen(kw_only=True)
class PullResponse:
    """The model is downloaded."""

    model: str = wire_field("Full name of the model.")
    size_bytes: int = wire_field("Size of all files in bytes.")
