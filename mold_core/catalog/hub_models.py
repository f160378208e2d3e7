"""Models of the hub that are in no catalog: ``hf:ORG/REPO[:FILE]`` and the hub's addresses → files to fetch."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import attrs

from mold_core.catalog.hub import Hub
from mold_core.catalog.model import ModelFile, ModelSpec
from mold_core.catalog.space import in_words
from mold_core.errors import DownloadError, ValidationError

__all__ = ["HubSource", "Repository", "files_to_fetch", "hub_model", "is_hub_source", "parse_source", "read_repository"]

_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_WEIGHTS = (".safetensors", ".sft", ".gguf")
_PICKLES = (".ckpt", ".pt", ".pth", ".bin")
_SHARD = re.compile(r"-\d{5}-of-\d{5}(?=\.\w+$)")
_VARIANT = re.compile(r"\.(fp16|bf16|fp32|non_ema|ema)(?=[.-])")
_LARGEST_TEXT_BYTES = 50_000_000
_MOST_LISTED = 12


@attrs.frozen
class HubSource:
    """A repository of the hub, and the file of it that was named: a path, a name or a pattern; empty for none."""

    repo: str
    file: str = ""


@attrs.frozen
class RepositoryFile:
    """A file of a repository, as the hub lists it."""

    path: str
    size_bytes: int
    sha256: str | None = None


@attrs.frozen(kw_only=True)
class Repository:
    """What the hub says about a repository. `licence` is empty if it states none."""

    repo: str
    files: tuple[RepositoryFile, ...]
    licence: str = ""
    gated: bool = False


def is_hub_source(text: str) -> bool:
    """Return whether a text names something on the hub and not a model of the catalog."""
    return text.startswith(("hf:", "https://", "http://"))


def parse_source(text: str, endpoint: str = "") -> HubSource:
    """Return what ``hf:ORG/REPO[:FILE]`` or an address of the hub names. Raises ValidationError.

    `endpoint` is a hub whose addresses are taken besides those of huggingface.co.
    """
    if text.startswith("hf:"):
        repo, _, file = text.removeprefix("hf:").partition(":")
        if repo.count("/") > 1 and not file:
            org, name, file = repo.split("/", 2)
            repo = f"{org}/{name}"
    else:
        repo, file = _from_address(text, endpoint)
    if not _REPO.fullmatch(repo) or ".." in PurePosixPath(file).parts:
        raise ValidationError(
            f"{text!r} names no repository of the hub", field="model", value=text, hint="write hf:ORG/REPO[:FILE]"
        )
    return HubSource(repo, file)


def _from_address(text: str, endpoint: str) -> tuple[str, str]:
    known = {"huggingface.co", "www.huggingface.co", "hf.co", urlsplit(endpoint).netloc} - {""}
    try:
        address = urlsplit(text)
        host, parts = address.netloc, [part for part in unquote(address.path).split("/") if part]
    except ValueError:  # brackets that hold no IPv6 address
        host, parts = "", []
    if host not in known or len(parts) < 2 or parts[0] in ("datasets", "spaces"):
        raise ValidationError(
            f"{text!r} is no address of a model on the hub",
            field="model",
            value=text,
            hint="download the file yourself, then: mold adopt FILE",
        )
    repo, rest = "/".join(parts[:2]), parts[2:]
    if len(rest) > 1 and rest[0] in ("resolve", "blob", "tree", "raw"):
        if rest[1] != "main":
            raise ValidationError(
                f"only the branch main of a repository is fetched, not {rest[1]!r}", field="model", value=text
            )
        return repo, "/".join(rest[2:]) + ("/*" if rest[0] == "tree" and rest[2:] else "")
    return repo, ""


def read_repository(hub: Hub, repo: str) -> Repository:
    """Return the files and the licence of a repository. Raises DownloadError, or ConnectionLost."""
    about = hub.describe(repo)
    card = about.get("cardData")
    card = card if isinstance(card, dict) else {}
    tags = [tag for tag in _listed(about.get("tags")) if isinstance(tag, str) and tag.startswith("license:")]
    licence = card.get("license_name") or card.get("license") or (tags[0].partition(":")[2] if tags else "")
    return Repository(
        repo=repo,
        files=tuple(filter(None, map(_file, _listed(about.get("siblings"))))),
        licence=" or ".join(map(str, licence)) if isinstance(licence, list) else str(licence)[:200],
        gated=about.get("gated") not in (None, False),
    )


def files_to_fetch(repository: Repository, wanted: str) -> tuple[RepositoryFile, ...]:
    """Return the files that a source means: those named, the only weights, or all of a diffusers folder.

    Raises DownloadError that lists the choices if there are several.
    """
    weights = [file for file in repository.files if file.path.lower().endswith(_WEIGHTS)]
    if wanted:
        return _named(repository, wanted)
    if any(file.path == "model_index.json" for file in repository.files):
        return _pipeline(repository, weights)
    groups = _grouped(weights)
    if len(groups) == 1:
        return tuple(next(iter(groups.values())))
    if not groups:
        pickles = any(file.path.lower().endswith(_PICKLES) for file in repository.files)
        why = ": its weights are pickle files, which can run code when they are loaded" if pickles else ""
        raise DownloadError(f"{repository.repo} has no safetensors or GGUF files{why}", value=repository.repo)
    raise DownloadError(
        f"{repository.repo} has {len(groups)} models: {_choices(groups)}",
        value=repository.repo,
        hint=f"name one: mold pull hf:{repository.repo}:FILE",
    )


def hub_model(repository: Repository, files: Iterable[RepositoryFile]) -> ModelSpec:
    """Return a model of no family with files of a repository, which go below ``hf-ORG`` in the models folder."""
    return ModelSpec(
        name=f"hf:{repository.repo}",
        family="",
        licence=repository.licence or "not stated",
        files=tuple(
            ModelFile(
                component="file",
                path=f"hf-{repository.repo}/{file.path}",
                repo=repository.repo,
                filename=file.path,
                size_bytes=file.size_bytes or None,
                sha256=file.sha256,
                gated=repository.gated,
            )
            for file in files
        ),
    )


def _named(repository: Repository, wanted: str) -> tuple[RepositoryFile, ...]:
    """Return the files of a path, a name or a pattern, each with the other shards of its weights."""
    found = [
        file
        for file in repository.files
        if file.path == wanted or PurePosixPath(file.path).name == wanted or fnmatchcase(file.path, wanted)
    ]
    if not found:
        groups = _grouped(file for file in repository.files if file.path.lower().endswith(_WEIGHTS))
        raise DownloadError(
            f"{repository.repo} has no file {wanted}", value=wanted, hint=f"it has {_choices(groups) or 'no weights'}"
        )
    stems = {_SHARD.sub("", file.path) for file in found if _SHARD.search(file.path)}
    return tuple(file for file in repository.files if file in found or _SHARD.sub("", file.path) in stems)


def _pipeline(repository: Repository, weights: list[RepositoryFile]) -> tuple[RepositoryFile, ...]:
    """Return the weights in the folders of a diffusers pipeline, one variant of each, and its small text files."""
    parts = [file for file in weights if "/" in file.path]
    plain = {_VARIANT.sub("", file.path) for file in parts if not _VARIANT.search(file.path)}
    chosen = [file for file in parts if not _VARIANT.search(file.path) or _VARIANT.sub("", file.path) not in plain]
    texts = [
        file
        for file in repository.files
        if file.path.endswith((".json", ".txt", ".model")) and file.size_bytes <= _LARGEST_TEXT_BYTES
    ]
    return (*chosen, *texts)


def _grouped(files: Iterable[RepositoryFile]) -> Mapping[str, list[RepositoryFile]]:
    """Return weights by name, the shards of one set together."""
    groups: dict[str, list[RepositoryFile]] = defaultdict(list)
    for file in files:
        groups[_SHARD.sub("", file.path)].append(file)
    return groups


def _choices(groups: Mapping[str, list[RepositoryFile]]) -> str:
    shown = [f"{name} ({in_words(sum(file.size_bytes for file in files))})" for name, files in groups.items()]
    more = f" and {len(shown) - _MOST_LISTED} more" if len(shown) > _MOST_LISTED else ""
    return ", ".join(shown[:_MOST_LISTED]) + more


def _file(entry: Any) -> RepositoryFile | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("rfilename"), str):
        return None
    stored = entry.get("lfs")
    stored = stored if isinstance(stored, dict) else {}
    size, sha256 = stored.get("size", entry.get("size")), stored.get("sha256")
    return RepositoryFile(
        path=entry["rfilename"],
        size_bytes=size if isinstance(size, int) and size >= 0 else 0,
        sha256=sha256 if isinstance(sha256, str) and re.fullmatch(r"[0-9a-f]{64}", sha256) else None,
    )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
