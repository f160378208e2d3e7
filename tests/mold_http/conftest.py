"""Servers that tests share: one as it comes, and one with everything switched on that refuses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from http_server import Server, serving


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the default settings, its worker in a process of its own."""
    with serving(tmp_path_factory.mktemp("server") / "home", MOLD_EXECUTOR="process") as running:
        yield running


@pytest.fixture(scope="session")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with three keys, a site that may use it, and a short patience."""
    folder = tmp_path_factory.mktemp("keyed")
    (folder / "keys.txt").write_text("# who may\nfirst-key\n\n  schlüssel  \nthird\n", "utf-8")
    with serving(
        folder / "home",
        MOLD_API_KEY=f"@{folder / 'keys.txt'}",
        MOLD_CORS_ORIGIN="https://app.example",
        MOLD_REQUEST_TIMEOUT_S="1",
        MOLD_ALLOWED_HOSTS="mold.example",
        MOLD_LOG="info",
        MOLD_LOG_FORMAT="json",
    ) as running:
        yield running
