"""Addresses in every usual spelling mean the same host and port."""

from __future__ import annotations

import pytest

from mold_core.addresses import authority, canonical_host, listen_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("::1", ("::1", None)),
        ("[::1]", ("::1", None)),
        (" [::1]:7680 ", ("::1", 7680)),
        ("http://[::1]:7680", ("::1", 7680)),
        ("HTTP://[::1]:7680/", ("::1", 7680)),
        ("0:0:0:0:0:0:0:1", ("::1", None)),
        ("::", ("::", None)),
        ("[::]:80", ("::", 80)),
        ("FE80::1%eth0", ("fe80::1%eth0", None)),
        ("[fe80::1%25eth0]:90", ("fe80::1%eth0", 90)),
        ("::1:7680", ("::1:7680", None)),  # which is an address, and has no port
        ("0.0.0.0", ("0.0.0.0", None)),
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("http://localhost", ("localhost", None)),
        ("gpu-box:80", ("gpu-box", 80)),
    ],
)
def test_an_address_to_listen_on(text: str, address: tuple[str, int | None]) -> None:
    assert listen_address(text) == address


@pytest.mark.parametrize(
    "text",
    ["https://[::1]", "http://", "[::1", "::1]", "[::1]:x", "[::1]:99999", "a/b", "me@host", "http://host/below"],
)
def test_what_is_no_address_to_listen_on(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        listen_address(text)


def test_a_host_stands_in_a_url_as_it_can_be_called() -> None:
    hosts = ["::", "0.0.0.0", "", "::1", "[::1]", "fe80::1%eth0", "gpu-box"]
    assert [authority(host, 80) for host in hosts] == [
        "[::1]:80",
        "127.0.0.1:80",
        "127.0.0.1:80",
        "[::1]:80",
        "[::1]:80",
        "[fe80::1%eth0]:80",
        "gpu-box:80",
    ]
    assert canonical_host("GPU-Box") == "GPU-Box"
