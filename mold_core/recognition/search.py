"""Search folders and recognise each file in them once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from mold_core.recognition.adopting import Found
from mold_core.recognition.cache import RecognitionCache
from mold_core.recognition.programs import Locations, locations_of
from mold_core.recognition.walk import WeightFiles, walk

__all__ = ["search"]


def search(
    folders: Iterable[str],
    cache: RecognitionCache,
    report: Callable[[int, str], object] = lambda count, path: None,
    note: Callable[[str], object] = lambda text: None,
) -> list[Found]:
    """Return the weights in folders, folders of programs, single files, or an extra_model_paths.yaml.

    A file that is reachable by several paths is found once. `report` receives the number of files so far and the next
    path, `note` receives messages for users. Raises ValidationError for an invalid YAML file.
    """
    found: list[Found] = []
    seen: set[str] = set()
    for folder in folders:
        locations = locations_of(Path(folder))
        for text in locations.notes:
            note(text)
        for weights in _weights(locations):
            real = os.path.realpath(weights.paths[0])
            if real in seen:
                continue
            seen.add(real)
            report(len(seen), str(weights.paths[0]))
            found.append(Found(cache.recognise(weights), _name(weights, locations), folder))
    return found


def _weights(locations: Locations) -> Iterator[WeightFiles]:
    for root in locations.roots:
        yield from walk(root)


def _name(weights: WeightFiles, locations: Locations) -> str:
    """Return the name of weights, from the program's database for the file or its folder if it is there."""
    path = weights.paths[0]
    for candidate in (path, *path.parents[:3]):
        if str(candidate) in locations.names:
            return locations.names[str(candidate)]
    return weights.name
