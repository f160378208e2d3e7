"""The results of recognition, as values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs

__all__ = ["Network", "Recognised"]


@attrs.frozen(kw_only=True)
class Network:
    """A network of a file. `signature` is the name of the signature that it matches, empty if none does.

    `family` is mold's family that runs it, and `component` its component there, for signatures of plugins. `details`
    are readable facts, such as the rank of a LoRA.
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
    """A recognised file. It has one network, several if it is a whole model, or none and a `problem`.

    `paths` are its files, several for shards. `metadata` are some informative entries of its header, such as the
    licence.
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
        """The network that names the file: one of a family, else the largest; None if there is none."""
        if not self.networks:
            return None
        return max(self.networks, key=lambda network: (network.kind in _GENERATORS, network.size_bytes))

    @property
    def known(self) -> bool:
        """Whether a network matches a signature or was recognised by its layers."""
        return any(network.signature for network in self.networks)

    @property
    def title(self) -> str:
        """A one-line description of the file."""
        network = self.main
        if network is None:
            return self.problem or "unknown"
        others = len(self.networks) - 1
        name = network.title if network.kind in network.title else f"{network.title} {network.kind}"
        if network.kind == "LoRA":
            name = f"LoRA for {network.title}"
        whole = f", all in one with {_listed(self, network)}" if others else ""
        return f"{name}{whole}, {network.format}"


# Networks that generate images. In a file with several networks, they give the name.
_GENERATORS = ("transformer", "U-Net")


def _listed(recognised: Recognised, main: Network) -> str:
    kinds = [network.kind for network in recognised.networks if network is not main]
    return " and ".join(
        f"{kinds.count(kind)} {kind}s" if kinds.count(kind) > 1 else kind for kind in dict.fromkeys(kinds)
    )
