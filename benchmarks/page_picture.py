"""
Take the picture of a page that the documentation shows, by a Chromium without a window.

    python benchmarks/page_picture.py --page output/demo/synthetic/report.html --at s0 --output docs/images/review.png \
      --chromium /usr/bin/chromium
    python benchmarks/page_picture.py --page output/demo/synthetic/views/synthetic-0501.html --size 1200 620 \
      --wait_for '#state[data-mm]' --output docs/images/viewer.png --chromium /usr/bin/chromium
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bundle")]

from benchmarks.browser import chromium_page  # noqa: E402
from benchmarks.small_picture import save_small  # noqa: E402

__all__ = ["page_picture"]


def page_picture(page: Path, anchor: str, size: tuple[int, int], chromium: str, wait_for: str = "body") -> Image.Image:
    """
    Open a page at one of its anchors.

    Args:
        page: the file.
        anchor: id of the element to show; empty for the top.
        size: width and height of the window in pixels.
        chromium: the program.
        wait_for: CSS selector of what has to be there first.
    """
    with chromium_page(chromium, viewport={"width": size[0], "height": size[1]}, color_scheme="light") as opened:
        opened.goto(f"{page.resolve().as_uri()}#{anchor}")
        opened.wait_for_selector(wait_for)
        opened.wait_for_timeout(1000)  # pictures come as they are seen
        taken = opened.screenshot()
    return Image.open(io.BytesIO(taken))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--page", type=Path, required=True, help="page to open")
    parser.add_argument("--at", default="", help="id of the element to show; the top without it")
    parser.add_argument("--wait_for", default="body", help="CSS selector of what has to be there first")
    parser.add_argument("--size", type=int, nargs=2, default=[1200, 900], help="pixels of the window")
    parser.add_argument("--output", type=Path, required=True, help="PNG to write")
    parser.add_argument("--chromium", required=True, help="the program")
    options = parser.parse_args(arguments)
    picture = page_picture(options.page, options.at, tuple(options.size), options.chromium, options.wait_for)
    save_small(picture, options.output)


if __name__ == "__main__":
    main()
