"""The request for a model's files, and its answer."""

from __future__ import annotations

import attrs

from mold_core.wire.fields import wire_field
from mold_core.wire.request import Request

__all__ = ["PullRequest", "PullResponse"]


@attrs.frozen(kw_only=True)
class PullRequest(Request["PullResponse"]):
    """A model whose files shall be fetched."""

    model: str = wire_field("Model name, with or without its tag.", not_blank=True, max_length=200)
    skip_verify: bool = wire_field("Do not compare files with the catalog's sizes and checksums.", default=False)


@attrs.frozen(kw_only=True)
class PullResponse:
    """The model is here."""

    model: str = wire_field("Full name of the model.")
    size_bytes: int = wire_field("Size of all its files in bytes.")
