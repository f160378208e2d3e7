"""What recognition found out about a file or folder: values only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs

__all__ = ["Network", "Recognised"]


@attrs.frozen(kw_only=True)
class Network:
    """A network of a file. `signature` is the name of what it matched, empty for what nothing matched.

    `family` is the family of mold that runs it and `component` its component there, for signatures of plugins.
    `details` are facts in words, such as the rank of a LoRA.
    """

    title: str
    kind: str
    format: str
    size_bytes: int
    tensors: int
    signature: str = ""
    family: str | None = None
    component: str | None = None
    details: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Recognised:
    """What a file is. A file has one network, or several if it holds a whole model; or none and a `problem`.

    `paths` are its files: several for weights in shards. `metadata` are a few entries of its header that people want
    to know, such as the licence.
    """

    paths: tuple[str, ...]
    size_bytes: int
    container: str = ""
    networks: tuple[Network, ...] = ()
    problem: str | None = None
    metadata: dict[str, Any] = attrs.Factory(dict)

    @property
    def path(self) -> Path:
        """The first file."""
        return Path(self.paths[0])

    @property
    def main(self) -> Network | None:
        """The network that the file is called by: that of a family, else the largest; None if it has none."""
        if not self.networks:
            return None
        return max(self.networks, key=lambda network: (network.kind in _GENERATORS, network.size_bytes))

    @property
    def known(self) -> bool:
        """Whether any of its networks matched a signature or was told by its layers."""
        return any(network.signature for network in self.networks)

    @property
    def title(self) -> str:
        """One line that says what the file is."""
        network = self.main
        if network is None:
            return self.problem or "unknown"
        others = len(self.networks) - 1
        name = network.title if network.kind in network.title else f"{network.title} {network.kind}"
        if network.kind == "LoRA":
            name = f"LoRA for {network.title}"
        whole = f", all in one with {_listed(self, network)}" if others else ""
        return f"{name}{whole}, {network.format}"


# Networks that draw. Of a file with several networks, this one gives the name.
_GENERATORS = ("transformer", "U-Net")


def _listed(recognised: Recognised, main: Network) -> str:
    kinds = [network.kind for network in recognised.networks if network is not main]
    return " and ".join(
        f"{kinds.count(kind)} {kind}s" if kinds.count(kind) > 1 else kind for kind in dict.fromkeys(kinds)
    )
