"""
Measure a page to scroll through a scan: its size, how long it takes to write, and to open in a browser.

    python benchmarks/viewer_page.py --output_dir output/demo/synthetic --scan synthetic-0501 \\
      --chromium /usr/bin/chromium

The scan is one of a run that is there. The times to draw, from the address, and to change the HU that are black and
white are those of a browser without a window, which draws by the CPU alone; without --chromium they are left out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bundle")]

from benchmarks.browser import chromium_page  # noqa: E402
from scripts.commands.view import write_views  # noqa: E402
from scripts.files.atomic_write import write_json  # noqa: E402

__all__ = ["seconds_in_browser"]

_MOST_SECONDS = 300


def seconds_in_browser(path: Path, chromium: str) -> dict[str, float]:
    """Open a page, and choose another window; return the seconds until each is drawn."""
    with chromium_page(chromium) as page:
        start = time.perf_counter()
        page.goto(path.resolve().as_uri())
        page.wait_for_selector("#state[data-mm]", timeout=_MOST_SECONDS * 1000)
        page.screenshot()
        opened = time.perf_counter()
        page.keyboard.press("l")
        page.screenshot()
        return {"seconds_to_draw": opened - start, "seconds_to_change_window": time.perf_counter() - opened}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of a prediction or an evaluation")
    parser.add_argument("--scan", required=True, help="name of a scan")
    parser.add_argument("--chromium", help="the program; without it the page is not opened")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    (page,) = write_views(options.output_dir, [options.scan])
    figures = {"seconds_to_write": time.perf_counter() - start, "megabytes": page.stat().st_size / 1e6}
    if options.chromium:
        figures |= seconds_in_browser(page, options.chromium)
    if options.json:
        write_json(options.json, figures)
    print("\n".join(f"{name:<26}{value:.2f}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
