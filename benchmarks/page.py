"""First paint of the web page: Chromium's first contentful paint, against a page of one line.

    python benchmarks/page.py

A server with an empty gallery and one with a line of HTML are visited in turn, each time with an empty cache. Bytes are
counted as transferred.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from typing import Any

from common import report
from http_api import HELLO, free_port, mold, running

LINE = HELLO.replace('resp.media = {"hello": "world"}', 'resp.content_type, resp.text = "text/html", "<p>hello"')

# What Chromium is asked once a page has painted; entries come a moment after the paint.
PAINTED = """() => new Promise(done => new PerformanceObserver(list => {
    for (const entry of list.getEntriesByName("first-contentful-paint")) done(entry.startTime)
}).observe({type: "paint", buffered: true}))"""
BYTES = """() => [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
    .reduce((sum, entry) => sum + entry.transferSize, 0)"""


def chromium(driver: Any) -> Any:
    """Return a running Chromium: the one on the PATH, else Playwright's own."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    return driver.chromium.launch(executable_path=found, args=["--no-sandbox"])


def visit(browser: Any, url: str) -> tuple[float, int]:
    """Return the milliseconds to the first paint of a page, and the bytes that the whole of it took."""
    context = browser.new_context()
    try:
        page = context.new_page()
        page.goto(url, wait_until="load")
        painted = float(page.evaluate(PAINTED))
        page.wait_for_timeout(200)  # the scripts ask for what they show
        return painted, int(page.evaluate(BYTES))
    finally:
        context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--visits", type=int, default=20)
    arguments = parser.parse_args()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        print("not measured: playwright is not installed")
        return
    ours, theirs = free_port(), free_port()
    with tempfile.TemporaryDirectory() as home, sync_playwright() as driver:
        command, environment = mold(home, ours)
        line = [sys.executable, "-c", LINE.replace("/api/status", "/"), str(theirs)]
        with running(command, ours, env=environment), running(line, theirs):
            browser = chromium(driver)
            urls = f"http://127.0.0.1:{ours}/", f"http://127.0.0.1:{theirs}/"
            rows = [[visit(browser, url) for url in urls] for _ in range(arguments.visits + 1)][1:]
            browser.close()
    page, bare = (statistics.median(painted for painted, _ in found) for found in zip(*rows, strict=True))
    size = max(size for (_, size), _ in rows)
    print(f"first paint: {page:.0f} ms, a page of one line: {bare:.0f} ms   ratio {page / bare:.1f}   "
          f"({arguments.visits} visits each, medians)")  # fmt: skip
    report("bytes of the page", size / 1000, 150, "kB", better="lower")
    report("first paint of the page", page, 200, "ms", better="lower")


if __name__ == "__main__":
    main()
