"""Latency of a gallery with 100,000 results: a page of 50, and searches.

Rows are written as by reconciling. Their prompts are training captions of flux-nano: some words occur in most of them,
others in one of thousands. The same rows are also searched with LIKE, the obvious alternative.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from time import perf_counter

from common import report

from mold_core.gallery import Gallery
from mold_core.gallery import rows as gallery_rows
from mold_core.gallery.folder import Found
from mold_core.media import OutputMetadata

sys.path.insert(0, str(Path(__file__).parents[1] / "plugins" / "mold_nano" / "training"))

from captions import caption
from scenes import random_scene

PAGE_AIM_MS, SEARCH_AIM_MS = 10.0, 50.0
PAGE = 50
SEARCHES = (
    "red house",  # hundreds of results
    "a",  # nearly all of them: the beginning of a word
    "crescent moon over sea",
    '"three orange boats"',
    "qxzv nothing has this",
    "flux-nano night castle island",
)


def filled(folder: Path, count: int) -> Gallery:
    """Return a gallery with rows for `count` images whose files are not looked at."""
    gallery = Gallery(folder / "output", folder / "gallery.db")
    (folder / "output").mkdir()
    rng = Random(1)
    start_ns = 1_700_000_000 * 10**9
    with gallery._database.write() as connection:
        for number in range(count):
            metadata = OutputMetadata(
                prompt=caption(random_scene(rng), rng), model="flux-nano:bf16", seed=number, steps=4, guidance=0.0,
                width=128, height=128, version="1.0",
            )  # fmt: skip
            found = Found(
                folder=gallery.folders[0],
                filename=f"mold-flux-nano-bf16-{1_700_000_000_000 + 60_000 * number}.png",
                modified_ns=start_ns + 60 * 10**9 * number,
                size_bytes=4000 + number % 999,
            )
            gallery_rows.insert(connection, found, metadata, False)
    return gallery


def milliseconds(function: Callable[[], object], times: int) -> list[float]:
    taken = []
    for _ in range(times):
        started = perf_counter()
        function()
        taken.append(1000 * (perf_counter() - started))
    return taken


def show(what: str, taken: Sequence[float]) -> float:
    """Print median and worst; return the median."""
    print(f"{what:44} median {statistics.median(taken):7.2f} ms   worst {max(taken):7.2f} ms")
    return statistics.median(taken)


def main() -> None:
    """Measure and print; the last line is the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=15)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        started = perf_counter()
        gallery = filled(Path(name), arguments.entries)
        size = (Path(name) / "gallery.db").stat().st_size
        print(f"{arguments.entries:,} rows written in {perf_counter() - started:.1f} s, {size / 1e6:.0f} MB")
        entries = gallery.list().entries
        middle = str(entries[len(entries) // 2].key)
        pages = [
            show("first page of 50", milliseconds(lambda: gallery.list(limit=PAGE), arguments.times)),
            show("page of 50 from the middle", milliseconds(lambda: gallery.list(None, PAGE, middle), arguments.times)),
        ]
        searches = []
        for text in SEARCHES:
            found = len(gallery.list(text).entries)
            taken = milliseconds(lambda text=text: gallery.list(text, PAGE), arguments.times)
            searches.append(show(f"{text!r}: 50 of {found:,}", taken))
        with sqlite3.connect(Path(name) / "gallery.db") as connection:
            like = "SELECT * FROM entries WHERE prompts LIKE ? AND prompts LIKE ? ORDER BY key DESC LIMIT 50"
            query = lambda: connection.execute(like, ("%qxzv%", "%house%")).fetchall()  # noqa: E731
            show("the alternative, LIKE, where nothing matches", milliseconds(query, arguments.times))
        connection.close()
        gallery.close()
    print(f"slowest page {max(pages):.2f} ms (aim {PAGE_AIM_MS:g}), slowest search {max(searches):.2f} ms (medians)")
    worst = max(max(pages) / PAGE_AIM_MS, max(searches) / SEARCH_AIM_MS)
    report("gallery", worst, 1.0, "share of the time allowed: 10 ms a page, 50 ms a search", better="lower")


if __name__ == "__main__":
    main()
